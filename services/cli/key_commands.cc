// gantry key …: the API keys of tenants.
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

struct KeyOptions {
  std::string tenant, label, budget, budget_period, overlap = "24h", public_id, idempotency_key;
  std::vector<std::string> models, cidrs;
  uint32_t requests_per_minute = 0, concurrency = 0, expires_days = 0;
  uint64_t tokens_per_minute = 0;
  bool quiet = false, json = false;
};

const std::map<std::string, v1::BudgetPeriod>& Periods() {
  static const auto* periods = new std::map<std::string, v1::BudgetPeriod>{
      {"day", v1::BUDGET_PERIOD_DAY}, {"month", v1::BUDGET_PERIOD_MONTH}, {"life", v1::BUDGET_PERIOD_LIFE}};
  return *periods;
}

std::string PeriodName(v1::BudgetPeriod period) {
  for (const auto& [name, value] : Periods()) {
    if (value == period) return name;
  }
  return "life";
}

// "24h", "90m", "7d".
absl::StatusOr<uint64_t> ParseSeconds(const std::string& text) {
  absl::Duration duration;
  int64_t days = 0;
  if (text.ends_with('d') && absl::SimpleAtoi(text.substr(0, text.size() - 1), &days) && days >= 0 && days <= 36'500) {
    return static_cast<uint64_t>(days) * 86'400;
  }
  if (absl::ParseDuration(text, &duration) && duration >= absl::ZeroDuration() && duration <= absl::Hours(876'000)) {
    return static_cast<uint64_t>(absl::ToInt64Seconds(duration));
  }
  return absl::InvalidArgumentError(absl::StrCat("`", text, "` is no time: expected for example 24h, 90m or 7d"));
}

// The secret alone, or with what to know about it.
absl::StatusOr<int> ShowSecret(const v1::CreateKeyResponse& response, const std::string& about, bool quiet,
                               const Invocation& invocation) {
  if (response.secret().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("key ", response.key().public_id(), " was created by an earlier call with this idempotency key; ",
                     "its secret was shown then and is not stored; revoke it and create another"));
  }
  *invocation.out << response.secret() << "\n";
  if (!quiet) {
    *invocation.out << "\nkey " << response.key().public_id() << about << "; this is the only time it is shown\n";
  }
  return 0;
}

absl::StatusOr<int> CreateKey(const KeyOptions& options, const Invocation& invocation) {
  v1::CreateKeyRequest request;
  request.set_party_name(options.tenant);
  request.set_label(options.label);
  request.set_requests_per_minute(options.requests_per_minute);
  request.set_tokens_per_minute(options.tokens_per_minute);
  request.set_concurrency(options.concurrency);
  for (const std::string& model : options.models) request.add_models(model);
  for (const std::string& cidr : options.cidrs) request.add_cidrs(cidr);
  if (!options.budget.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.budget));
    request.set_budget_micro(micro);
  }
  if (!options.budget_period.empty()) {
    const auto period = Periods().find(options.budget_period);
    if (period == Periods().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--budget-period ", options.budget_period, " is not known: expected day, month or life"));
    }
    if (options.budget.empty()) return absl::InvalidArgumentError("--budget-period needs a --budget");
    request.set_budget_period(period->second);
  }
  if (options.expires_days > 0) {
    request.set_expires_us(absl::ToUnixMicros(absl::Now() + absl::Hours(24) * options.expires_days));
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::CreateKeyResponse response,
                          client.CallOnce(&Admin::CreateKey, request, options.idempotency_key));
  return ShowSecret(response, absl::StrCat(" of tenant ", options.tenant), options.quiet, invocation);
}

absl::StatusOr<int> RotateKey(const KeyOptions& options, const Invocation& invocation) {
  v1::RotateKeyRequest request;
  request.set_public_id(options.public_id);
  GANTRY_ASSIGN_OR_RETURN(const uint64_t overlap_s, ParseSeconds(options.overlap));
  request.set_overlap_s(overlap_s);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::CreateKeyResponse response,
                          client.CallOnce(&Admin::RotateKey, request, options.idempotency_key));
  return ShowSecret(response, absl::StrCat(" follows key ", options.public_id, ", which ends in ", options.overlap),
                    options.quiet, invocation);
}

// What a key may not do, in a few words.
std::string Limits(const v1::Key& key) {
  std::vector<std::string> limits;
  if (key.requests_per_minute() > 0) limits.push_back(absl::StrCat(key.requests_per_minute(), " requests/min"));
  if (key.tokens_per_minute() > 0) limits.push_back(absl::StrCat(key.tokens_per_minute(), " tokens/min"));
  if (key.concurrency() > 0) limits.push_back(absl::StrCat(key.concurrency(), " at once"));
  if (key.budget_micro() > 0) {
    const std::string period = key.resets_us() == 0 ? "" : absl::StrCat(" a ", PeriodName(key.budget_period()));
    limits.push_back(absl::StrCat(FormatMicro(key.used_micro()), " used of ", FormatMicro(key.budget_micro()), period));
  }
  if (key.models_size() > 0) limits.push_back(absl::StrCat("models ", absl::StrJoin(key.models(), " ")));
  if (key.cidrs_size() > 0) limits.push_back(absl::StrCat("from ", absl::StrJoin(key.cidrs(), " ")));
  return limits.empty() ? "none" : absl::StrJoin(limits, ", ");
}

std::string StateOf(const v1::Key& key) {
  if (key.revoked_us() != 0) return "revoked";
  if (key.expires_us() != 0 && key.expires_us() <= absl::ToUnixMicros(absl::Now())) return "expired";
  return "active";
}

absl::StatusOr<int> ListKeys(const KeyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::ListKeysRequest request;
  request.set_party_name(options.tenant);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListKeysResponse response, client.Call(&Admin::ListKeys, request));
  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Key& key : response.keys()) {
      list.push_back({{"id", key.public_id()},
                      {"label", key.label()},
                      {"state", StateOf(key)},
                      {"created", FormatTimeJson(key.created_us())},
                      {"expires", FormatTimeJson(key.expires_us())},
                      {"revoked", FormatTimeJson(key.revoked_us())},
                      {"requests_per_minute", key.requests_per_minute()},
                      {"tokens_per_minute", key.tokens_per_minute()},
                      {"concurrency", key.concurrency()},
                      {"budget_micro", key.budget_micro()},
                      {"budget_period", key.budget_micro() > 0 ? PeriodName(key.budget_period()) : ""},
                      {"used_micro", key.used_micro()},
                      {"resets", FormatTimeJson(key.resets_us())},
                      {"models", std::vector<std::string>(key.models().begin(), key.models().end())},
                      {"cidrs", std::vector<std::string>(key.cidrs().begin(), key.cidrs().end())}});
    }
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table({"ID", "LABEL", "STATE", "CREATED (UTC)", "EXPIRES", "LIMITS"});
  for (const v1::Key& key : response.keys()) {
    table.Add({key.public_id(), key.label().empty() ? "-" : key.label(), StateOf(key), FormatTime(key.created_us()),
               FormatTime(key.expires_us()), Limits(key)});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> RevokeKey(const KeyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::RevokeKeyRequest request;
  request.set_public_id(options.public_id);
  GANTRY_ASSIGN_OR_RETURN(const v1::Key key, client.CallOnce(&Admin::RevokeKey, request, options.idempotency_key));
  *invocation.out << "key " << key.public_id() << " is revoked; its streams end within a second\n";
  return 0;
}

}  // namespace

void AddKeyCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<KeyOptions>();
  CLI::App* group = AddGroup(app, "key", "API keys of tenants");

  CLI::App* create = AddCommand(*group, invocation, "create", "make a key and show it once",
                                "gantry key create --tenant acme --label laptop\n"
                                "KEY=$(gantry key create --tenant acme --quiet)\n"
                                "gantry key create --tenant acme --rpm 60 --budget 50 --budget-period month\n"
                                "gantry key create --tenant acme --budget 5 --expires-days 30",
                                [=, &invocation] { return CreateKey(*options, invocation); });
  create->add_option("--tenant", options->tenant, "whose key")->required()->type_name("T");
  create->add_flag("--quiet", options->quiet, "print the secret alone");
  create->add_option("--label", options->label, "a name for people, at most 64 bytes")->type_name("TEXT");
  create->add_option("--rpm", options->requests_per_minute, "requests per minute; 0: no limit")->type_name("N");
  create->add_option("--tpm", options->tokens_per_minute, "tokens per minute; 0: no limit")->type_name("N");
  create->add_option("--concurrency", options->concurrency, "requests at once; 0: no limit")->type_name("N");
  create->add_option("--budget", options->budget, "what the key may spend")->type_name("AMOUNT");
  create
      ->add_option("--budget-period", options->budget_period,
                   "day or month, by the tenant's time zone, or life (the default): when the budget begins anew")
      ->type_name("PERIOD");
  create->add_option("--models", options->models, "names or globs it may ask for; default: all")->type_name("GLOB");
  create->add_option("--cidr", options->cidrs, "client addresses it may come from; default: all")->type_name("RANGE");
  create->add_option("--expires-days", options->expires_days, "days until it expires; 0: never")
      ->type_name("N")
      ->check(CLI::Range(0, 36'500));
  AddIdempotencyKey(*create, &options->idempotency_key);

  CLI::App* list = AddCommand(*group, invocation, "list", "keys of a tenant", "gantry key list --tenant acme",
                              [=, &invocation] { return ListKeys(*options, invocation); });
  list->add_option("--tenant", options->tenant, "whose keys")->required()->type_name("T");
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* rotate = AddCommand(*group, invocation, "rotate", "make a key that follows another, with the same terms",
                                "gantry key rotate ABCDEFGHIJKL\n"
                                "gantry key rotate ABCDEFGHIJKL --overlap 7d\n"
                                "KEY=$(gantry key rotate ABCDEFGHIJKL --overlap 1h --quiet)",
                                [=, &invocation] { return RotateKey(*options, invocation); });
  rotate->add_option("ID", options->public_id, "of the key that ends, as `gantry key list` shows it")->required();
  rotate->add_option("--overlap", options->overlap, "how long both are valid; at most 90d")
      ->type_name("TIME")
      ->capture_default_str();
  rotate->add_flag("--quiet", options->quiet, "print the secret alone");
  AddIdempotencyKey(*rotate, &options->idempotency_key);

  CLI::App* revoke =
      AddCommand(*group, invocation, "revoke", "end a key, now and for ever", "gantry key revoke ABCDEFGHIJKL",
                 [=, &invocation] { return RevokeKey(*options, invocation); });
  revoke->add_option("ID", options->public_id, "as `gantry key list` shows it")->required();
  AddIdempotencyKey(*revoke, &options->idempotency_key);
}

}  // namespace gantry::cli
