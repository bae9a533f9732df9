// gantry.v1.Fleet: where workers dial in. One reactor per worker, translating its reports into calls of Fleet.
#pragma once

#include <memory>

namespace grpc {
class Service;
}  // namespace grpc

namespace gantry::router {

class Fleet;

// `fleet` outlives the service and every stream of it.
std::unique_ptr<grpc::Service> MakeAttachService(Fleet* fleet);

}  // namespace gantry::router
