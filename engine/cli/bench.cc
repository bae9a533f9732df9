#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cli/bench_report.h"
#include "engine/cli/bench_text.h"
#include "engine/cli/commands.h"
#include "engine/model/model.h"

namespace gantry::engine::cli {
namespace {

// One engine for each way of speculating, which is fixed when an engine starts; all rows and runs share them. They live
// side by side, so that runs of different rows can alternate.
using Engines = std::map<std::string, std::unique_ptr<Engine>>;

absl::StatusOr<Engines> StartEngines(const CommonOptions& common, const BenchOptions& options, const BenchText& text) {
  Engines engines;
  for (const std::string& spec : options.specs) {
    EngineOptions engine_options;
    engine_options.model_path = common.model;
    engine_options.backend = common.backend;
    engine_options.threads = common.threads;
    engine_options.max_sequences = *std::max_element(options.batches.begin(), options.batches.end());
    engine_options.max_context =
        *std::max_element(options.contexts.begin(), options.contexts.end()) + options.decode_tokens + 1;
    engine_options.vocab_used = text.vocab_used;
    engine_options.prefix_cache = false;
    engine_options.spec.mode = spec;
    GANTRY_ASSIGN_OR_RETURN(engines[spec], Engine::Create(engine_options));
  }
  return engines;
}

absl::Status Check(const BenchOptions& options) {
  const auto positive = [](const std::vector<int>& values) {
    return !values.empty() && *std::min_element(values.begin(), values.end()) >= 1;
  };
  if (!positive(options.batches)) return absl::InvalidArgumentError("--batch: expected numbers >= 1");
  if (!positive(options.contexts)) return absl::InvalidArgumentError("--context: expected numbers >= 1");
  if (options.decode_tokens < 2) return absl::InvalidArgumentError("--decode-tokens: expected a number >= 2");
  if (options.runs < 1) return absl::InvalidArgumentError("--runs: expected a number >= 1");
  return absl::OkStatus();
}

absl::Status WriteRuns(const std::string& path, const std::vector<ReplayRun>& runs) {
  nlohmann::ordered_json out = {{"runs", nlohmann::ordered_json::array()}};
  for (const ReplayRun& run : runs) out["runs"].push_back({{"prompt", run.prompt}, {"output", run.output}});
  const std::string bytes = out.dump();
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  if (std::fclose(file) != 0 || !written) return absl::UnavailableError(absl::StrCat(path, ": writing failed"));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunBench(const CommonOptions& common, const BenchOptions& options) {
  GANTRY_RETURN_IF_ERROR(Check(options));
  BenchReport report;
  BenchText text;
  {
    GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
    GANTRY_ASSIGN_OR_RETURN(text, ReadBenchText(common.model, options.text, model->spec.vocab_rows));
    report.roofline = MeasureRoofline(*model, common.threads, options.decode_tokens);
  }
  GANTRY_ASSIGN_OR_RETURN(const Engines engines, StartEngines(common, options, text));
  const Card& card = engines.begin()->second->card();
  report.model = common.model;
  report.backend = common.backend;
  report.threads = common.threads;
  report.text = text.source;
  report.free = options.free;
  report.numerics_id = card.numerics_id;
  report.weight_bytes = card.weight_bytes;
  for (const std::string& spec : options.specs) {
    for (const int batch : options.batches) {
      for (const int context : options.contexts) report.rows.push_back({{spec, batch, context}});
    }
  }

  // The unmeasured work comes first and warms up.
  std::vector<ReplayRun> runs;
  for (BenchRow& row : report.rows) {
    row.sequences = SequencesOf(text, row.point, options.decode_tokens, options.free);
    row.repeats = row.point.context + options.decode_tokens > static_cast<int>(text.ids.size());
    GANTRY_ASSIGN_OR_RETURN(Outputs outputs, Record(*engines.at(row.point.spec), row.sequences, options.decode_tokens));
    row.hash = outputs.hash;
    std::move(outputs.runs.begin(), outputs.runs.end(), std::back_inserter(runs));
  }
  if (!options.record.empty()) GANTRY_RETURN_IF_ERROR(WriteRuns(options.record, runs));
  for (int run = 0; run < options.runs; ++run) {
    for (BenchRow& row : report.rows) {
      std::fprintf(stderr, "\rrun %d of %d: %s, batch %d, context %d %20s", run + 1, options.runs,
                   row.point.spec.c_str(), row.point.batch, row.point.context, "");
      GANTRY_ASSIGN_OR_RETURN(const Measurement measurement,
                              Measure(*engines.at(row.point.spec), row.sequences, options.decode_tokens));
      row.runs.push_back(measurement);
    }
  }
  std::fprintf(stderr, "\r%78s\r", "");
  if (options.json) {
    report.PrintJson();
  } else {
    report.PrintTable();
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine::cli
