// One request on its way through the scheduler.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/sched/speculator.h"

namespace gantry::engine {

struct Sequence {
  RequestId id = 0;
  Request request;
  std::shared_ptr<Sink> sink;
  absl::Time submitted, started = absl::InfiniteFuture(), first_token = absl::InfiniteFuture();

  SequenceSlot slot = -1;    // -1: waiting, for the first time or again after a preemption
  std::vector<TokenId> ids;  // prompt and output
  KvCache::Holding kv;
  int processed = 0;      // positions whose KV and state exist
  bool decoding = false;  // all ids but the last are processed
  // Positions [recompute_from, recompute_to) have been computed before: after a resume elsewhere or a preemption here.
  int recompute_from = 0, recompute_to = 0;
  Speculator::Track spec;
  Counts counts;
  double device_ms = 0;  // of the rounds so far, its share

  std::vector<int> snapshot_points;           // positions worth a snapshot, not yet reached; ascending, whole pages
  SnapshotSlot spare_snapshot = kNoSnapshot;  // reserved, not in the tree
  // The last snapshot taken while decoding: of use until the next one is.
  TreeNode rolling_node = kNoNode;
  SnapshotSlot rolling_snapshot = kNoSnapshot;

  // Generated, not yet taken by the sink.
  std::vector<TokenId> pending_ids;
  std::vector<TokenLogprobs> pending_logprobs, pending_prompt_logprobs;
  absl::Time sink_full_since = absl::InfiniteFuture();
  absl::Time credit_wait_since = absl::InfiniteFuture();

  bool ending = false;  // no more rounds; ends when the sink has taken what is pending
  FinishReason reason = FinishReason::kStop;
  absl::Status status;
  TokenId stop_id = -1;
  bool finished = false;

  int size() const { return static_cast<int>(ids.size()); }
  int prompt_size() const { return request.generated_from; }
  // Who keeps running when not all can: higher priority, then who came first.
  bool Outranks(const Sequence& other) const {
    return request.priority != other.request.priority ? request.priority > other.request.priority : id < other.id;
  }
  void End(FinishReason why, absl::Status what = absl::OkStatus()) {
    if (ending) return;
    ending = true;
    reason = why;
    status = std::move(what);
  }
};

}  // namespace gantry::engine
