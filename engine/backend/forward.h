// One forward pass composed from blocks, and a single-sequence runner over it for tests and `gantry-engine logits`.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/blocks.h"

namespace gantry::engine {

// Embed, then mixer and ffn of every trunk layer; the result stands in `io`, delta of the last block not yet added.
void RunTrunk(Blocks& blocks, const StepBatch& batch, Residual io);

struct NonFinite {
  std::string block;  // "layer 3, ffn"
  int row = -1;       // of the batch; -1: every row stays finite
};
// The same with a look at the rows after every block: the first block that leaves one of them not finite.
NonFinite FindNonFinite(Blocks& blocks, const StepBatch& batch, Residual io);

// RowsAreFinite of a backend whose residual is in host memory.
bool HostRowsAreFinite(Residual in, int64_t hidden, int first_row, int rows);

// The MTP layer: batch.tokens[row] stands at batch.positions[row]; the post-norm hidden of the position before it is
// hidden[row].
void RunMtp(Blocks& blocks, const StepBatch& batch, const float* hidden, Residual io);

// One sequence on pages [0, ...) and state slots 0 (and 1 for scratch), from position 0. Not for serving.
class SequenceRunner {
 public:
  // REQUIRES: limits().kv_pages covers the tokens to come, limits().state_slots >= 1.
  explicit SequenceRunner(Blocks& blocks);

  int position() const { return position_; }

  // Appends ids in chunks of at most chunk_rows (0: as large as the blocks allow). hidden: [ids, H], logits: [ids,
  // vocab]; each may be null. Pointers advance over chunks, so the whole result is contiguous.
  void Append(absl::Span<const TokenId> ids, int chunk_rows, float* hidden, float* logits);

  // MTP over ids[i], which follow position first + i, whose post-norm hidden is hidden[i].
  // mtp_hidden: [ids, H] (post mtp.norm), logits: [ids, vocab]; each may be null.
  void AppendMtp(int first, absl::Span<const TokenId> ids, const float* hidden, int chunk_rows, float* mtp_hidden,
                 float* logits);

 private:
  StepBatch Batch(int first, absl::Span<const TokenId> ids, Blocks::HeadOf which);
  void Heads(Blocks::HeadOf which, int rows, float* hidden, float* logits);

  Blocks& blocks_;
  int position_ = 0;
  std::vector<KvPage> pages_;
  std::vector<int32_t> positions_;
  std::vector<int> rows_;
  std::vector<float> hidden_;
  RowGroup group_;
  StateSlot slot_ = 0;
};

}  // namespace gantry::engine
