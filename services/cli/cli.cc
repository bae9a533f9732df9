#include "services/cli/cli.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/command.h"
#include "services/common/lifecycle.h"

namespace gantry::cli {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// The innermost command that was named: where `--help` says more.
const CLI::App* Deepest(const CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().back();
  return app;
}

std::string FullName(const CLI::App* app) {
  std::string name = app->get_name();
  for (app = app->get_parent(); app != nullptr; app = app->get_parent())
    name = absl::StrCat(app->get_name(), " ", name);
  return name;
}

std::string CommandNames(const CLI::App* app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app->get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return absl::StrJoin(names, ", ");
}

// The parser's complaint as one line in our words.
std::string Complaint(const CLI::ParseError& error, const CLI::App* app) {
  const CLI::App* at = Deepest(app);
  const bool has_commands = !CommandNames(at).empty();
  std::string what = error.what();
  for (char& c : what) {
    if (c == '\n') c = ' ';
  }
  if (has_commands && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    const std::vector<std::string> rest = at->remaining();
    what = rest.empty() ? "a command is missing" : absl::StrCat("unknown command `", rest.front(), "`");
    absl::StrAppend(&what, "; expected one of: ", CommandNames(at));
  }
  return absl::StrCat(FullName(at), ": ", what, "; see: ", FullName(at), " --help");
}

}  // namespace

CLI::App* AddCommand(CLI::App& parent, Invocation& invocation, const std::string& name, const std::string& summary,
                     const std::string& examples, std::function<absl::StatusOr<int>()> run) {
  CLI::App* command = parent.add_subcommand(name, summary);
  std::string footer = "Examples:\n";
  for (size_t begin = 0; begin < examples.size();) {
    const size_t end = std::min(examples.find('\n', begin), examples.size());
    absl::StrAppend(&footer, "  ", examples.substr(begin, end - begin), "\n");
    begin = end + 1;
  }
  command->footer(footer);
  command
      ->add_option("--data-dir", invocation.data_dir_flag,
                   "where this installation lives; default: $GANTRY_DATA_DIR, else ~/.local/share/gantry")
      ->type_name("DIR");
  command->callback([&invocation, run = std::move(run)] { invocation.run = run; });
  return command;
}

CLI::App* AddGroup(CLI::App& parent, const std::string& name, const std::string& summary) {
  CLI::App* group = parent.add_subcommand(name, summary);
  group->require_subcommand(1);
  return group;
}

void AddIdempotencyKey(CLI::App& command, std::string* key) {
  command
      .add_option("--idempotency-key", *key,
                  "a repeat with the same key and content happens once; default: a random key")
      ->type_name("TEXT");
}

int RunCli(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err) {
  Invocation invocation;
  invocation.out = &out;
  invocation.err = &err;
  CLI::App app(
      "Rents out an AI model from this machine: starts the services, makes keys, counts tokens, writes invoices.",
      "gantry");
  app.set_version_flag("--version", absl::StrCat("gantry ", BuildVersion()));
  app.require_subcommand(1);
  app.footer(
      "\nA first session:\n"
      "  gantry up --detach                      start everything, print endpoint, key and a curl line\n"
      "  gantry chat \"What does river mean?\"     ask the model\n"
      "  gantry usage --tenant demo              what it cost\n"
      "  gantry down                             stop\n"
      "\n`gantry COMMAND --help` shows examples.");
  AddUpCommand(app, invocation);
  AddDownCommand(app, invocation);
  AddStatusCommand(app, invocation);
  AddTenantCommands(app, invocation);
  AddKeyCommands(app, invocation);
  AddGatewayCommands(app, invocation);
  AddPlanCommands(app, invocation);
  AddMoneyCommands(app, invocation);
  AddInvoiceCommands(app, invocation);
  AddPaymentCommands(app, invocation);
  AddProfileCommands(app, invocation);
  AddAuditCommand(app, invocation);
  AddSampleDataCommand(app, invocation);
  AddBackupCommands(app, invocation);
  AddReceiptCommands(app, invocation);
  AddChatCommand(app, invocation);
  AddUserCommands(app, invocation);
  AddQuoteCommands(app, invocation);
  AddNotifyCommands(app, invocation);
  AddTcoCommand(app, invocation);
  AddBenchCommands(app, invocation);

  // The parser takes them from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked, out, err);
  } catch (const CLI::ParseError& error) {
    err << Complaint(error, &app) << "\n";
    return kExitUsage;
  }
  const absl::StatusOr<int> code = invocation.run();
  if (code.ok()) {
    out.flush();
    if (out.good()) return *code;
    err << "gantry: the output could not be written\n";
    return kExitFailure;
  }
  err << "gantry: " << std::string(code.status().message()) << "\n";
  return absl::IsInvalidArgument(code.status()) ? kExitUsage : kExitFailure;
}

}  // namespace gantry::cli
