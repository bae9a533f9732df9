#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/forward.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/base/status_macros.h"
#include "engine/cli/commands.h"
#include "engine/cli/json_input.h"
#include "engine/model/model.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kChunkRows = 64;

absl::Status WriteWhole(const std::string& path, absl::string_view bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  if (std::fclose(file) == 0 && written) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(path, ": writing failed"));
}

// A file of choices is an array over layers of arrays over positions of expert numbers; a layer without a router has
// empty ones.
absl::Status WriteRouting(RoutingTape& tape, const std::string& path) {
  ordered_json root = ordered_json::array();
  for (int layer = 0; layer < tape.layers(); ++layer) {
    ordered_json& rows = root.emplace_back(ordered_json::array());
    for (int position = 0; position < tape.positions(); ++position) {
      const absl::Span<int> experts = tape.At(layer, position);
      rows.push_back(std::vector<int>(experts.begin(), experts.end()));
    }
  }
  return WriteWhole(path, root.dump());
}

absl::Status ReadRouting(const std::string& path, const ModelSpec& spec, RoutingTape* tape) {
  GANTRY_ASSIGN_OR_RETURN(const ordered_json root, ReadJson(path));
  if (!root.is_array() || root.size() != static_cast<size_t>(tape->layers())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected an array of ", tape->layers(), " layers"));
  }
  for (int layer = 0; layer < tape->layers(); ++layer) {
    const ordered_json& rows = root[layer];
    if (!rows.is_array() || rows.size() < static_cast<size_t>(tape->positions())) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": [", layer, "]: expected an array of ", tape->positions(), " positions or more"));
    }
    const auto* moe = std::get_if<MixtureOfExpertsSpec>(&spec.layer(layer).ffn);
    const int experts = moe == nullptr ? 0 : moe->experts;
    for (int position = 0; position < tape->positions(); ++position) {
      const absl::Span<int> cell = tape->At(layer, position);
      const ordered_json& row = rows[position];
      bool good = row.is_array() && row.size() == cell.size();
      for (size_t i = 0; good && i < cell.size(); ++i) {
        good = row[i].is_number_integer() && row[i].get<int64_t>() >= 0 && row[i].get<int64_t>() < experts;
        if (good) cell[i] = row[i].get<int>();
        good = good && std::find(cell.begin(), cell.begin() + i, cell[i]) == cell.begin() + i;
      }
      if (!good) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": [", layer, "][", position, "]: expected ", cell.size(),
                                                       " different experts below ", experts, ", found ",
                                                       row.dump().substr(0, 40)));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> ReadIdsOf(const ModelSpec& spec, const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(std::vector<TokenId> ids, ReadIds(path));
  if (ids.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": the array is empty"));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= spec.vocab_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": [", i, "]: token id ", ids[i], ", the model has ", spec.vocab_rows));
    }
  }
  return ids;
}

// The trunk alone runs: the MTP layer's cells stay as they were.
absl::Status RunAndWrite(Blocks& blocks, absl::Span<const TokenId> ids, const std::string& path) {
  const int vocab = blocks.spec().vocab_rows;
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
  SequenceRunner runner(blocks);
  std::vector<float> logits(static_cast<size_t>(kChunkRows) * vocab);
  bool written = true;
  for (size_t begin = 0; begin < ids.size() && written; begin += kChunkRows) {
    const size_t rows = std::min<size_t>(kChunkRows, ids.size() - begin);
    runner.Append(ids.subspan(begin, rows), 0, nullptr, logits.data());
    const size_t count = rows * vocab;
    written = std::fwrite(logits.data(), sizeof(float), count, file) == count;
  }
  written = std::fclose(file) == 0 && written;
  if (!written) return absl::UnavailableError(absl::StrCat(path, ": writing failed"));
  std::printf("%s: float32 [%zu, %d]\n", path.c_str(), ids.size(), vocab);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunLogits(const CommonOptions& common, const LogitsOptions& options) {
  if (common.backend != "cpu" && common.backend != "reference") {
    return absl::InvalidArgumentError(absl::StrCat("--backend is `", common.backend, "`, expected reference or cpu"));
  }
  GANTRY_ASSIGN_OR_RETURN(const KvType kv_type, KvTypeNamed("--kv-type", common.kv_type));
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, ReadIdsOf(model->spec, options.ids));
  std::optional<RoutingTape> tape;
  if (!options.route_from.empty() || !options.route_out.empty()) {
    tape.emplace(model->spec, static_cast<int>(ids.size()));
  }
  if (!options.route_from.empty()) {
    GANTRY_RETURN_IF_ERROR(ReadRouting(options.route_from, model->spec, &*tape));
    tape->mode = RoutingTape::Mode::kReplay;
  }
  const BlocksLimits limits{.max_rows = kChunkRows,
                            .max_head_rows = kChunkRows,
                            .kv_pages = static_cast<int>(ids.size() + kKvPageTokens - 1) / kKvPageTokens,
                            .state_slots = 1,
                            .threads = common.threads,
                            .kv_type = kv_type};
  GANTRY_ASSIGN_OR_RETURN(const auto blocks,
                          common.backend == "cpu" ? MakeCpuBlocks(model, limits) : MakeReferenceBlocks(model, limits));
  blocks->SetRouting(tape ? &*tape : nullptr);
  GANTRY_RETURN_IF_ERROR(RunAndWrite(*blocks, ids, options.out));
  return options.route_out.empty() ? absl::OkStatus() : WriteRouting(*tape, options.route_out);
}

}  // namespace gantry::engine::cli
