// The round level of a backend: all that the scheduler calls.
//
// Enqueue takes a RoundPlan, one mixed batch of prefill chunks and decoding sequences, and does verify + accept +
// select state + draft + sample. Results are committed ids, counts and logprobs. The default implementation
// (composed_backend.h) composes a round from Blocks on the host; a device backend may capture the same composition.
//
// Speculation is invisible here except in counts: a decoding sequence commits 1 + accepted ids a round, and the ids are
// the same for every drafter and depth (engine/sample/sampler.h says why).
//
// Threads: one thread (the step loop) calls. Errors: a Status from Wait fails the whole round (device lost); a failure
// of one sequence (non-finite activations) is in its SequenceResult and leaves the others' bits alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/blocks.h"
#include "engine/model/model_spec.h"
#include "engine/sample/sampling_params.h"

namespace gantry::engine {

// Names a sequence's state inside the backend (recurrent slots, pending drafts, sampling history). [0, max_sequences).
using SequenceSlot = int32_t;

struct SequenceStart {
  SamplingParams sampling;
  absl::Span<const TokenId> ids;  // prompt and, after a resume, earlier output
  int generated_from = 0;         // index in ids where earlier output begins: penalties and noise continue from there
};

// One sequence's part of a round.
struct SequencePlan {
  SequenceSlot slot = 0;
  absl::Span<const KvPage> pages;  // covers every position the round may write: rows + draft depth
  // Prefill: the next prompt tokens. Empty: decode from the last committed id (and the drafts the backend holds).
  absl::Span<const TokenId> prefill;
  int position = 0;                  // absolute position of the first row
  bool prefill_ends_prompt = false;  // the last prefill row is sampled and starts decoding
  TokenId next_prompt_id = -1;       // the id after this chunk, unless it ends the prompt: the MTP layer needs it
  int draft_depth = 0;  // drafts to make at the end of this round, verified in the next; 0 = plain decoding
  int max_new_ids = 0;  // commit at most this many ids (limits, until_index); >= 1 when decoding
  bool want_prompt_logprobs = false;  // logprob of each prompt token given those before it
};

struct RoundPlan {
  std::vector<SequencePlan> sequences;
};

struct TokenLogprobs {
  float logprob = 0;                           // of the committed id, before temperature and truncation
  std::vector<std::pair<TokenId, float>> top;  // best first
};

struct SequenceResult {
  SequenceSlot slot = 0;
  absl::Status status;       // not ok: this sequence alone failed
  std::vector<TokenId> ids;  // committed in this round, in order; empty for a prefill chunk that is not the last
  std::vector<TokenLogprobs> logprobs;  // one per id when asked for
  std::vector<TokenLogprobs> prompt_logprobs;
  int drafted = 0;   // drafts verified in this round
  int accepted = 0;  // of those, how many became committed ids
};

struct RoundResult {
  std::vector<SequenceResult> sequences;  // in the order of the plan
  int rows = 0;
  double device_ms = 0;
};

using Ticket = int64_t;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual const std::string& numerics_id() const = 0;
  virtual int max_sequences() const = 0;
  virtual int max_rows() const = 0;
  virtual int max_draft_depth() const = 0;  // 0 when the model has no MTP layer or speculation is off
  virtual CacheCosts costs() const = 0;

  // REQUIRES: slot is closed. States are zeroed, sampling history is set from ids.
  virtual absl::Status Open(SequenceSlot slot, const SequenceStart& start) = 0;
  virtual void Close(SequenceSlot slot) = 0;

  virtual absl::StatusOr<Ticket> Enqueue(const RoundPlan& plan) = 0;
  // The result is valid until the next Enqueue. REQUIRES: ticket came from the last Enqueue and was not waited for.
  virtual absl::StatusOr<const RoundResult*> Wait(Ticket ticket) = 0;
};

}  // namespace gantry::engine
