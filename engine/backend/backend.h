// The round level of a backend: all that the scheduler calls.
//
// Enqueue takes a RoundPlan, one mixed batch of prefill chunks and decoding sequences, and does verify + accept +
// select state + draft + sample. Results are committed ids, counts and logprobs. The default implementation
// (spec/composed_backend.h) composes a round from Blocks on the host; a device backend may capture the same
// composition.
//
// Speculation is invisible here except in counts: a decoding sequence commits 1 + accepted ids a round, and the ids are
// the same for every drafter and depth (engine/sample/sampler.h says why).
//
// Threads: one thread (the step loop) calls. Errors: a Status from Wait fails the whole round (device lost); a failure
// of one sequence (non-finite activations) is in its SequenceResult and leaves the others' bits alone. Nothing
// allocates in a round.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/blocks.h"
#include "engine/model/model_spec.h"
#include "engine/sample/sampler.h"
#include "engine/sample/sampling_params.h"

namespace gantry::engine {

inline constexpr int kDraftDepthMax = 5;

// Names a sequence's state inside the backend (recurrent slot, pending drafts, sampling history). [0, max_sequences).
using SequenceSlot = int32_t;

struct SequenceStart {
  SamplingParams sampling;
  absl::Span<const TokenId> ids;  // prompt and, after a resume, earlier output
  int generated_from = 0;         // index in ids where earlier output begins: penalties and noise continue from there
  // Continue after `cached` tokens whose pages come with the plans: from this snapshot, in a model that needs one.
  int cached = 0;
  SnapshotSlot snapshot = kNoSnapshot;
  bool cached_mtp = false;  // the pages hold the MTP layer's part too; without it the sequence cannot draft by MTP
};

// What to do for the MTP layer, whose own cache must follow the sequence before it can draft.
enum class MtpCare : uint8_t {
  kDrop,  // nothing; the sequence can never draft by MTP again
  kHold,  // remember what the layer needs and let it wait; when there is no room to remember, drop
  kKeep,  // the same, but when there is no room, compute
};

// One sequence's part of a round.
struct SequencePlan {
  SequenceSlot slot = 0;
  // Covers every position the round may write: those of its rows, and one more + draft_depth after the last.
  absl::Span<const KvPage> pages;
  absl::Span<const TokenId> ids;  // all ids so far: prompt and generated
  int position = 0;               // ids before it are processed
  // > 0: process so many ids; when they are the last ones, sample and start decoding. 0: decode: only the last id is
  // not processed yet.
  int prefill_rows = 0;
  int max_new_ids = 1;  // commit at most this many ids (limits, until_index); >= 1 unless prefilling
  // Decoding: ids to verify in place of the drafts that the backend holds.
  absl::Span<const TokenId> drafts;
  int drafts_max = kDraftDepthMax;  // verify at most so many of the drafts that the backend holds
  int draft_depth = 0;              // MTP drafts to make at the end of this round, verified in the next
  MtpCare mtp = MtpCare::kDrop;
  int mtp_rows = 0;  // of what waits for the MTP layer, compute at most so much in this round
  // Save the state of the prefix of snapshot_at ids, if the round accepts that many.
  SnapshotSlot snapshot = kNoSnapshot;
  int snapshot_at = 0;
  bool want_prompt_logprobs = false;  // logprob of each prompt token given those before it
};

struct RoundPlan {
  std::vector<SequencePlan> sequences;
};

// Of a committed id, before temperature and truncation.
using TokenLogprobs = LogprobRow;

struct SequenceResult {
  SequenceSlot slot = 0;
  absl::Status status;       // not ok: this sequence alone failed
  std::vector<TokenId> ids;  // committed in this round, in order; empty for a prefill chunk that is not the last
  std::vector<TokenLogprobs> logprobs;  // one per id when asked for
  std::vector<TokenLogprobs> prompt_logprobs;
  int drafted = 0;   // drafts verified in this round
  int accepted = 0;  // of those, how many became committed ids
  bool snapshot_taken = false;
  bool can_draft = false;            // MTP has not been dropped
  int mtp_position = 0;              // what the MTP layer holds: all positions before this one
  absl::Span<const TokenId> drafts;  // held for the next round
};

struct RoundResult {
  absl::Span<const SequenceResult> sequences;  // in the order of the plan
  int rows = 0;                                // of the trunk
  int mtp_rows = 0;                            // of the MTP layer, drafting not counted
  double device_ms = 0;
  double verify_ms = 0;  // of that: trunk, heads and sampling
  int draft_steps = 0;   // passes of the MTP layer that drafted; the first of them also follows the accepted ids
  double steps_ms = 0;   // what the others took, each a row of the MTP layer and its head for every drafting sequence
  absl::Span<const int> experts_read;  // by layer of the trunk: distinct experts its rows were sent to
};

using Ticket = int64_t;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual const std::string& numerics_id() const = 0;
  virtual int max_sequences() const = 0;
  virtual int max_rows() const = 0;
  virtual int max_draft_depth() const = 0;  // ids of one sequence that one round can verify beside the first
  virtual CacheCosts costs() const = 0;

  // REQUIRES: slot is closed. States are zeroed or copied from the snapshot, sampling history is set from ids.
  virtual absl::Status Open(SequenceSlot slot, const SequenceStart& start) = 0;
  virtual void Close(SequenceSlot slot) = 0;
  // Forgets what a failed sequence left behind.
  virtual void ZeroPage(KvPage page) = 0;

  virtual absl::StatusOr<Ticket> Enqueue(const RoundPlan& plan) = 0;
  // The result is valid until the next Enqueue. REQUIRES: ticket came from the last Enqueue and was not waited for.
  virtual absl::StatusOr<const RoundResult*> Wait(Ticket ticket) = 0;
};

}  // namespace gantry::engine
