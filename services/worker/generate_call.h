// One Inference.Generate stream: several sequences of one prompt, run by the engine, written as frames.
//
// The engine's thread pushes into a bounded queue and never waits: a full queue makes the sink say so, and the engine
// pauses that sequence alone. Tokens of several rounds may share a frame (frame_pacer.h). A stream whose transport
// breaks leaves its sequences as orphans (rule R1): they run at most 2 s and at most 256 tokens past the last ack, then
// end; their witness records say what they did.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "gantry/v1/inference.pb.h"
#include "services/worker/delayed_calls.h"
#include "services/worker/energy_meter.h"
#include "services/worker/frame_pacer.h"
#include "services/worker/witness.h"

namespace gantry::worker {

struct GenerateContext {
  engine::Engine* engine = nullptr;
  WitnessSender* witness = nullptr;
  DelayedCalls* delayed = nullptr;
  FramePacer* pacer = nullptr;
  EnergyMeter* energy = nullptr;  // null: joules are not counted
  std::string model;              // served name
  std::string worker_id;          // 16 bytes
  std::string numerics_id;
};

using GenerateReactor = grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage>;

// Owns itself until the stream and all its sequences are done. `context` outlives every call.
GenerateReactor* StartGenerateCall(const GenerateContext* context);

// The checks that need no engine; INVALID_ARGUMENT names the field. Fills one engine request per sequence.
absl::StatusOr<std::vector<engine::Request>> ReadStart(const v1::GenerateStart& start, const std::string& served_model);

}  // namespace gantry::worker
