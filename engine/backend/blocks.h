// The block level of a backend: a model's forward pass cut where two devices would have to talk.
//
// A round is composed from these blocks on the host (backend/composed_backend.h): embed, then mixer and ffn of every
// layer, then head; after that the MTP layer the same way. `reference/` implements them in plain loops and is the
// oracle; every other implementation answers to it block by block.
//
// Residual{x, delta}: x is the residual stream, delta the not yet added (and, with several ranks, not yet reduced)
// output of the block before. Reducing, adding and norming belong to the consumer: each block first does x += delta,
// then norms x, then writes its own output to delta. Embed writes x and zeroes delta.
//
// Numerics: for one row, the bits of every output depend only on that row's token, position, KV pages and state, never
// on which other rows share the batch, how many threads run or how a prompt was cut into chunks.
//
// Threads: one thread drives a Blocks object. Ownership: the caller owns every buffer; nothing is allocated after
// Prepare.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/backend/kv_type.h"
#include "engine/backend/routing_tape.h"
#include "engine/model/model_spec.h"

namespace gantry::engine {

inline constexpr int kKvPageTokens = 64;

// A page holds K and V of kKvPageTokens positions for every attention layer, the MTP layer included.
using KvPage = int32_t;
// A slot holds delta-net states (float32) and convolution columns of every recurrent layer.
using StateSlot = int32_t;
inline constexpr StateSlot kNoStateSlot = -1;
// A saved state, and the hidden state of its last position.
using SnapshotSlot = int32_t;
inline constexpr SnapshotSlot kNoSnapshot = -1;
// The first position at which the MTP layer holds anything; see RowGroup::first_key.
inline constexpr int kMtpFirstKey = 1;

// Consecutive rows of one sequence, at consecutive positions.
struct RowGroup {
  int first_row = 0;
  int rows = 0;
  int position = 0;                   // absolute position of first_row
  absl::Span<const KvPage> pages;     // page i holds positions [64 i, 64 i + 64); covers every row of the group
  StateSlot state_in = kNoStateSlot;  // state before first_row
  // The state after each of the last state_out.size() rows goes to these slots, last row last. One of them may equal
  // state_in: an implementation reads the old state before it writes. Empty: nothing is kept.
  absl::Span<const StateSlot> state_out;
  // Attention reads the positions from here on. The MTP layer keeps what it knows of position p, which needs the token
  // at p and the hidden state at p - 1, at p; so it has nothing at position 0, and a page of it depends on nothing
  // after the page.
  int first_key = 0;
};

struct StepBatch {
  absl::Span<const TokenId> tokens;     // [rows]
  absl::Span<const int32_t> positions;  // [rows], absolute; equals group.position + offset
  absl::Span<const RowGroup> groups;    // cover all rows in order, no gaps
  int rows() const { return static_cast<int>(tokens.size()); }
};

// float32 [rows, hidden] each, in memory of the backend's choosing (see Blocks::NewResidual).
struct Residual {
  float* x = nullptr;
  float* delta = nullptr;
};

struct BlocksLimits {
  int max_rows = 0;       // rows of one StepBatch
  int max_head_rows = 0;  // rows of one Head call that wants logits
  int kv_pages = 0;
  int state_slots = 0;
  int threads = 0;                // 0: what cgroup quota and affinity mask allow
  KvType kv_type = KvType::kF16;  // the reference backend keeps float32 whatever stands here
};

// Bytes that one page and one slot take; admission counts with them.
struct CacheCosts {
  int64_t kv_page_bytes = 0;
  int64_t state_slot_bytes = 0;
};

class Blocks {
 public:
  virtual ~Blocks() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual const BlocksLimits& limits() const = 0;
  virtual CacheCosts costs() const = 0;
  // Names everything that output bits depend on: build, ISA path, backend, weight and KV types. Equal ids, equal bits.
  virtual const std::string& numerics_id() const = 0;

  // Buffers of max_rows rows that live as long as the Blocks.
  virtual Residual residual() = 0;

  // x[row] = embedding of tokens[row]; delta = 0. REQUIRES: every token in [0, vocab_rows).
  virtual void Embed(const StepBatch& batch, Residual io) = 0;

  // Layer index in [0, total_layers()); trunk_layers() is the MTP layer. Reads and extends KV pages or states.
  virtual void Mixer(int layer, const StepBatch& batch, Residual io) = 0;
  virtual void Ffn(int layer, const StepBatch& batch, Residual io) = 0;

  // For the given rows (ascending): hidden = RMSNorm(x + delta; final norm of trunk or MTP layer), logits = lm_head
  // hidden. hidden: [rows_wanted, hidden]; logits: [rows_wanted, vocab_rows] or null when only the hidden is wanted.
  // Padding rows of the vocabulary are computed like any other; masking them is the sampler's first step.
  enum class HeadOf { kTrunk, kMtp };
  virtual void Head(HeadOf which, absl::Span<const int> rows_wanted, Residual in, float* hidden, float* logits) = 0;

  // Input of the MTP layer: x[row] = fc . [norm(embed(tokens[row])) | norm(hidden[row])], delta = 0. hidden[row] is the
  // post-norm hidden of the position BEFORE positions[row], at which tokens[row] stands. (RoPE turns queries and keys
  // by their distance alone, so counting from the token instead of the hidden changes no score.)
  virtual void MtpInput(const StepBatch& batch, const float* hidden, Residual io) = 0;

  // A recycled slot starts from zero: states and convolution columns.
  virtual void ZeroState(StateSlot slot) = 0;
  virtual void CopyState(StateSlot from, StateSlot to) = 0;
  // Whether x + delta is finite in all of these rows.
  virtual bool RowsAreFinite(Residual in, int first_row, int rows) const = 0;

  // The threads that the blocks run on, for host work between blocks: body(index, thread) for every index in
  // [0, count), thread in [0, threads()). Bodies write only to places that their index or thread owns.
  virtual int threads() const = 0;
  virtual void ParallelFor(int count, absl::FunctionRef<void(int index, int thread)> body) = 0;

  // Forgets what a failed sequence left in a page.
  virtual void ZeroPage(KvPage page) = 0;

  // From now on every Ffn writes its choices of experts to the tape, or takes them from it; null: neither, the state
  // after construction. For comparing backends, one sequence at a time. The tape belongs to the caller.
  virtual void SetRouting(RoutingTape* tape) = 0;
  // Distinct experts that the last Ffn of this layer sent rows to, a shared one not counted; 0 for a dense layer. What
  // a batch reads, for benchmarks.
  virtual int ExpertsRead(int layer) const = 0;
};

}  // namespace gantry::engine
