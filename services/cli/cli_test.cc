// The command line from outside: what it prints and how it exits when nothing runs. With a running installation the
// commands are tested in tests/e2e.
#include "services/cli/cli.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "billing/receipt/receipt_test_util.h"
#include "billing/store/store.h"
#include "services/cli/installation.h"
#include "services/cli/supervisor.h"

namespace gantry::cli {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = 0;
  std::string out, err;
};

Outcome Call(const std::vector<std::string>& arguments) {
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = RunCli(arguments, out, err);
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

class CliTest : public ::testing::Test {
 protected:
  CliTest() {
    char pattern[] = "/tmp/gantry_cli_XXXXXX";
    root_ = mkdtemp(pattern);
  }
  ~CliTest() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(CliTest, WrongCommandLinesGetOneLineAndExitCode2) {
  const struct {
    std::vector<std::string> arguments;
    const char* says;
  } cases[] = {
      {{}, "gantry: a command is missing; expected one of: up, down, status, tenant, key, gateway, plan, topup"},
      {{"upp"}, "gantry: unknown command `upp`; expected one of: up"},
      {{"key"},
       "gantry key: a command is missing; expected one of: create, list, rotate, revoke; see: gantry key --help"},
      {{"key", "make"}, "gantry key: unknown command `make`"},
      {{"key", "rotate", "AB", "--overlap", "soon"}, "gantry: `soon` is no time: expected for example 24h, 90m or 7d"},
      {{"key", "create", "--tenant", "t", "--budget", "5", "--budget-period", "week"},
       "gantry: --budget-period week is not known: expected day, month or life"},
      {{"key", "create", "--tenant", "t", "--budget-period", "day"}, "gantry: --budget-period needs a --budget"},
      {{"gateway", "forget", "12"}, "gantry: gateway id `12` is not valid: expected 32 hex digits"},
      {{"key", "create"}, "gantry key create: --tenant is required; see: gantry key create --help"},
      {{"topup", "--tenant", "demo"}, "gantry topup: AMOUNT is required"},
      {{"up", "--port", "99999"}, "gantry up: --port"},
      {{"up", "--port", "eight"}, "gantry up: "},
      {{"up", "--colour"}, "gantry up: The following argument was not expected: --colour"},
      {{"topup", "--tenant", "demo", "1e3"}, "gantry: amount `1e3` is not valid: expected a positive decimal number"},
      {{"topup", "--tenant", "demo", "0.0000001"}, "gantry: amount `0.0000001` is not valid"},
      {{"usage", "--tenant", "demo", "--period", "July"}, "gantry: period `July` is not valid: expected YYYY-MM"},
      {{"plan", "publish", "standard", "--input", "0.2", "--output", "much"}, "gantry: amount `much` is not valid"},
      {{"invoice", "show", "--tenant", "demo", "--format", "doc"}, "gantry invoice show: --format"},
      {{"invoice", "show", "--tenant", "demo", "--format", "pdf"},
       "gantry: a PDF is not for the terminal: --output FILE"},
      {{"invoice", "show", "--tenant", "demo", "--period", "2026-13"}, "gantry: period `2026-13` is not valid"},
      {{"invoice"},
       "gantry invoice: a command is missing; expected one of: show, list, overdue, finalize, credit, void"},
      {{"invoice", "show"}, "gantry: which invoice? --number, or --tenant with --period"},
      {{"invoice", "show", "--number", "G2026-000001", "--tenant", "demo"}, "gantry: which invoice?"},
      {{"invoice", "finalize", "--tenant", "demo"}, "gantry invoice finalize: --period is required"},
      {{"invoice", "credit", "G2026-000001", "--whole"}, "gantry invoice credit: --reason is required"},
      {{"invoice", "credit", "G2026-000001", "--reason", "r"}, "gantry: how much? --whole, --line or --amount"},
      {{"invoice", "credit", "G2026-000001", "--reason", "r", "--line", "x"}, "gantry: line `x` is not valid"},
      {{"invoice", "void", "G2026-000001"}, "gantry invoice void: --reason is required"},
      {{"payment", "record", "--tenant", "demo", "ten", "--method", "cash"}, "gantry: amount `ten` is not valid"},
      {{"payment", "record", "--tenant", "demo", "5"}, "gantry payment record: --method is required"},
      {{"payment", "allocate", "--tenant", "demo", "--amount", "5"}, "gantry: --amount goes with --invoice"},
      {{"payment", "refund", "--tenant", "demo", "5"}, "gantry payment refund: --reference is required"},
      {{"statement"}, "gantry statement: --tenant is required"},
      {{"statement", "--tenant", "demo", "--format", "pdf"}, "gantry: a PDF is not for the terminal: --output FILE"},
      {{"profile", "set", "demo", "--tax", "X"}, "gantry: tax `X` is not valid: expected"},
      {{"profile", "set", "demo", "--tax", "S:nineteen"}, "gantry: tax `S:nineteen` is not valid"},
      {{"profile", "set", "demo"}, "gantry: what is to be set? see: gantry profile set --help"},
      {{"receipt", "get", "chatcmpl-12"}, "gantry: request id `chatcmpl-12` is not valid: expected 32 hex digits"},
      {{"receipt", "verify"}, "gantry receipt verify: FILE is required"},
      {{"receipt", "verify", "f", "--nonce", "12"}, "gantry: --nonce goes with --prompt-ids or --output-ids"},
      {{"receipt", "verify", "f", "--nonce", "12", "--prompt-ids", "i"}, "gantry: nonce is not valid"},
      {{"chat"}, "gantry chat: TEXT is required"},
      {{"tco"}, "gantry: which FILE? `gantry tco --example > tco.toml` makes one to start from"},
      {{"tco", "/nowhere/tco.toml"}, "gantry: /nowhere/tco.toml: "},
      {{"chat", "hello", "--temperature", "3"}, "gantry chat: --temperature"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Call(c.arguments);
    EXPECT_EQ(outcome.code, 2) << c.says;
    EXPECT_THAT(outcome.err, HasSubstr(c.says));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

TEST_F(CliTest, WhenNothingRunsEveryCommandSaysHowToStartIt) {
  const std::vector<std::string> cases[] = {{"status"},
                                            {"tenant", "list"},
                                            {"usage", "--tenant", "demo"},
                                            {"key", "list", "--tenant", "demo"},
                                            {"invoice", "show", "--tenant", "demo"},
                                            {"invoice", "list"},
                                            {"invoice", "overdue"},
                                            {"payment", "list", "--tenant", "demo"},
                                            {"statement", "--tenant", "demo"},
                                            {"profile", "show", "demo"},
                                            {"audit"},
                                            {"receipt", "keys"},
                                            {"receipt", "roots"},
                                            {"receipt", "rotate-key"},
                                            {"receipt", "get", std::string(32, '0')},
                                            {"receipt", "verify", "/dev/null"},
                                            {"chat", "hello"},
                                            {"topup", "--tenant", "demo", "5"}};
  for (std::vector<std::string> arguments : cases) {
    arguments.insert(arguments.end(), {"--data-dir", root_});
    const Outcome outcome = Call(arguments);
    EXPECT_EQ(outcome.code, 1) << arguments[0];
    EXPECT_EQ(outcome.err,
              "gantry: nothing runs on " + root_ + "; start it with: gantry up --data-dir " + root_ + "\n");
  }
}

TEST_F(CliTest, DownWhereNothingRunsIsDone) {
  const Outcome outcome = Call({"down", "--data-dir", root_});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "nothing runs on " + root_ + "\n");
}

TEST_F(CliTest, StatusAsJsonSaysThatNothingRuns) {
  const Outcome outcome = Call({"status", "--json", "--data-dir", root_});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("\"running\": false"));
}

TEST_F(CliTest, SampleDataPassesTheOfflineAudit) {
  const Outcome filled = Call({"sample-data", "--data-dir", root_, "--months", "2", "--parties", "6",
                               "--requests-per-day", "2", "--seed", "7"});
  ASSERT_EQ(filled.code, 0) << filled.err;
  EXPECT_THAT(filled.out, HasSubstr("1 resellers, 5 tenants with a key each, "));
  const std::string books = root_ + "/billing/gantry.db";
  const auto written = std::filesystem::last_write_time(books);
  const Outcome audit = Call({"audit", "--offline", "--data-dir", root_});
  EXPECT_EQ(audit.code, 0) << audit.out << audit.err;
  EXPECT_THAT(audit.out, HasSubstr("the books hold; open items: 0"));
  EXPECT_EQ(std::filesystem::last_write_time(books), written);
  const Outcome again = Call({"sample-data", "--data-dir", root_});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr("sample data is there already"));

  // Somebody who has the books open.
  auto store = billing::Store::Open({.path = books});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_THAT(Call({"audit", "--offline", "--data-dir", root_}).err,
              HasSubstr("is in use by another gantry-billing; it audits them for you: `gantry audit`"));
  EXPECT_THAT(Call({"sample-data", "--data-dir", root_}).err, HasSubstr("`gantry down` first"));
}

TEST_F(CliTest, TheOfflineAuditReadsWhatACrashLeftInTheLogAndNamesWhatIsWrong) {
  const std::string books = root_ + "/billing/gantry.db";
  EXPECT_THAT(Call({"audit", "--offline", "--data-dir", root_}).err, HasSubstr("cannot read " + books));
  ASSERT_EQ(
      Call({"sample-data", "--data-dir", root_, "--months", "1", "--parties", "2", "--requests-per-day", "1"}).code, 0);
  // Books as a crash leaves them: copied while the log holds what the database has not.
  const std::string other = root_ + "/crashed";
  std::filesystem::create_directories(other + "/billing");
  {
    auto store = billing::Store::Open({.path = books, .checkpoint_frames = 1 << 20});
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)
                    ->WriteAndWait([](billing::Database& db) -> absl::Status {
                      db.Execute("UPDATE account SET credit_micro = credit_micro + 1 WHERE account_no = 1");
                      return absl::OkStatus();
                    })
                    .ok());
    for (const char* end : {"", "-wal"}) {
      std::filesystem::copy_file(books + end, other + "/billing/gantry.db" + end);
    }
  }
  const auto log_bytes = std::filesystem::file_size(other + "/billing/gantry.db-wal");
  ASSERT_GT(log_bytes, 0u);
  const Outcome audit = Call({"audit", "--offline", "--data-dir", other});
  EXPECT_EQ(audit.code, 1) << audit.err;
  EXPECT_THAT(audit.out, HasSubstr("account 1: debits"));
  EXPECT_THAT(audit.out, HasSubstr("the books do NOT hold"));
  EXPECT_EQ(std::filesystem::file_size(other + "/billing/gantry.db-wal"), log_bytes) << "left as it was";
}

TEST_F(CliTest, HelpTeachesWithExamples) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{"up"},
                                                                                       {"down"},
                                                                                       {"status"},
                                                                                       {"tenant", "create"},
                                                                                       {"key", "create"},
                                                                                       {"plan", "publish"},
                                                                                       {"topup"},
                                                                                       {"usage"},
                                                                                       {"invoice", "credit"},
                                                                                       {"payment", "record"},
                                                                                       {"statement"},
                                                                                       {"profile", "set"},
                                                                                       {"audit"},
                                                                                       {"sample-data"},
                                                                                       {"receipt", "verify"},
                                                                                       {"chat"},
                                                                                       {"tco"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const Outcome outcome = Call(arguments);
    EXPECT_EQ(outcome.code, 0);
    EXPECT_THAT(outcome.out, HasSubstr("Examples:\n  gantry "));
    EXPECT_THAT(outcome.out, HasSubstr("--data-dir DIR"));
  }
  EXPECT_THAT(Call({"--help"}).out, HasSubstr("gantry up --detach"));
  EXPECT_THAT(Call({"--version"}).out, HasSubstr("gantry 0."));
}

TEST_F(CliTest, TcoDecidesOnItsOwnExample) {
  const std::string file = root_ + "/tco.toml";
  std::ofstream(file) << Call({"tco", "--example"}).out;
  const Outcome text = Call({"tco", file});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("** It depends on your usage **"));
  EXPECT_THAT(text.out, HasSubstr("1,082.76"));
  const Outcome json = Call({"tco", file, "--json", "--set", "hardware.months=24", "--set", "running.pue=1.5"});
  EXPECT_EQ(json.code, 0) << json.err;
  EXPECT_THAT(json.out, HasSubstr("\"months\": 24,"));
  EXPECT_THAT(json.out, HasSubstr("\"power\": \"153.300000\""));
  const Outcome wrong = Call({"tco", file, "--set", "running.pue=0.5"});
  EXPECT_EQ(wrong.code, 2);
  EXPECT_EQ(wrong.err,
            "gantry: --set running.pue=0.5:1: running.pue: expected a number from 1 to 5 with at most 6 "
            "decimals, found 0.5\n");
}

TEST_F(CliTest, TcoWritesItsReportAndReadsABenchmarkBesideItsFile) {
  const std::string file = root_ + "/tco.toml";
  std::ofstream(file) << Call({"tco", "--example"}).out;
  std::ofstream(root_ + "/bench.json")
      << R"({"model":"m","backend":"cpu","rows":[{"spec":"off","batch":4,"decode_tokens_per_s":2822}]})";
  const Outcome measured = Call(
      {"tco", file, "--set", "throughput.bench='bench.json'", "--pdf", root_ + "/a.pdf", "--html", root_ + "/a.html"});
  EXPECT_EQ(measured.code, 0) << measured.err;
  EXPECT_THAT(measured.out, HasSubstr("2,822 output tokens/s, measured (gantry-engine bench: m, cpu, 4 sequences"));
  EXPECT_THAT(measured.out, HasSubstr("4,821 M output tokens a month"));
  EXPECT_GT(std::filesystem::file_size(root_ + "/a.pdf"), 10'000u);
  EXPECT_GT(std::filesystem::file_size(root_ + "/a.html"), 10'000u);
  EXPECT_EQ(Call({"tco", file, "--bench", root_ + "/none.json"}).code, 2);
}

TEST_F(CliTest, UpOnUnusableDataDirIsRefused) {
  const std::string file = root_ + "/file";
  std::ofstream(file) << "x";
  const Outcome outcome = Call({"up", "--detach", "--data-dir", file + "/data"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("cannot create directory " + file + "/data"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

TEST_F(CliTest, SecondUpNamesTheFirst) {
  const DataDir data_dir(root_);
  ASSERT_TRUE(data_dir.Prepare().ok());
  const auto lock = LockDataDir(data_dir);
  ASSERT_TRUE(lock.ok());
  ASSERT_EQ(write(*lock, "4711\n", 5), 5);
  const Outcome outcome = Call({"up", "--detach", "--data-dir", root_});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("gantry already runs on " + root_ + " with pid 4711"));
  close(*lock);
}

TEST(InstallationTest, TakenPortIsNamedWithItsUse) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const int taken = ntohs(address.sin_port);
  EXPECT_THAT(std::string(CheckPorts(taken - 2).message()),
              ::testing::AnyOf(HasSubstr("port " + std::to_string(taken) + " of 127.0.0.1 (metrics of router)"),
                               // Another program of this machine may hold one of the two below.
                               HasSubstr("cannot be used: Address already in use")));
  close(fd);
}

}  // namespace
}  // namespace gantry::cli
