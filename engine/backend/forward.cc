#include "engine/backend/forward.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace gantry::engine {

void RunTrunk(Blocks& blocks, const StepBatch& batch, Residual io) {
  blocks.Embed(batch, io);
  for (int layer = 0; layer < blocks.spec().trunk_layers(); ++layer) {
    blocks.Mixer(layer, batch, io);
    blocks.Ffn(layer, batch, io);
  }
}

NonFinite FindNonFinite(Blocks& blocks, const StepBatch& batch, Residual io) {
  NonFinite found;
  const auto look = [&](auto... name) {
    for (int row = 0; row < batch.rows(); ++row) {
      if (blocks.RowsAreFinite(io, row, 1)) continue;
      found = {absl::StrCat(name...), row};
      return true;
    }
    return false;
  };
  blocks.Embed(batch, io);
  if (look("the embedding")) return found;
  for (int layer = 0; layer < blocks.spec().trunk_layers(); ++layer) {
    blocks.Mixer(layer, batch, io);
    if (look("layer ", layer, ", mixer")) return found;
    blocks.Ffn(layer, batch, io);
    if (look("layer ", layer, ", ffn")) return found;
  }
  return found;
}

bool HostRowsAreFinite(Residual in, int64_t hidden, int first_row, int rows) {
  const float* x = in.x + first_row * hidden;
  const float* delta = in.delta + first_row * hidden;
  // Not finite times zero is NaN, and a NaN in the sum stays: no branch in the loop.
  float lanes[16] = {};
  const int64_t count = rows * hidden;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) lanes[lane] += (x[i + lane] + delta[i + lane]) * 0.0f;
  }
  for (; i < count; ++i) lanes[0] += (x[i] + delta[i]) * 0.0f;
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum == 0.0f;
}

void RunMtp(Blocks& blocks, const StepBatch& batch, const float* hidden, Residual io) {
  const int layer = blocks.spec().trunk_layers();
  blocks.MtpInput(batch, hidden, io);
  blocks.Mixer(layer, batch, io);
  blocks.Ffn(layer, batch, io);
}

SequenceRunner::SequenceRunner(Blocks& blocks) : blocks_(blocks), pages_(blocks.limits().kv_pages) {
  std::iota(pages_.begin(), pages_.end(), 0);
  hidden_.resize(static_cast<size_t>(blocks.limits().max_head_rows) * blocks.spec().hidden);
  blocks_.ZeroState(slot_);
}

StepBatch SequenceRunner::Batch(int first, absl::Span<const TokenId> ids, Blocks::HeadOf which) {
  GANTRY_CHECK(first + static_cast<int>(ids.size()) <= blocks_.limits().kv_pages * kKvPageTokens,
               "the runner's pages cover every position");
  positions_.resize(ids.size());
  std::iota(positions_.begin(), positions_.end(), first);
  group_ = RowGroup{.first_row = 0, .rows = static_cast<int>(ids.size()), .position = first, .pages = pages_};
  if (which == Blocks::HeadOf::kTrunk) {
    group_.state_in = slot_;
    group_.state_out = absl::MakeConstSpan(&slot_, 1);
  } else {
    group_.first_key = kMtpFirstKey;
  }
  return StepBatch{.tokens = ids, .positions = positions_, .groups = absl::MakeConstSpan(&group_, 1)};
}

void SequenceRunner::Heads(Blocks::HeadOf which, int rows, float* hidden, float* logits) {
  const ModelSpec& spec = blocks_.spec();
  for (int begin = 0; begin < rows; begin += blocks_.limits().max_head_rows) {
    const int count = std::min(rows - begin, blocks_.limits().max_head_rows);
    rows_.resize(count);
    std::iota(rows_.begin(), rows_.end(), begin);
    blocks_.Head(which, rows_, blocks_.residual(),
                 hidden == nullptr ? hidden_.data() : hidden + static_cast<size_t>(begin) * spec.hidden,
                 logits == nullptr ? nullptr : logits + static_cast<size_t>(begin) * spec.vocab_rows);
  }
}

void SequenceRunner::Append(absl::Span<const TokenId> ids, int chunk_rows, float* hidden, float* logits) {
  const int rows_max = chunk_rows > 0 ? std::min(chunk_rows, blocks_.limits().max_rows) : blocks_.limits().max_rows;
  while (!ids.empty()) {
    const int rows = std::min<int>(rows_max, ids.size());
    RunTrunk(blocks_, Batch(position_, ids.subspan(0, rows), Blocks::HeadOf::kTrunk), blocks_.residual());
    if (hidden != nullptr || logits != nullptr) Heads(Blocks::HeadOf::kTrunk, rows, hidden, logits);
    if (hidden != nullptr) hidden += static_cast<size_t>(rows) * blocks_.spec().hidden;
    if (logits != nullptr) logits += static_cast<size_t>(rows) * blocks_.spec().vocab_rows;
    position_ += rows;
    ids.remove_prefix(rows);
  }
}

void SequenceRunner::AppendMtp(int first, absl::Span<const TokenId> ids, const float* hidden, int chunk_rows,
                               float* mtp_hidden, float* logits) {
  const int rows_max = chunk_rows > 0 ? std::min(chunk_rows, blocks_.limits().max_rows) : blocks_.limits().max_rows;
  while (!ids.empty()) {
    const int rows = std::min<int>(rows_max, ids.size());
    RunMtp(blocks_, Batch(first + kMtpFirstKey, ids.subspan(0, rows), Blocks::HeadOf::kMtp), hidden,
           blocks_.residual());
    Heads(Blocks::HeadOf::kMtp, rows, mtp_hidden, logits);
    hidden += static_cast<size_t>(rows) * blocks_.spec().hidden;
    if (mtp_hidden != nullptr) mtp_hidden += static_cast<size_t>(rows) * blocks_.spec().hidden;
    if (logits != nullptr) logits += static_cast<size_t>(rows) * blocks_.spec().vocab_rows;
    first += rows;
    ids.remove_prefix(rows);
  }
}

}  // namespace gantry::engine
