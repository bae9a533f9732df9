#include "services/common/process_service.h"

#include <unistd.h>

#include "gantry/v1/admin.grpc.pb.h"
#include "services/common/lifecycle.h"

namespace gantry {
namespace {

class ProcessService final : public v1::Process::CallbackService {
 public:
  ProcessService(std::string process, Lifecycle* lifecycle, std::function<ProcessState()> state)
      : process_(std::move(process)), lifecycle_(lifecycle), state_(std::move(state)) {}

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusResponse* response) override {
    ProcessState state = state_();
    response->set_process(process_);
    response->set_version(BuildVersion());
    response->set_pid(static_cast<uint64_t>(getpid()));
    response->set_uptime_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(lifecycle_->Uptime())));
    response->set_live(state.live);
    response->set_ready(state.ready);
    response->set_healthy(state.healthy);
    for (const auto& [name, value] : state.items) {
      v1::StatusItem* item = response->add_items();
      item->set_name(name);
      item->set_value(value);
    }
    return Answer(context);
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override {
    constexpr uint64_t kBudgetLimitMs = 86'400'000;
    if (request->deadline_ms() > kBudgetLimitMs) {
      auto* reactor = context->DefaultReactor();
      reactor->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "deadline_ms: expected at most 86400000"));
      return reactor;
    }
    response->set_running(state_().running);
    lifecycle_->RequestDrain("Process.Drain", absl::Milliseconds(static_cast<int64_t>(request->deadline_ms())));
    return Answer(context);
  }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context) {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  const std::string process_;
  Lifecycle* const lifecycle_;
  const std::function<ProcessState()> state_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeProcessService(std::string process, Lifecycle* lifecycle,
                                                  std::function<ProcessState()> state) {
  return std::make_unique<ProcessService>(std::move(process), lifecycle, std::move(state));
}

}  // namespace gantry
