// One Generate stream through the router: a server stream from the gateway, a wait for a worker, a client stream to it.
//
//   start ──▶ waiting ──▶ streaming ──▶ ended
//     └─────────┴──────────────┴───────────▲
//
// The start message is parsed (model, sequences, priority, deadline) and re-encoded once, with what is left of its
// deadline. After that, messages pass as the byte buffers they came in, one in flight each way: the next is read when
// the last has been written, so a slow reader holds back its own worker stream and nothing else, and memory is bounded
// by two messages.
//
// Endings. Worker closes: its status goes to the gateway. Gateway's transport breaks or its deadline passes: the
// worker's stream is cancelled at once, which the worker takes as a broken transport (its orphan rules apply). An
// explicit `cancel` passes as a message; while still waiting, the router itself answers it with finishes of reason
// CANCELLED. Worker lost: UNAVAILABLE "worker … lost".
#pragma once

#include <memory>

#include "absl/time/time.h"

namespace grpc {
class ByteBuffer;
class CallbackServerContext;
template <class Request, class Response>
class ServerBidiReactor;
}  // namespace grpc

namespace gantry::router {

class Fleet;
class RouterMetrics;

// The reactor owns itself. `fleet` and `metrics` outlive it. `now` is the fleet's clock.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NewGenerateRelay(grpc::CallbackServerContext* context,
                                                                              Fleet* fleet, RouterMetrics* metrics,
                                                                              absl::Duration (*now)());

}  // namespace gantry::router
