// The CLI's way to billing and to the processes: gRPC over the data dir's unix sockets, as identity admin; for the user
// whose token is in $GANTRY_USER_TOKEN, when there is one. Starts threads: never use it before a fork. Not thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/audit.grpc.pb.h"
#include "gantry/v1/closing.grpc.pb.h"
#include "gantry/v1/gateway_admin.grpc.pb.h"
#include "gantry/v1/invoicing.grpc.pb.h"
#include "gantry/v1/notification.grpc.pb.h"
#include "gantry/v1/people.grpc.pb.h"
#include "gantry/v1/quote.grpc.pb.h"
#include "services/cli/data_dir.h"
#include "services/common/grpc_status.h"

namespace gantry::cli {

inline constexpr absl::Duration kAdminDeadline = absl::Seconds(10);

// What to say when no supervisor holds the data dir.
absl::Status NothingRuns(const DataDir& data_dir);

// A key that no other call has, for requests that must happen once.
std::string RandomIdempotencyKey();

struct AdminClientOptions {
  absl::Duration deadline = kAdminDeadline;  // of each call
  bool wait_for_billing = true;              // one that is being started again; false: UNAVAILABLE at once
};

class AdminClient {
 public:
  // FAILED_PRECONDITION: nothing runs here. Errors of LoadAdminIdentity.
  static absl::StatusOr<AdminClient> Connect(const DataDir& data_dir, const AdminClientOptions& options = {});

  // Waits, within the deadline, for a billing that is being started again. Errors: billing's own; DEADLINE_EXCEEDED
  // when it does not answer, which says nothing about whether the call took effect.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                const Request& request) const {
    grpc::ClientContext context;
    Prepare(&context, options_.deadline);
    context.set_wait_for_ready(options_.wait_for_billing);
    Response response;
    const grpc::Status status = (std::get<std::unique_ptr<Stub>>(stubs_).get()->*method)(&context, request, &response);
    if (!status.ok()) return Explain(FromGrpcStatus(status));
    return response;
  }
  // Hands over, one after the other, what a call streams, within `deadline` in all. An error of `take` ends it.
  template <typename Request, typename Part>
  absl::Status Stream(std::unique_ptr<grpc::ClientReader<Part>> (v1::BillingAdmin::Stub::*method)(grpc::ClientContext*,
                                                                                                  const Request&),
                      const Request& request, absl::Duration deadline,
                      const std::function<absl::Status(const Part&)>& take) const {
    grpc::ClientContext context;
    Prepare(&context, deadline);
    const auto reader = (std::get<std::unique_ptr<v1::BillingAdmin::Stub>>(stubs_).get()->*method)(&context, request);
    Part part;
    absl::Status taken;
    while (taken.ok() && reader->Read(&part)) taken = take(part);
    if (!taken.ok()) context.TryCancel();
    const grpc::Status status = reader->Finish();
    if (!taken.ok()) return taken;
    return status.ok() ? absl::OkStatus() : Explain(FromGrpcStatus(status));
  }
  // As Call for a request that changes something: fills in its idempotency key, random when `key` is empty, and names
  // the key when the outcome is unknown.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> CallOnce(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                    Request request, const std::string& key) const {
    request.set_idempotency_key(key.empty() ? RandomIdempotencyKey() : key);
    absl::StatusOr<Response> response = Call(method, request);
    if (response.ok()) return response;
    return ExplainOnce(response.status(), request.idempotency_key());
  }

 private:
  // Billing's administrative services, all over one channel.
  using Stubs = std::tuple<std::unique_ptr<v1::BillingAdmin::Stub>, std::unique_ptr<v1::ReceiptAdmin::Stub>,
                           std::unique_ptr<v1::UserAdmin::Stub>, std::unique_ptr<v1::NotificationAdmin::Stub>,
                           std::unique_ptr<v1::QuoteAdmin::Stub>, std::unique_ptr<v1::InvoiceAdmin::Stub>,
                           std::unique_ptr<v1::GatewayAdmin::Stub>, std::unique_ptr<v1::ClosingAdmin::Stub>,
                           std::unique_ptr<v1::AuditAdmin::Stub>>;

  AdminClient(Stubs stubs, std::string log_file, const AdminClientOptions& options)
      : stubs_(std::move(stubs)), log_file_(std::move(log_file)), options_(options) {}
  static void Prepare(grpc::ClientContext* context, absl::Duration deadline);
  absl::Status Explain(const absl::Status& status) const;
  static absl::Status ExplainOnce(const absl::Status& status, const std::string& key);

  Stubs stubs_;
  std::string log_file_;
  AdminClientOptions options_;
};

// Process.Status of one process. UNAVAILABLE when it does not listen or does not answer in time.
class ProcessClient {
 public:
  // `identity_file`: D/admin.key.
  static absl::StatusOr<ProcessClient> Create(const DataDir& data_dir, const std::string& process);
  // Looks whether anybody listens before it dials, so that a process that is not there yet costs no back-off.
  absl::StatusOr<v1::StatusResponse> Status(absl::Duration timeout);

 private:
  ProcessClient(std::string socket_path, std::string admin_key_file)
      : socket_path_(std::move(socket_path)), admin_key_file_(std::move(admin_key_file)) {}
  std::string socket_path_;
  std::string admin_key_file_;
  std::unique_ptr<v1::Process::Stub> stub_;  // null: not dialled
};

}  // namespace gantry::cli
