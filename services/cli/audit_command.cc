// gantry audit: proves the books, and releases parties that audits parked.
#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/audit/audit.h"
#include "billing/store/database.h"
#include "billing/store/schema.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kAuditDeadline = absl::Minutes(10);
constexpr absl::Duration kAskEvery = absl::Milliseconds(250);
constexpr absl::Duration kSayEvery = absl::Seconds(5);

struct AuditOptions {
  bool settled = false, json = false, offline = false, parked = false;
  uint32_t timeout_s = 1200;
  std::string unpark, reason, idempotency_key;
};

absl::StatusOr<int> Show(const v1::AuditReport& report, const AuditOptions& options, const Invocation& invocation) {
  if (options.json) {
    nlohmann::ordered_json out = {
        {"ok", report.ok()}, {"open_items", report.open_items()}, {"checks", nlohmann::ordered_json::array()}};
    for (const v1::AuditCheck& check : report.checks()) {
      out["checks"].push_back({{"name", check.name()}, {"ok", check.ok()}, {"detail", check.detail()}});
    }
    *invocation.out << out.dump(2) << "\n";
  } else {
    Table table({"CHECK", "RESULT", "DETAIL"});
    for (const v1::AuditCheck& check : report.checks()) {
      table.Add({check.name(), check.ok() ? "ok" : "FAILED", check.detail()});
    }
    *invocation.out << table.Render() << "\n"
                    << (report.ok() ? "the books hold" : "the books do NOT hold")
                    << "; open items: " << report.open_items() << "\n";
  }
  if (options.settled && report.open_items() > 0) {
    return absl::DeadlineExceededError(absl::StrCat(report.open_items(), " items are still open after ",
                                                    options.timeout_s, " s; give more time with --timeout S"));
  }
  return report.ok() ? 0 : 1;
}

absl::StatusOr<int> AuditOnline(const AuditOptions& options, const Invocation& invocation) {
  AdminClientOptions client_options;
  client_options.deadline = kAuditDeadline;
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir(), client_options));
  const absl::Time deadline = absl::Now() + absl::Seconds(options.timeout_s);
  absl::Time said = absl::Now();
  v1::AuditReport report;
  while (true) {
    GANTRY_ASSIGN_OR_RETURN(report, client.Call(&v1::BillingAdmin::Stub::Audit, v1::AuditRequest()));
    if (!options.settled || report.open_items() == 0 || absl::Now() >= deadline) break;
    if (absl::Now() - said >= kSayEvery) {
      said = absl::Now();
      *invocation.err << "waiting: " << report.open_items() << " open items (holds pending, witnesses waiting)\n";
    }
    absl::SleepFor(kAskEvery);
  }
  return Show(report, options, invocation);
}

// Books that nobody has open: of a stopped installation, or restored somewhere.
absl::StatusOr<int> AuditOffline(const AuditOptions& options, const Invocation& invocation) {
  const std::string path = invocation.data_dir().state_dir("billing") + "/gantry.db";
  absl::StatusOr<std::unique_ptr<billing::Database>> books =
      billing::Database::Open(path, billing::Database::Mode::kOffline);
  if (absl::IsFailedPrecondition(books.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        books.status().message(), "; it audits them for you: `gantry audit`, or stop it with `gantry down`"));
  }
  if (!books.ok()) return books.status();
  billing::Database& db = **books;
  GANTRY_ASSIGN_OR_RETURN(const int64_t schema, billing::SchemaVersion(db));
  if (schema != static_cast<int64_t>(billing::Migrations().size())) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " has schema version ", schema, ", this program audits ", billing::Migrations().size(),
                     "; start it once with this version, or use the one that wrote it"));
  }
  db.Script("BEGIN");
  const v1::AuditReport report = billing::Audit(db);
  GANTRY_RETURN_IF_ERROR(db.TakeError());
  return Show(report, options, invocation);
}

std::string TimeUtc(int64_t us) {
  return us == 0 ? "never" : absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixMicros(us), absl::UTCTimeZone());
}

absl::StatusOr<int> ShowParked(const AuditOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::AuditState state,
                          client.Call(&v1::AuditAdmin::Stub::GetAuditState, v1::GetAuditStateRequest()));
  if (options.json) {
    nlohmann::ordered_json out = {{"full_us", state.full_us()},
                                  {"full_ok", state.full_ok()},
                                  {"full_seconds", state.full_seconds()},
                                  {"checkpoint_us", state.checkpoint_us()},
                                  {"checkpoint_event_seq", state.checkpoint_event_seq()},
                                  {"checkpoint_transfer_seq", state.checkpoint_transfer_seq()},
                                  {"trouble", state.trouble()},
                                  {"parked", nlohmann::ordered_json::array()}};
    for (const v1::ParkedParty& party : state.parked()) {
      nlohmann::ordered_json row = {{"party", party.party_name()},
                                    {"since_us", party.since_us()},
                                    {"reason", party.reason()},
                                    {"kept_aside", party.kept_aside()},
                                    {"findings", nlohmann::ordered_json::array()}};
      for (const std::string& finding : party.findings()) row["findings"].push_back(finding);
      out["parked"].push_back(std::move(row));
    }
    *invocation.out << out.dump(2) << "\n";
    return state.parked_size() == 0 ? 0 : 1;
  }
  *invocation.out << "everything audited: " << TimeUtc(state.full_us());
  if (state.full_us() > 0) *invocation.out << (state.full_ok() ? ", the books hold" : ", the books do NOT hold");
  *invocation.out << "\nlast checkpoint:    " << TimeUtc(state.checkpoint_us()) << ", usage up to "
                  << state.checkpoint_event_seq() << "\n";
  if (!state.trouble().empty()) *invocation.out << "trouble:            " << state.trouble() << "\n";
  if (state.parked_size() == 0) {
    *invocation.out << "no party is parked\n";
    return 0;
  }
  Table table({"PARTY", "PARKED SINCE", "USAGE KEPT", "FINDING"});
  for (const v1::ParkedParty& party : state.parked()) {
    table.Add({party.party_name(), TimeUtc(party.since_us()), absl::StrCat(party.kept_aside()), party.reason()});
    for (const std::string& finding : party.findings()) {
      if (finding != party.reason()) table.Add({"", "", "", finding});
    }
  }
  *invocation.out << "\n"
                  << table.Render() << "\nlook at what was found, then: gantry audit --unpark PARTY --reason TEXT\n";
  return 1;
}

absl::StatusOr<int> UnparkParty(const AuditOptions& options, const Invocation& invocation) {
  if (options.reason.empty()) return absl::InvalidArgumentError("--unpark needs --reason TEXT, for the audit log");
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::UnparkRequest request;
  request.set_party_name(options.unpark);
  request.set_reason(options.reason);
  GANTRY_ASSIGN_OR_RETURN(const v1::UnparkResponse released,
                          client.CallOnce(&v1::AuditAdmin::Stub::Unpark, request, options.idempotency_key));
  *invocation.out << options.unpark << " is served again; " << released.booked()
                  << " usage records that were kept aside are booked, " << released.waiting() << " follow\n";
  return 0;
}

absl::StatusOr<int> Audit(const AuditOptions& options, const Invocation& invocation) {
  if (!options.unpark.empty()) return UnparkParty(options, invocation);
  if (options.parked) return ShowParked(options, invocation);
  return options.offline ? AuditOffline(options, invocation) : AuditOnline(options, invocation);
}

}  // namespace

void AddAuditCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<AuditOptions>();
  CLI::App* audit =
      AddCommand(app, invocation, "audit", "prove the books; exit code 0 only when every check holds",
                 "gantry audit\n"
                 "gantry audit --settled     # first wait until no item is open\n"
                 "gantry audit --offline     # books of a stopped installation\n"
                 "gantry audit --parked      # whose books were found wrong, and when they were looked at\n"
                 "gantry audit --unpark acme --reason 'ticket 4711: looked at, taken as it stands'",
                 [=, &invocation] { return Audit(*options, invocation); });
  audit->add_flag("--settled", options->settled, "wait until no hold is pending and no witness is waited for");
  audit->add_option("--timeout", options->timeout_s, "longest wait of --settled, seconds; default: 1200")
      ->type_name("S");
  CLI::Option* offline =
      audit->add_flag("--offline", options->offline,
                      "read the files of the data dir, under billing's lock; nothing of them is changed");
  CLI::Option* parked = audit->add_flag("--parked", options->parked, "what billing's own audits found; no new audit");
  CLI::Option* unpark =
      audit->add_option("--unpark", options->unpark, "serve a party again, and book its usage")->type_name("PARTY");
  audit->add_option("--reason", options->reason, "why, for the audit log")->type_name("TEXT")->needs(unpark);
  offline->excludes(parked)->excludes(unpark);
  parked->excludes(unpark);
  AddIdempotencyKey(*audit, &options->idempotency_key);
  audit->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
