#include "engine/spec/replay.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/backend/backend.h"
#include "engine/sample/philox.h"

namespace gantry::engine {
namespace {

absl::Status Malformed(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("replay is `", text, "`, expected FILE,accept=P1/P2/... with at most ",
                                                 kDraftDepthMax, " shares, 1 >= P1 >= P2 >= ... > 0"));
}

bool ReadIds(const nlohmann::json& run, const char* key, std::vector<TokenId>* out) {
  const auto found = run.find(key);
  if (found == run.end() || !found->is_array()) return false;
  for (const nlohmann::json& id : *found) {
    if (!id.is_number_integer()) return false;
    out->push_back(id.get<TokenId>());
  }
  return true;
}

}  // namespace

absl::StatusOr<Replay> Replay::Load(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(",accept=", 1));
  std::vector<double> accept;
  for (const absl::string_view share : absl::StrSplit(parts.second, '/')) {
    double value = 0;
    if (!absl::SimpleAtod(share, &value) || !(value > 0) || value > (accept.empty() ? 1.0 : accept.back())) {
      return Malformed(text);
    }
    accept.push_back(value);
  }
  if (accept.size() > kDraftDepthMax) return Malformed(text);
  const std::string path(parts.first);
  std::ifstream file(path);
  std::ostringstream content;
  if (!(content << file.rdbuf())) return absl::NotFoundError(absl::StrCat("replay file ", path, " cannot be read"));
  const auto json = nlohmann::json::parse(content.str(), nullptr, /*allow_exceptions=*/false);
  const absl::Status wrong = absl::InvalidArgumentError(
      absl::StrCat(path, R"(: expected {"runs": [{"prompt": [ids], "output": [ids]}, ...]})"));
  if (!json.is_object() || !json.contains("runs") || !json["runs"].is_array()) return wrong;
  std::vector<ReplayRun> runs;
  for (const nlohmann::json& run : json["runs"]) {
    if (!run.is_object() || !ReadIds(run, "prompt", &runs.emplace_back().prompt) ||
        !ReadIds(run, "output", &runs.back().output)) {
      return wrong;
    }
  }
  return Replay(std::move(runs), std::move(accept));
}

Replay::Replay(std::vector<ReplayRun> runs, std::vector<double> accept) : runs_(std::move(runs)) {
  double before = 1;
  for (const double share : accept) {
    given_.push_back(share / before);
    before = share;
  }
}

const ReplayRun* Replay::Find(absl::Span<const TokenId> ids) const {
  const ReplayRun* found = nullptr;
  for (const ReplayRun& run : runs_) {
    const bool starts =
        ids.size() >= run.prompt.size() && std::equal(run.prompt.begin(), run.prompt.end(), ids.begin());
    if (starts && (found == nullptr || run.prompt.size() > found->prompt.size())) found = &run;
  }
  return found;
}

TokenId Replay::Draft(const ReplayRun& run, int position, int depth) const {
  const int index = position - static_cast<int>(run.prompt.size());
  if (index < 0 || index >= static_cast<int>(run.output.size())) return -1;
  const uint32_t bits = Philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(depth), 0, 0}, {7, 7})[0];
  const bool right = (bits + 0.5) * 0x1p-32 < given_[depth - 1];
  if (right) return run.output[index];
  return run.output[index] > 0 ? run.output[index] - 1 : 1;
}

}  // namespace gantry::engine
