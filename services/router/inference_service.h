// gantry.v1.Inference as the router serves it: Generate and GetBlob forwarded to workers, ListModels from their cards.
#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace gantry::router {

class Fleet;
class RouterMetrics;

// `admits`: false once the process drains; new Generate streams then end UNAVAILABLE. All arguments outlive the service
// and its streams. `now` is the fleet's clock.
std::unique_ptr<grpc::Service> MakeInferenceService(Fleet* fleet, RouterMetrics* metrics, absl::Duration (*now)(),
                                                    std::function<bool()> admits);

}  // namespace gantry::router
