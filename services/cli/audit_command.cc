// gantry audit: proves the books.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kAskEvery = absl::Milliseconds(250);
constexpr absl::Duration kSayEvery = absl::Seconds(5);

struct AuditOptions {
  bool settled = false, json = false;
  uint32_t timeout_s = 1200;
};

absl::StatusOr<int> Audit(const AuditOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
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
  const bool settled = report.open_items() == 0;
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
  if (options.settled && !settled) {
    return absl::DeadlineExceededError(absl::StrCat(report.open_items(), " items are still open after ",
                                                    options.timeout_s, " s; give more time with --timeout S"));
  }
  return report.ok() ? 0 : 1;
}

}  // namespace

void AddAuditCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<AuditOptions>();
  CLI::App* audit = AddCommand(app, invocation, "audit", "prove the books; exit code 0 only when every check holds",
                               "gantry audit\ngantry audit --settled     # first wait until no item is open",
                               [=, &invocation] { return Audit(*options, invocation); });
  audit->add_flag("--settled", options->settled, "wait until no hold is pending and no witness is waited for");
  audit->add_option("--timeout", options->timeout_s, "longest wait of --settled, seconds; default: 1200")
      ->type_name("S");
  audit->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
