#include "services/common/grpc_status.h"

#include <grpcpp/support/status.h>

#include <string>

namespace gantry {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  constexpr size_t kMessageLimit = 4096;
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message().substr(0, kMessageLimit)));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace gantry
