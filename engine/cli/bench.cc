#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
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

// Shares of a row's rounds from which on a depth of drafts is worth measuring what it costs.
constexpr double kDepthShareMin = 0.05;
// Of the drafts that are made to learn what a step of the MTP layer costs.
constexpr int kDraftCostDepth = 3;

// One engine for all rows: the way of speculating changes between them.
absl::StatusOr<std::unique_ptr<Engine>> StartEngine(const CommonOptions& common, const BenchOptions& options,
                                                    const BenchText& text) {
  EngineOptions engine_options;
  engine_options.model_path = common.model;
  engine_options.backend = common.backend;
  engine_options.kv_type = common.kv_type;
  engine_options.threads = common.threads;
  engine_options.max_sequences = *std::max_element(options.batches.begin(), options.batches.end());
  engine_options.max_context =
      *std::max_element(options.contexts.begin(), options.contexts.end()) + options.decode_tokens + 1;
  engine_options.vocab_used = text.vocab_used;
  engine_options.prefix_cache = false;
  // Whatever a row may ask for; `off` alone needs less memory.
  const auto is_off = [](const std::string& spec) { return spec == "off"; };
  const bool all_off = std::all_of(options.specs.begin(), options.specs.end(), is_off);
  engine_options.spec.mode = all_off ? "off" : "auto";
  return Engine::Create(engine_options);
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

// One line on the terminal that is overwritten by the next.
void Progress(const std::string& text) {
  if (isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "\r%-78s", text.c_str());
}
std::string Name(const BenchRow& row) {
  return absl::StrCat(row.point.spec, ", batch ", row.point.batch, ", context ", row.point.context);
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

// Rows that measure what rounds at the point of `row` cost: of the depths that `rows` there used, and of drafting.
RoundCosts CostsOf(const BenchRow& row, const std::vector<BenchRow>& rows,
                   const std::map<const BenchRow*, Outputs>& warm) {
  RoundCosts costs{row.point, {}, {}};
  // Speculation changes no output: what this row wrote is what others of the point wrote.
  const std::vector<ReplayRun>& outputs = warm.at(&row).runs;
  const std::string where = absl::StrCat(", batch ", row.point.batch, ", context ", row.point.context);
  const auto cost_row = [&](const std::string& name, int depth, bool mtp) {
    BenchRow out{.point = row.point, .mode = {.name = absl::StrCat(name, where), .depth = depth, .mtp = mtp}};
    out.point.spec = name;
    out.sequences = outputs;
    // Whole rounds alone: every one commits depth + 1 ids.
    const int rounds = (row.decode_tokens - 1) / (depth + 1);
    out.decode_tokens = rounds > 0 ? 1 + rounds * (depth + 1) : row.decode_tokens;
    if (depth > 0) out.mode.replay = Replay(outputs, std::vector<double>(depth, 1.0));
    return out;
  };
  std::array<double, kDraftDepthMax + 1> share = {1};
  bool mtp = false;
  for (const BenchRow& other : rows) {
    if (!SameWork(other.point, row.point)) continue;
    mtp = mtp || other.mode.mtp;
    const Measurement& m = warm.at(&other).measured;
    for (int depth = 1; depth <= kDraftDepthMax; ++depth) {
      const auto rounds = static_cast<double>(RoundsOfDepth(m.sequence_rounds, m.drafted_at, depth));
      share[depth] = std::max(share[depth], rounds / static_cast<double>(m.sequence_rounds));
    }
  }
  for (int depth = 0; depth <= kDraftDepthMax; ++depth) {
    if (share[depth] < kDepthShareMin) continue;
    costs.verify.push_back({depth, cost_row(absl::StrCat("verify:", depth), depth, false)});
  }
  if (mtp) costs.draft = cost_row(absl::StrCat("draft:", kDraftCostDepth), kDraftCostDepth, true);
  return costs;
}

}  // namespace

absl::Status RunBench(const CommonOptions& common, const BenchOptions& options) {
  GANTRY_RETURN_IF_ERROR(Check(options));
  GANTRY_ASSIGN_OR_RETURN(const KvType kv_type, KvTypeNamed("--kv-type", common.kv_type));
  BenchReport report;
  BenchText text;
  {
    GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
    GANTRY_ASSIGN_OR_RETURN(text, ReadBenchText(common.model, options.text, model->spec.vocab_rows));
    report.roofline = MeasureRoofline(*model, kv_type, common.threads, options.decode_tokens);
  }
  GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, StartEngine(common, options, text));
  const Card& card = engine->card();
  report.model = common.model;
  report.backend = common.backend;
  report.threads = common.threads;
  report.text = text.source;
  report.free = options.free;
  report.numerics_id = card.numerics_id;
  report.weight_bytes = card.weight_bytes;
  for (const std::string& spec : options.specs) {
    GANTRY_ASSIGN_OR_RETURN(const SpecMode mode, SpecMode::Parse(spec, card.spec.mtp.has_value()));
    for (const int batch : options.batches) {
      for (const int context : options.contexts) {
        BenchRow& row = report.rows.emplace_back(BenchRow{.point = {spec, batch, context}, .mode = mode});
        row.sequences = SequencesOf(text, row.point, options.decode_tokens, options.free);
        row.decode_tokens = options.decode_tokens;
        row.repeats = context + options.decode_tokens > static_cast<int>(text.ids.size());
      }
    }
  }

  // The unmeasured work comes first and warms up.
  std::vector<ReplayRun> runs;
  std::map<const BenchRow*, Outputs> warm;
  for (BenchRow& row : report.rows) {
    Progress(absl::StrCat("warming up: ", Name(row)));
    GANTRY_RETURN_IF_ERROR(engine->SetSpeculation(row.mode));
    GANTRY_ASSIGN_OR_RETURN(Outputs outputs, Record(*engine, row.sequences, row.decode_tokens));
    row.hash = outputs.hash;
    std::copy(outputs.runs.begin(), outputs.runs.end(), std::back_inserter(runs));
    warm[&row] = std::move(outputs);
  }
  if (!options.record.empty()) GANTRY_RETURN_IF_ERROR(WriteRuns(options.record, runs));
  for (const BenchRow& row : report.rows) {
    const bool known = std::any_of(report.costs.begin(), report.costs.end(),
                                   [&](const RoundCosts& costs) { return SameWork(costs.point, row.point); });
    if (row.mode.depth > 0 && !known) report.costs.push_back(CostsOf(row, report.rows, warm));
  }

  std::vector<BenchRow*> measured;
  for (BenchRow& row : report.rows) measured.push_back(&row);
  for (RoundCosts& costs : report.costs) {
    for (RoundCosts::Verify& verify : costs.verify) measured.push_back(&verify.row);
    if (costs.draft) measured.push_back(&*costs.draft);
  }
  for (int run = 0; run < options.runs; ++run) {
    for (BenchRow* row : measured) {
      Progress(absl::StrCat("run ", run + 1, " of ", options.runs, ": ", Name(*row)));
      GANTRY_RETURN_IF_ERROR(engine->SetSpeculation(row->mode));
      GANTRY_ASSIGN_OR_RETURN(Measurement measurement, Measure(*engine, row->sequences, row->decode_tokens));
      row->runs.push_back(std::move(measurement));
    }
  }
  Progress("");
  Progress("\r");
  if (options.json) {
    report.PrintJson();
  } else {
    report.PrintTable();
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine::cli
