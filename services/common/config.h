// Configuration of a process: flag > GANTRY_<PROCESS>_<NAME> variable > TOML file (--config) > default.
//
//   RouterOptions options;                              // members hold the defaults
//   Config config("router", "Forwards requests from gateways to workers.");
//   config.Group("Network");
//   config.String("listen", &options.listen, "unix:/path or host:port").Required();
//   config.Int("queue-limit", &options.queue_limit, 1, 100'000, "Requests that may wait per model");
//   absl::StatusOr<bool> run = config.Parse(argc, argv);
//   if (!run.ok()) return ExitWithError("router", run.status());
//   if (!*run) return 0;                                // --help, --version, --check-config, --print-config
//
// One name serves everywhere: flag --queue-limit, variable GANTRY_ROUTER_QUEUE_LIMIT, TOML key queue-limit. Secrets are
// given by the path of a file, never by value. Unknown keys are errors that name line and nearest match. Every process
// also gets --config, --log-level, --log-format, which Parse applies to the log.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry {

class Config {
 public:
  // What a declaration returns, to say more about the option declared.
  class Option {
   public:
    Option& Required();                  // an empty value after all sources is an error
    Option& Example(std::string value);  // shown by --help
   private:
    friend class Config;
    struct State;
    explicit Option(State* state) : state_(state) {}
    State* state_;
  };

  // `summary`: one sentence, the first line of --help. `environment` is for tests; null: the process's own.
  Config(std::string process, std::string summary, char** environment = nullptr);
  ~Config();

  void Group(std::string title);
  // Targets must outlive Parse; their values at declaration are the defaults. Names are lower-case with dashes.
  Option String(std::string name, std::string* target, std::string help);
  Option Choice(std::string name, std::string* target, std::vector<std::string> choices, std::string help);
  Option Int(std::string name, int64_t* target, int64_t min, int64_t max, std::string help);
  Option Double(std::string name, double* target, double min, double max, std::string help);
  Option Bool(std::string name, bool* target, std::string help);  // --name or --name=false

  // True: run. False: something was asked for and printed on stdout (--help, --version, --check-config,
  // --print-config), exit 0. INVALID_ARGUMENT: one line that names the source (flag, variable, file:line), what was
  // expected and found.
  absl::StatusOr<bool> Parse(int argc, const char* const* argv);

  // Every option with value and origin, one a line: `queue-limit = 1024  # default`. Valid TOML.
  std::string Print() const;
  std::string Help() const;
  // "default", "file router.toml:3", "variable GANTRY_ROUTER_LISTEN", "flag --listen".
  std::string OriginOf(absl::string_view name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry
