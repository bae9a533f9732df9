// The one translation between absl::Status (inside) and grpc::Status (on the wire). Codes have the same numbers.
#pragma once

#include "absl/status/status.h"

namespace grpc {
class Status;
}  // namespace grpc

namespace gantry {

// Messages longer than 4 KiB are cut: they travel in a header.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace gantry
