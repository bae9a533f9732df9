// How a file of commands adds itself to the command line.
//
//   void AddTenantCommands(CLI::App& app, Invocation& invocation) {
//     auto options = std::make_shared<TenantOptions>();
//     CLI::App* list = AddCommand(app, invocation, "list", "tenants and their balances", "gantry tenant list",
//                                 [options, &invocation] { return ListTenants(*options, invocation); });
//     list->add_flag("--json", options->json, "…");
//   }
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/data_dir.h"

namespace gantry::cli {

// What one call of the program is about. Lives until its command has run.
struct Invocation {
  std::ostream* out = nullptr;  // results
  std::ostream* err = nullptr;  // progress
  std::string data_dir_flag;
  // Set by the command that was named. The exit code; an error is printed by the caller: INVALID_ARGUMENT is the
  // user's (exit code 2), all others are failures (1).
  std::function<absl::StatusOr<int>()> run;

  DataDir data_dir() const { return DataDir(ResolveDataDir(data_dir_flag)); }
};

// `examples`: whole lines, shown under --help. The command gets --data-dir. `run` is called after all was parsed.
CLI::App* AddCommand(CLI::App& parent, Invocation& invocation, const std::string& name, const std::string& summary,
                     const std::string& examples, std::function<absl::StatusOr<int>()> run);
// A word that has commands of its own: `gantry key …`.
CLI::App* AddGroup(CLI::App& parent, const std::string& name, const std::string& summary);

// A flag that repeats of the same command share, so that one that timed out can be given again safely; empty: random.
void AddIdempotencyKey(CLI::App& command, std::string* key);

void AddUpCommand(CLI::App& app, Invocation& invocation);
void AddDownCommand(CLI::App& app, Invocation& invocation);
void AddStatusCommand(CLI::App& app, Invocation& invocation);
void AddTenantCommands(CLI::App& app, Invocation& invocation);
void AddKeyCommands(CLI::App& app, Invocation& invocation);
void AddGatewayCommands(CLI::App& app, Invocation& invocation);
void AddPlanCommands(CLI::App& app, Invocation& invocation);
void AddMoneyCommands(CLI::App& app, Invocation& invocation);
void AddInvoiceCommands(CLI::App& app, Invocation& invocation);
void AddPaymentCommands(CLI::App& app, Invocation& invocation);
void AddProfileCommands(CLI::App& app, Invocation& invocation);
void AddAuditCommand(CLI::App& app, Invocation& invocation);
void AddSampleDataCommand(CLI::App& app, Invocation& invocation);
void AddBackupCommands(CLI::App& app, Invocation& invocation);
void AddReceiptCommands(CLI::App& app, Invocation& invocation);
void AddChatCommand(CLI::App& app, Invocation& invocation);
void AddUserCommands(CLI::App& app, Invocation& invocation);
void AddQuoteCommands(CLI::App& app, Invocation& invocation);
void AddNotifyCommands(CLI::App& app, Invocation& invocation);
void AddBenchCommands(CLI::App& app, Invocation& invocation);
void AddTcoCommand(CLI::App& app, Invocation& invocation);

}  // namespace gantry::cli
