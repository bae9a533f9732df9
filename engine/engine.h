// The public face of the engine: token ids in, token ids out.
//
// Threads: every method may be called from any thread; one internal thread owns the step loop and calls the sinks. A
// Sink must not block and must not call back into the engine. No exception crosses this border. Ownership: the engine
// owns weights, caches and threads; a Sink is shared with the caller and released after OnFinish.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/cache/prefix_tree.h"
#include "engine/sample/sampling_params.h"
#include "engine/spec/spec_mode.h"

namespace gantry::engine {

struct SpecOptions {
  // "off" | "auto" (depth and drafter by measured acceptance and cost) | "mtp:K" | "ngram" | "ngram:K" | "ngram+mtp:K"
  // | "replay:FILE,accept=P1/P2/..." (spec/replay.h), K in 1..5.
  std::string mode = "auto";
};

struct EngineOptions {
  std::string model_path;       // directory with config.json and safetensors, or a .gguf file
  std::string backend = "cpu";  // "reference" | "cpu"
  int threads = 0;              // 0: what cgroup quota and affinity mask allow
  int max_sequences = 16;       // running at once
  int max_queued = 64;          // waiting; one more is RESOURCE_EXHAUSTED
  int max_context = 0;          // positions of one sequence; 0: the model's
  int64_t cache_bytes = 0;      // hard cap for KV pages and state slots; 0: 512 MiB
  // Keys and values: "f32" | "f16" | "int8". Fewer bytes, more positions under the cap and other output bits; the
  // reference backend keeps float32 whatever stands here.
  std::string kv_type = "f16";
  int prefill_chunk_rows = 512;  // rows of prefill in one round, at most; fewer where they take longer than 100 ms
  bool prefix_cache = true;
  int vocab_used = 0;  // ids below this exist in the tokenizer, rows above are padding; 0: all rows
  SpecOptions spec;
};

using RequestId = uint64_t;

struct Request {
  std::vector<TokenId> ids;  // prompt and, after a resume, earlier output. 1..max_context - 1
  int generated_from = 0;    // index where earlier output begins; ids.size() for a fresh request
  SamplingParams sampling;
  int max_tokens = 0;   // generated ids, earlier output included; >= 1
  int until_index = 0;  // do not generate past this index (credit); raised by RaiseLimit; 0: max_tokens
  absl::Duration credit_wait = absl::Milliseconds(250);  // how long to wait at until_index before ending with kCredit
  std::string cache_salt;                                // prefix-cache entries are shared only under an equal salt
  std::vector<int> cache_points;  // <= 4 indices worth a snapshot (end of system + tools, end of last message)
  int priority = 0;
  absl::Time deadline = absl::InfiniteFuture();
  bool prompt_logprobs = false;
};

enum class FinishReason { kStop, kLength, kCredit, kCancelled, kDeadline, kError };

// Cumulative, so that a lost event loses nothing.
struct Counts {
  int64_t prompt = 0;
  int64_t cached = 0;      // prompt tokens read from the prefix cache
  int64_t generated = 0;   // index one past the last generated id
  int64_t recomputed = 0;  // after preemption or resume; never billed
  int64_t drafted = 0;
  int64_t accepted = 0;
};

struct TokenEvent {
  RequestId id = 0;
  int first_index = 0;                              // absolute index of ids[0] among the generated ids
  absl::Span<const TokenId> ids;                    // a stop id, when one ends the sequence, is included
  absl::Span<const TokenLogprobs> logprobs;         // one per id when asked for
  absl::Span<const TokenLogprobs> prompt_logprobs;  // with the first event when asked for
  Counts counts;
};

struct FinishEvent {
  RequestId id = 0;
  FinishReason reason = FinishReason::kStop;
  absl::Status status;   // not ok for kError
  TokenId stop_id = -1;  // which stop id ended it, for kStop
  Counts counts;
  double queue_ms = 0;
  double prefill_ms = 0;
  double decode_ms = 0;
  double device_ms = 0;  // this sequence's share of the rounds it took part in, by rows: shares add up to the rounds
};

class Sink {
 public:
  virtual ~Sink() = default;
  // false: full, the event was not taken. Its sequence alone pauses and the event is offered again after the next
  // round; after Engine's bound (2 s) the sequence is cancelled.
  virtual bool OnTokens(const TokenEvent& event) = 0;
  // Exactly once, the last call.
  virtual void OnFinish(const FinishEvent& event) = 0;
};

// What a worker tells the fleet about its model.
struct Card {
  ModelSpec spec;
  std::string model_path;
  std::string numerics_id;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int max_context = 0;
  int max_sequences = 0;
  int draft_depth = 0;
};

struct EngineStats {
  int running = 0;
  int queued = 0;
  int64_t queued_prompt_tokens = 0;
  int64_t kv_pages_free = 0;    // those that the prefix cache could give among them
  int64_t kv_pages_used = 0;    // by running sequences
  int64_t kv_pages_cached = 0;  // of the free ones, those that hold a prefix
  int64_t snapshots_used = 0;
  int64_t preempted = 0;  // sequences that had to give way, since start
  int64_t rounds = 0;     // advances while work is queued: health
  double last_round_ms = 0;
  double device_ms = 0;      // all rounds since start
  Counts totals;             // since start
  int64_t finished[6] = {};  // by FinishReason
  // Drafts verified at depth i + 1, and of those, accepted.
  int64_t drafted_at[kDraftDepthMax] = {};
  int64_t accepted_at[kDraftDepthMax] = {};
  // Passes of the MTP layer that drafted; of those that did nothing else, number and time.
  int64_t draft_passes = 0, draft_steps = 0;
  double draft_steps_ms = 0;
  // By layer of the trunk: distinct experts that a round read, summed over rounds; 0 for a dense layer.
  std::vector<int64_t> experts_read;
};

// Food of the router's cost model: what one round cost.
struct StepRecord {
  int64_t round = 0;
  int rows_prefill = 0;
  int rows_decode = 0;
  int64_t context_tokens = 0;  // KV positions read
  double milliseconds = 0;
};

class Engine {
 public:
  // Loads and touches everything; the engine is ready when this returns. Errors name file, tensor, expected and found.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options);
  virtual ~Engine() = default;

  // INVALID_ARGUMENT names the field; RESOURCE_EXHAUSTED when the queue is full; UNAVAILABLE while draining.
  virtual absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<Sink> sink) = 0;
  // No effect on an unknown or finished request; a limit is never lowered.
  virtual void RaiseLimit(RequestId id, int until_index) = 0;
  // Ends within one round, also inside prefill. The sink still gets its OnFinish.
  virtual void Cancel(RequestId id) = 0;

  // How requests from now on are speculated for, in place of EngineOptions::spec; what was learned of costs and
  // acceptance under a mode's name counts again when it returns. FAILED_PRECONDITION while a request waits or runs,
  // INVALID_ARGUMENT when the engine was made for less depth or without drafts by the MTP layer.
  virtual absl::Status SetSpeculation(SpecMode mode) = 0;

  virtual const Card& card() const = 0;
  virtual EngineStats Stats() const = 0;
  // The most recent records, oldest first, at most 256.
  virtual std::vector<StepRecord> StepRecords() const = 0;
  // Pages that entered or left the prefix cache after event number `since`; 0 from the start. OUT_OF_RANGE when some of
  // them are no longer kept: PageHashes() then is what is there now.
  virtual absl::StatusOr<std::vector<PageEvent>> Events(int64_t since) const = 0;
  struct PageSet {
    int64_t number = 0;  // of the last event in it
    std::vector<uint64_t> hashes;
  };
  virtual PageSet PageHashes() const = 0;
  // Refuses new requests and returns when the running ones have finished or `deadline` has passed (then they are
  // cancelled).
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace gantry::engine
