// The commands of gantry-engine. Each prints to standard output and returns one clear error.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/sample/sampling_params.h"

namespace gantry::engine::cli {

struct CommonOptions {
  std::string model;
  std::string backend = "cpu";
  std::string kv_type = "f16";
  int threads = 0;
};

struct LogitsOptions {
  std::string ids, out;
  std::string route_from, route_out;  // choices of experts to force, and to write; empty: neither
};

struct GenerateOptions {
  std::string ids, prompt, chat;  // exactly one is set
  int max_tokens = 0;
  SamplingParams sampling;  // stop ids are added from the model
  std::string spec = "auto";
  bool ignore_stop = false;
  bool json = false;
};

struct BenchOptions {
  std::vector<int> batches = {1, 4};
  std::vector<int> contexts = {512};
  int decode_tokens = 128;
  std::vector<std::string> specs = {"off", "auto"};
  std::string text;    // file; empty: a built-in passage
  bool free = false;   // the model writes what follows a prompt; else the text does
  std::string record;  // file for the prompts and outputs, as `--spec replay:` reads them; empty: none
  int runs = 5;
  bool json = false;
};

struct InspectOptions {
  bool json = false;
};

absl::Status RunLogits(const CommonOptions& common, const LogitsOptions& options);
absl::Status RunGenerate(const CommonOptions& common, const GenerateOptions& options);
absl::Status RunBench(const CommonOptions& common, const BenchOptions& options);
absl::Status RunInspect(const CommonOptions& common, const InspectOptions& options);

}  // namespace gantry::engine::cli
