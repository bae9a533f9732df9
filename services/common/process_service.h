// gantry.v1.Process for any process: Status and Drain, identity admin. Register it with RpcServer::Start.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace grpc {
class Service;
}  // namespace grpc

namespace gantry {

class Lifecycle;

struct ProcessState {
  bool live = true;
  bool ready = false;
  bool healthy = true;                                     // workers: steps advance while work is queued
  uint32_t running = 0;                                    // requests in progress
  std::vector<std::pair<std::string, std::string>> items;  // {"workers", "1"}, {"queue", "0/1024"}
};

// `lifecycle` outlives the service. `state` is called on RPC threads and must not block.
std::unique_ptr<grpc::Service> MakeProcessService(std::string process, Lifecycle* lifecycle,
                                                  std::function<ProcessState()> state);

}  // namespace gantry
