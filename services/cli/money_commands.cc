// gantry topup, usage, correct, margin: money in and tokens out.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/plan_file.h"
#include "services/cli/table.h"
#include "services/common/ids.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

constexpr uint32_t kUsageRowsDefault = 20;
constexpr uint32_t kPageRows = 1000;

struct MoneyOptions {
  std::string tenant, amount, reference, expires, period, idempotency_key;
  std::string request, reason, seller;
  uint64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  int32_t priority = 0;
  uint32_t limit = 0;
  bool json = false, promotional = false;
};

absl::StatusOr<int> TopUp(const MoneyOptions& options, const Invocation& invocation) {
  v1::TopUpRequest request;
  request.set_party_name(options.tenant);
  GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.amount));
  request.set_amount_micro(micro);
  request.set_reference(options.reference);
  request.set_promotional(options.promotional);
  request.set_priority(options.priority);
  if (!options.expires.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t expires, ParseTimeUtc(options.expires));
    request.set_expires_us(expires);
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Balance balance, client.CallOnce(&Admin::TopUp, request, options.idempotency_key));
  *invocation.out << "topped up " << options.tenant << " by " << FormatMicro(micro) << " " << balance.currency()
                  << "; balance " << FormatMicro(balance.posted_micro()) << ", available "
                  << FormatMicro(balance.available_micro()) << "\n";
  return 0;
}

const char* OutcomeName(v1::UsageOutcome outcome) {
  switch (outcome) {
    case v1::USAGE_OUTCOME_COMPLETED:
      return "completed";
    case v1::USAGE_OUTCOME_STOPPED:
      return "stopped";
    case v1::USAGE_OUTCOME_ABORTED:
      return "aborted";
    case v1::USAGE_OUTCOME_FAILED:
      return "failed";
    case v1::USAGE_OUTCOME_GATEWAY_LOST:
      return "gateway_lost";
    case v1::USAGE_OUTCOME_CORRECTION:
      return "correction";
    default:
      return "unknown";
  }
}

std::string RequestHex(const std::string& raw) {
  const absl::StatusOr<Id16> id = Id16::FromBytes(raw);
  return id.ok() ? id->ToHex() : "";
}

// [from, to) of a month, UTC. Empty: everything.
absl::Status SetRange(const std::string& period, v1::QueryUsageRequest* request) {
  if (period.empty()) return absl::OkStatus();
  absl::Time from;
  std::string problem;
  if (!absl::ParseTime("%Y-%m", period, absl::UTCTimeZone(), &from, &problem)) {
    return absl::InvalidArgumentError(
        absl::StrCat("period `", period, "` is not valid: expected YYYY-MM, for example 2026-07"));
  }
  absl::CivilMonth month = absl::ToCivilMonth(from, absl::UTCTimeZone());
  request->set_from_us(absl::ToUnixMicros(from));
  request->set_to_us(absl::ToUnixMicros(absl::FromCivil(month + 1, absl::UTCTimeZone())));
  return absl::OkStatus();
}

struct Usage {
  std::vector<v1::UsageRow> rows;  // newest first
  std::vector<v1::UsageTotals> totals;
  std::string currency;
  bool more = false;
};

// At most `limit` rows; 0: all.
absl::StatusOr<Usage> ReadUsage(const AdminClient& client, v1::QueryUsageRequest request, size_t limit) {
  Usage usage;
  do {
    request.set_page_size(limit == 0 ? kPageRows : std::min<uint32_t>(kPageRows, limit - usage.rows.size()));
    GANTRY_ASSIGN_OR_RETURN(const v1::QueryUsageResponse page, client.Call(&Admin::QueryUsage, request));
    usage.rows.insert(usage.rows.end(), page.rows().begin(), page.rows().end());
    usage.totals.assign(page.totals().begin(), page.totals().end());
    usage.currency = page.currency();
    request.set_page_token(page.next_page_token());
    usage.more = !page.next_page_token().empty();
  } while (usage.more && (limit == 0 || usage.rows.size() < limit));
  return usage;
}

nlohmann::ordered_json UsageJson(const std::string& tenant, const Usage& usage) {
  nlohmann::ordered_json out = {{"tenant", tenant},
                                {"currency", usage.currency},
                                {"rows", nlohmann::ordered_json::array()},
                                {"totals", nlohmann::ordered_json::array()}};
  for (const v1::UsageRow& row : usage.rows) {
    out["rows"].push_back({{"request_id", RequestHex(row.request_id())},
                           {"model", row.model()},
                           {"key", row.key_public_id()},
                           {"outcome", OutcomeName(row.outcome())},
                           {"prompt_tokens", row.prompt_tokens()},
                           {"cached_tokens", row.cached_tokens()},
                           {"output_tokens", row.output_tokens()},
                           {"reasoning_tokens", row.reasoning_tokens()},
                           {"amount", FormatPico(row.amount_pico())},
                           {"amount_pico", row.amount_pico()},
                           {"ended", FormatTimeJson(row.ended_us())},
                           {"witness_state", row.witness_state()},
                           {"recomputed_tokens", row.recomputed_tokens()},
                           {"drafted_tokens", row.drafted_tokens()},
                           {"accepted_tokens", row.accepted_tokens()},
                           {"duration_ms", row.duration_ms()},
                           {"first_token_ms", row.first_token_ms()},
                           {"device_ms", row.device_ms()},
                           {"joules", row.joules()}});
  }
  for (const v1::UsageTotals& totals : usage.totals) {
    out["totals"].push_back({{"model", totals.model()},
                             {"requests", totals.requests()},
                             {"prompt_tokens", totals.prompt_tokens()},
                             {"cached_tokens", totals.cached_tokens()},
                             {"output_tokens", totals.output_tokens()},
                             {"amount", FormatPico(totals.amount_pico())},
                             {"amount_pico", totals.amount_pico()},
                             {"device_ms", totals.device_ms()},
                             {"joules", totals.joules()}});
  }
  return out;
}

constexpr double kJoulesPerWattHour = 3600;

int64_t Signed(uint64_t count) {
  return static_cast<int64_t>(count);
}

std::string UsageText(const Usage& usage) {
  Table rows({"ENDED (UTC)", "REQUEST", "MODEL", "OUTCOME", ">PROMPT", ">CACHED", ">OUTPUT",
              absl::StrCat(">AMOUNT ", usage.currency), "WITNESSES"});
  for (const v1::UsageRow& row : usage.rows) {
    rows.Add({FormatTime(row.ended_us()), RequestHex(row.request_id()), row.model(), OutcomeName(row.outcome()),
              WithSeparators(row.prompt_tokens()), WithSeparators(row.cached_tokens()),
              WithSeparators(row.output_tokens()), FormatPico(row.amount_pico()), row.witness_state()});
  }
  std::string out = rows.Render();
  if (usage.more) absl::StrAppend(&out, "… older rows: --limit N, or --json for all\n");
  Table totals({"TOTAL", ">REQUESTS", ">PROMPT", ">CACHED", ">OUTPUT", absl::StrCat(">AMOUNT ", usage.currency),
                ">DEVICE s", ">ENERGY Wh"});
  for (const v1::UsageTotals& total : usage.totals) {
    totals.Add({total.model(), WithSeparators(Signed(total.requests())), WithSeparators(Signed(total.prompt_tokens())),
                WithSeparators(Signed(total.cached_tokens())), WithSeparators(Signed(total.output_tokens())),
                FormatPico(total.amount_pico()), absl::StrFormat("%.1f", total.device_ms() / 1e3),
                total.joules() > 0 ? absl::StrFormat("%.3f", total.joules() / kJoulesPerWattHour) : "-"});
  }
  absl::StrAppend(&out, "\n", totals.Render());
  return out;
}

absl::StatusOr<int> ShowUsage(const MoneyOptions& options, const Invocation& invocation) {
  v1::QueryUsageRequest request;
  request.set_party_name(options.tenant);
  GANTRY_RETURN_IF_ERROR(SetRange(options.period, &request));
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  const uint32_t limit = options.limit == 0 && !options.json ? kUsageRowsDefault : options.limit;
  GANTRY_ASSIGN_OR_RETURN(const Usage usage, ReadUsage(client, std::move(request), limit));
  if (options.json) {
    *invocation.out << UsageJson(options.tenant, usage).dump(2) << "\n";
  } else {
    *invocation.out << UsageText(usage);
  }
  return 0;
}

absl::StatusOr<int> Correct(const MoneyOptions& options, const Invocation& invocation) {
  v1::CorrectUsageRequest request;
  GANTRY_ASSIGN_OR_RETURN(const Id16 id, Id16::FromHex(options.request));
  request.set_request_id(id.ToBytes());
  request.set_prompt_tokens(options.prompt_tokens);
  request.set_cached_tokens(options.cached_tokens);
  request.set_output_tokens(options.output_tokens);
  request.set_reason(options.reason);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::UsageRow row,
                          client.CallOnce(&Admin::CorrectUsage, request, options.idempotency_key));
  *invocation.out << "corrected by prompt " << WithSeparators(row.prompt_tokens()) << ", cached "
                  << WithSeparators(row.cached_tokens()) << ", output " << WithSeparators(row.output_tokens())
                  << " tokens: " << (row.amount_pico() < 0 ? "-" : "")
                  << FormatPico(row.amount_pico() < 0 ? -row.amount_pico() : row.amount_pico())
                  << "; witnesses: " << row.witness_state() << "\n";
  return 0;
}

absl::StatusOr<int> ShowMargin(const MoneyOptions& options, const Invocation& invocation) {
  v1::MarginReportRequest request;
  request.set_seller_name(options.seller);
  request.set_period(options.period.empty() ? absl::FormatTime("%Y-%m", absl::Now(), absl::UTCTimeZone())
                                            : options.period);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::MarginReportResponse report, client.Call(&Admin::MarginReport, request));
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  Table table({"BUYER", "MODEL", ">REQUESTS", absl::StrCat(">SOLD ", report.currency()), ">BOUGHT", ">MARGIN"});
  const auto signed_pico = [](int64_t pico) { return (pico < 0 ? "-" : "") + FormatPico(pico < 0 ? -pico : pico); };
  for (const v1::MarginRow& row : report.rows()) {
    const int64_t margin = row.sold_pico() - row.bought_pico();
    list.push_back({{"buyer", row.buyer_name()},
                    {"model", row.model()},
                    {"requests", row.requests()},
                    {"sold_pico", row.sold_pico()},
                    {"bought_pico", row.bought_pico()},
                    {"margin_pico", margin},
                    {"currency", report.currency()}});
    table.Add({row.buyer_name(), row.model(), WithSeparators(Signed(row.requests())), signed_pico(row.sold_pico()),
               signed_pico(row.bought_pico()), signed_pico(margin)});
  }
  *invocation.out << (options.json ? list.dump(2) + "\n" : table.Render());
  return 0;
}

}  // namespace

void AddMoneyCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<MoneyOptions>();

  CLI::App* topup = AddCommand(app, invocation, "topup", "credit a tenant",
                               "gantry topup --tenant acme 25\n"
                               "gantry topup --tenant acme 12.50 --reference \"wire 2026-07-14\"",
                               [=, &invocation] { return TopUp(*options, invocation); });
  topup->add_option("--tenant", options->tenant, "who is credited")->required()->type_name("T");
  topup->add_option("AMOUNT", options->amount, "in the tenant's currency, at most 6 decimals")->required();
  topup->add_option("--reference", options->reference, "of the payment, at most 140 bytes")->type_name("TEXT");
  topup->add_flag("--promotional", options->promotional, "given, not paid");
  topup->add_option("--expires", options->expires, "what is left then is the seller's; UTC, default: never")
      ->type_name("TIME");
  topup->add_option("--priority", options->priority, "smaller ones are used first; default: 0")->type_name("N");
  AddIdempotencyKey(*topup, &options->idempotency_key);

  CLI::App* usage = AddCommand(app, invocation, "usage", "what a tenant has used, newest first",
                               "gantry usage --tenant acme\ngantry usage --tenant acme --period 2026-07 --json",
                               [=, &invocation] { return ShowUsage(*options, invocation); });
  usage->add_option("--tenant", options->tenant, "whose usage")->required()->type_name("T");
  usage->add_option("--period", options->period, "one month, YYYY-MM in UTC; default: all")->type_name("YYYY-MM");
  usage->add_option("--limit", options->limit, "rows at most; default: 20, with --json all")->type_name("N");
  usage->add_flag("--json", options->json, "as JSON");

  CLI::App* correct = AddCommand(
      app, invocation, "correct", "book what a request should have been charged for",
      "gantry correct 019ac1f2aa0170018b3c5de21f0a7b11 --prompt 1200 --output 300 --reason \"worker counted twice\"",
      [=, &invocation] { return Correct(*options, invocation); });
  correct->add_option("REQUEST", options->request, "its id, 32 hex digits, as `gantry usage` shows it")->required();
  correct->add_option("--prompt", options->prompt_tokens, "prompt tokens that are right, cached ones counted")
      ->required()
      ->type_name("N");
  correct->add_option("--cached", options->cached_tokens, "of them cached; default: 0")->type_name("N");
  correct->add_option("--output", options->output_tokens, "output tokens that are right")->required()->type_name("N");
  correct->add_option("--reason", options->reason, "stands in the audit log")->required()->type_name("TEXT");
  AddIdempotencyKey(*correct, &options->idempotency_key);

  CLI::App* margin = AddCommand(app, invocation, "margin", "what a seller took and paid for a month's usage",
                                "gantry margin\ngantry margin --seller reseller-1 --period 2026-07 --json",
                                [=, &invocation] { return ShowMargin(*options, invocation); });
  margin->add_option("--seller", options->seller, "house or reseller; default: the house")->type_name("S");
  margin->add_option("--period", options->period, "YYYY-MM; default: this month")->type_name("YYYY-MM");
  margin->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
