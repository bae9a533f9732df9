// gantry sample-data: months of a made-up business in the books of an installation that does not run.
#include <sys/stat.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "billing/bench/sample_data.h"
#include "billing/catalog/keys.h"
#include "billing/store/store.h"
#include "engine/base/status_macros.h"
#include "services/cli/command.h"

namespace gantry::cli {
namespace {

absl::StatusOr<int> SampleData(const billing::SampleDataOptions& options, const Invocation& invocation) {
  const DataDir data_dir = invocation.data_dir();
  GANTRY_RETURN_IF_ERROR(data_dir.Prepare());
  const std::string directory = data_dir.state_dir("billing");
  mkdir(directory.c_str(), 0700);
  const std::string path = directory + "/gantry.db";
  GANTRY_ASSIGN_OR_RETURN(const Secret pepper, billing::LoadOrCreatePepper(directory + "/pepper"));
  absl::StatusOr<std::unique_ptr<billing::Store>> store = billing::Store::Open({.path = path});
  if (absl::IsFailedPrecondition(store.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(store.status().message(), "; sample data is for books that do not run: `gantry down` first"));
  }
  if (!store.ok()) return store.status();
  billing::SampleDataOptions filled = options;
  filled.end_us = absl::ToUnixMicros(absl::Now());
  *invocation.err << "writing " << options.months << " months of " << options.parties << " parties to " << path << "\n";
  GANTRY_ASSIGN_OR_RETURN(const billing::SampleDataReport report, billing::FillWithSampleData(**store, pepper, filled));
  *invocation.out << report.resellers << " resellers, " << report.tenants << " tenants with a key each, "
                  << report.requests << " requests, " << report.invoices << " invoices\n"
                  << "look at it:  gantry up --detach && gantry tenant list\n"
                  << "prove it:    gantry audit\n";
  return 0;
}

}  // namespace

void AddSampleDataCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<billing::SampleDataOptions>();
  CLI::App* command =
      AddCommand(app, invocation, "sample-data", "fill books with months of a made-up business, for demonstrations",
                 "gantry sample-data --data-dir /tmp/demo\n"
                 "gantry sample-data --data-dir /tmp/demo --months 12 --parties 50 --requests-per-day 100\n"
                 "gantry audit --offline --data-dir /tmp/demo",
                 [=, &invocation] { return SampleData(*options, invocation); });
  command->add_option("--months", options->months, "how far back, 1..36; default: 6")->type_name("N");
  command->add_option("--parties", options->parties, "resellers (a fifth) and tenants, 2..500; default: 20")
      ->type_name("N");
  command->add_option("--requests-per-day", options->requests_per_day, "of a tenant, 1..10000; default: 20")
      ->type_name("N");
  command->add_option("--seed", options->seed, "the same one gives the same business; default: 1")->type_name("N");
}

}  // namespace gantry::cli
