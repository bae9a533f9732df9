// gantry tenant …: who may call, and what they have.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/plan_file.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

struct TenantOptions {
  std::string name, legal_name, currency, plan, credit_limit, idempotency_key;
  std::string kind = "tenant", parent, time_zone, from, under, reason;
  bool json = false, refund = false, keep = false;
};

const char* KindName(v1::PartyKind kind) {
  switch (kind) {
    case v1::PARTY_KIND_HOUSE:
      return "house";
    case v1::PARTY_KIND_RESELLER:
      return "reseller";
    case v1::PARTY_KIND_TENANT:
      return "tenant";
    case v1::PARTY_KIND_PEER:
      return "peer";
    default:
      return "unknown";
  }
}

const char* StatusName(v1::PartyStatus status) {
  switch (status) {
    case v1::PARTY_STATUS_ACTIVE:
      return "active";
    case v1::PARTY_STATUS_SUSPENDED:
      return "suspended";
    case v1::PARTY_STATUS_CLOSED:
      return "closed";
    default:
      return "unknown";
  }
}

absl::StatusOr<int> CreateTenant(const TenantOptions& options, const Invocation& invocation) {
  v1::CreatePartyRequest request;
  for (const v1::PartyKind kind : {v1::PARTY_KIND_TENANT, v1::PARTY_KIND_RESELLER, v1::PARTY_KIND_PEER}) {
    if (options.kind == KindName(kind)) request.set_kind(kind);
  }
  request.set_parent_name(options.parent);
  request.set_time_zone(options.time_zone);
  request.set_name(options.name);
  request.set_legal_name(options.legal_name.empty() ? options.name : options.legal_name);
  request.set_currency(options.currency);
  request.set_plan(options.plan);
  if (!options.credit_limit.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.credit_limit));
    request.set_credit_limit_micro(micro);
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Party party,
                          client.CallOnce(&Admin::CreateParty, request, options.idempotency_key));
  *invocation.out << KindName(party.kind()) << " " << party.name() << " created, currency " << party.currency()
                  << ", buys from " << party.parent_name() << "\n";
  return 0;
}

absl::StatusOr<std::vector<std::pair<v1::Party, v1::Balance>>> AllParties(const AdminClient& client,
                                                                          const std::string& under) {
  std::vector<std::pair<v1::Party, v1::Balance>> all;
  v1::ListPartiesRequest request;
  request.set_under_name(under);
  request.set_page_size(1000);
  do {
    GANTRY_ASSIGN_OR_RETURN(const v1::ListPartiesResponse page, client.Call(&Admin::ListParties, request));
    for (int i = 0; i < page.parties_size(); ++i) {
      all.emplace_back(page.parties(i), i < page.balances_size() ? page.balances(i) : v1::Balance());
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::StatusOr<int> ListTenants(const TenantOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const auto parties, AllParties(client, options.under));
  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const auto& [party, balance] : parties) {
      list.push_back({{"name", party.name()},
                      {"kind", KindName(party.kind())},
                      {"legal_name", party.legal_name()},
                      {"status", StatusName(party.status())},
                      {"currency", party.currency()},
                      {"plan", party.plan()},
                      {"buys_from", party.parent_name()},
                      {"time_zone", party.time_zone()},
                      {"posted_micro", balance.posted_micro()},
                      {"held_micro", balance.held_micro()},
                      {"available_micro", balance.available_micro()},
                      {"credit_limit_micro", party.credit_limit_micro()},
                      {"created", FormatTimeJson(party.created_us())}});
    }
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table({"NAME", "KIND", "STATUS", ">BALANCE", ">HELD", ">AVAILABLE", "CURRENCY", "PLAN", "SINCE (UTC)"});
  for (const auto& [party, balance] : parties) {
    table.Add({party.name(), KindName(party.kind()), StatusName(party.status()), FormatMicro(balance.posted_micro()),
               FormatMicro(balance.held_micro()), FormatMicro(balance.available_micro()), party.currency(),
               party.plan().empty() ? "-" : party.plan(), FormatTime(party.created_us())});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> SubscribeTenant(const TenantOptions& options, const Invocation& invocation) {
  v1::SubscribeRequest request;
  request.set_party_name(options.name);
  request.set_plan(options.plan);
  if (!options.from.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t from, ParseTimeUtc(options.from));
    request.set_from_us(from);
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Party party, client.CallOnce(&Admin::Subscribe, request, options.idempotency_key));
  *invocation.out << party.name() << " pays the prices of `" << options.plan << "` for requests from "
                  << (options.from.empty() ? "now" : options.from) << " on\n";
  return 0;
}

absl::StatusOr<int> SetStatus(const TenantOptions& options, v1::PartyStatus status, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  const auto parties = AllParties(client, options.name);
  if (!parties.ok() && !absl::IsNotFound(parties.status())) return parties.status();
  for (const auto& [party, balance] : parties.ok() ? *parties : std::vector<std::pair<v1::Party, v1::Balance>>()) {
    if (party.name() != options.name) continue;
    v1::SetPartyStatusRequest request;
    request.set_party_id(party.party_id());
    request.set_status(status);
    GANTRY_ASSIGN_OR_RETURN(const v1::Party changed,
                            client.CallOnce(&Admin::SetPartyStatus, request, options.idempotency_key));
    *invocation.out << "tenant " << changed.name() << " is " << StatusName(changed.status()) << "\n";
    return 0;
  }
  return absl::NotFoundError(
      absl::StrCat("there is no tenant `", options.name, "`; `gantry tenant list` shows those there are"));
}

int ShowClosing(const v1::Closing& closing, const TenantOptions& options, const Invocation& invocation) {
  if (options.json) {
    const nlohmann::ordered_json json = {
        {"party", closing.party_name()},
        {"requested", FormatTimeJson(closing.requested_us())},
        {"done", FormatTimeJson(closing.done_us())},
        {"waits_for", closing.waits_for()},
        {"invoices", std::vector<std::string>(closing.invoices().begin(), closing.invoices().end())},
        {"credit_notes", std::vector<std::string>(closing.credit_notes().begin(), closing.credit_notes().end())},
        {"refunded_micro", closing.refunded_micro()},
        {"kept_micro", closing.kept_micro()},
        {"unpaid_micro", closing.unpaid_micro()},
        {"currency", closing.currency()}};
    *invocation.out << json.dump(2) << "\n";
  } else if (closing.done_us() == 0) {
    *invocation.out << closing.party_name() << " is closed to requests; waits for " << closing.waits_for() << "\n";
  } else {
    *invocation.out << closing.party_name() << " is closed since " << FormatTime(closing.done_us())
                    << " UTC; paid back " << FormatMicro(closing.refunded_micro()) << ", kept "
                    << FormatMicro(closing.kept_micro()) << " " << closing.currency();
    if (closing.unpaid_micro() > 0) {
      *invocation.out << " (of it " << FormatMicro(closing.unpaid_micro()) << " came back beyond what was paid)";
    }
    for (const std::string& invoice : closing.invoices()) *invocation.out << ", invoice " << invoice;
    for (const std::string& note : closing.credit_notes()) *invocation.out << ", credit note " << note;
    *invocation.out << "\n";
  }
  return 0;
}

absl::StatusOr<int> CloseTenant(const TenantOptions& options, const Invocation& invocation) {
  if (options.refund == options.keep) return absl::InvalidArgumentError("expected --refund or --keep");
  v1::ClosePartyRequest request;
  request.set_party_name(options.name);
  request.set_leftover(options.refund ? v1::LEFTOVER_REFUND : v1::LEFTOVER_KEEP);
  request.set_reason(options.reason);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Closing closing,
                          client.CallOnce(&v1::ClosingAdmin::Stub::CloseParty, request, options.idempotency_key));
  return ShowClosing(closing, options, invocation);
}

absl::StatusOr<int> ShowClosingOf(const TenantOptions& options, const Invocation& invocation) {
  v1::GetClosingRequest request;
  request.set_party_name(options.name);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Closing closing, client.Call(&v1::ClosingAdmin::Stub::GetClosing, request));
  return ShowClosing(closing, options, invocation);
}

}  // namespace

void AddTenantCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<TenantOptions>();
  CLI::App* group = AddGroup(app, "tenant", "who may call, and what they have");

  CLI::App* create = AddCommand(*group, invocation, "create", "add a tenant",
                                "gantry tenant create acme --legal-name \"Acme GmbH\"\n"
                                "gantry topup --tenant acme 25\n"
                                "gantry key create --tenant acme",
                                [=, &invocation] { return CreateTenant(*options, invocation); });
  create->add_option("NAME", options->name, "1 to 64 of a-z, 0-9 and -")->required();
  create->add_option("--legal-name", options->legal_name, "as invoices show it; default: NAME")->type_name("TEXT");
  create->add_option("--currency", options->currency, "ISO 4217; default: the house's")->type_name("CODE");
  create->add_option("--plan", options->plan, "of who sells to it; default: standard")->type_name("PLAN");
  create->add_option("--kind", options->kind, "tenant (default), reseller or peer; resellers sell on")
      ->type_name("KIND")
      ->check(CLI::IsMember({"tenant", "reseller", "peer"}));
  create->add_option("--parent", options->parent, "the reseller it buys from; default: the house")->type_name("NAME");
  create->add_option("--time-zone", options->time_zone, "where its months begin, IANA; default: its seller's")
      ->type_name("ZONE");
  create->add_option("--credit-limit", options->credit_limit, "how far below zero the balance may go; default: prepaid")
      ->type_name("AMOUNT");
  AddIdempotencyKey(*create, &options->idempotency_key);

  CLI::App* list = AddCommand(*group, invocation, "list", "parties with their balances",
                              "gantry tenant list\ngantry tenant list --json",
                              [=, &invocation] { return ListTenants(*options, invocation); });
  list->add_option("--under", options->under, "this party and those below it; default: all")->type_name("NAME");
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* subscribe = AddCommand(*group, invocation, "subscribe", "let another plan of its seller price a tenant",
                                   "gantry tenant subscribe acme --plan partners --from 2027-01-01",
                                   [=, &invocation] { return SubscribeTenant(*options, invocation); });
  subscribe->add_option("NAME", options->name, "the tenant")->required();
  subscribe->add_option("--plan", options->plan, "of who sells to it")->required()->type_name("PLAN");
  subscribe->add_option("--from", options->from, "from when on, UTC; default: now")->type_name("TIME");
  AddIdempotencyKey(*subscribe, &options->idempotency_key);

  const struct {
    const char* name;
    const char* summary;
    v1::PartyStatus status;
  } changes[] = {{"suspend", "end a tenant's streams and refuse new ones", v1::PARTY_STATUS_SUSPENDED},
                 {"activate", "let a suspended tenant in again", v1::PARTY_STATUS_ACTIVE}};
  for (const auto& change : changes) {
    CLI::App* command = AddCommand(
        *group, invocation, change.name, change.summary, absl::StrCat("gantry tenant ", change.name, " acme"),
        [=, &invocation, status = change.status] { return SetStatus(*options, status, invocation); });
    command->add_option("NAME", options->name, "the tenant")->required();
    AddIdempotencyKey(*command, &options->idempotency_key);
  }

  CLI::App* close = AddCommand(
      *group, invocation, "close", "end a tenant for good: keys, streams, last invoice, money, and who it was",
      "gantry tenant close acme --refund --reason \"contract ended\"\ngantry tenant closing acme",
      [=, &invocation] { return CloseTenant(*options, invocation); });
  close->add_option("NAME", options->name, "the tenant")->required();
  close->add_flag("--refund", options->refund, "pay back what was paid in and not used");
  close->add_flag("--keep", options->keep, "what is left is the seller's");
  close->add_option("--reason", options->reason, "stands in the audit log")->required()->type_name("TEXT");
  close->add_flag("--json", options->json, "as JSON");
  AddIdempotencyKey(*close, &options->idempotency_key);

  CLI::App* closing =
      AddCommand(*group, invocation, "closing", "how the end of a tenant stands", "gantry tenant closing acme --json",
                 [=, &invocation] { return ShowClosingOf(*options, invocation); });
  closing->add_option("NAME", options->name, "the tenant, as it was named")->required();
  closing->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
