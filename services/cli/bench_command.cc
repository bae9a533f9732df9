// gantry bench …: how fast this machine is. The benchmarks are programs of their own beside this one.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/cli/command.h"
#include "services/cli/installation.h"

namespace gantry::cli {
namespace {

// Becomes the program; returns only when it cannot.
absl::Status Become(const std::string& name, std::vector<std::string> arguments) {
  const std::string program = absl::StrCat(ProgramDirectory(), "/", name);
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return absl::NotFoundError(
      absl::StrCat("program ", program, ": ", std::strerror(errno), "; build it: ./dev build ", name));
}

}  // namespace

void AddBenchCommands(CLI::App& app, Invocation& invocation) {
  CLI::App* group = AddGroup(app, "bench", "how fast this machine is");
  const struct {
    const char* name;
    const char* program;
    std::vector<std::string> first;
    const char* summary;
    const char* examples;
  } benchmarks[] = {
      {"billing",
       "billing_benchmark",
       {},
       "rates, latencies, bytes and audits of billing on this disk, beside what they are held to",
       "gantry bench billing\ngantry bench billing --events 1000000 --dir /var/lib/gantry/bench --json"},
      {"engine",
       "gantry-engine",
       {"bench"},
       "prompt and decode speed of a model, beside the machine's bandwidth and peak",
       "gantry bench engine --model models/demo --text docs/design.md"},
  };
  for (const auto& benchmark : benchmarks) {
    CLI::App* command = group->add_subcommand(benchmark.name, benchmark.summary);
    command->footer(absl::StrCat("Options are the benchmark's own: gantry bench ", benchmark.name,
                                 " -- --help\n\nExamples:\n  ",
                                 absl::StrReplaceAll(benchmark.examples, {{"\n", "\n  "}}), "\n"));
    command->prefix_command();
    command->callback([&invocation, command, program = std::string(benchmark.program), first = benchmark.first] {
      invocation.run = [command, program, first]() -> absl::StatusOr<int> {
        std::vector<std::string> arguments = first;
        for (const std::string& argument : command->remaining()) {
          if (argument != "--") arguments.push_back(argument);
        }
        return Become(program, std::move(arguments));
      };
    });
  }
}

}  // namespace gantry::cli
