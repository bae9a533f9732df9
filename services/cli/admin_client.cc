#include "services/cli/admin_client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "services/cli/supervisor.h"
#include "services/common/ids.h"
#include "services/common/rpc.h"

namespace gantry::cli {
namespace {

bool SomebodyListens(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path)) return false;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return connected;
}

}  // namespace

absl::Status NothingRuns(const DataDir& data_dir) {
  return absl::FailedPreconditionError(
      absl::StrCat("nothing runs on ", data_dir.root(), "; start it with: gantry up --data-dir ", data_dir.root()));
}

std::string RandomIdempotencyKey() {
  return absl::StrCat("cli-", NewTimeOrderedId().ToHex());
}

absl::StatusOr<AdminClient> AdminClient::Connect(const DataDir& data_dir, const AdminClientOptions& options) {
  if (LockHolder(data_dir) == 0) return NothingRuns(data_dir);
  GANTRY_ASSIGN_OR_RETURN(const Identity identity, LoadAdminIdentity(data_dir.admin_key_file()));
  const std::shared_ptr<grpc::Channel> channel = MakeChannel(data_dir.socket("billing"), identity);
  return AdminClient(
      {v1::BillingAdmin::NewStub(channel), v1::ReceiptAdmin::NewStub(channel), v1::UserAdmin::NewStub(channel),
       v1::NotificationAdmin::NewStub(channel), v1::QuoteAdmin::NewStub(channel), v1::InvoiceAdmin::NewStub(channel),
       v1::GatewayAdmin::NewStub(channel), v1::ClosingAdmin::NewStub(channel), v1::AuditAdmin::NewStub(channel)},
      data_dir.log_file("billing"), options);
}

void AdminClient::Prepare(grpc::ClientContext* context, absl::Duration deadline) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  const char* token = std::getenv("GANTRY_USER_TOKEN");
  if (token != nullptr && *token != '\0') context->AddMetadata("gantry-user", token);
}

absl::Status AdminClient::Explain(const absl::Status& status) const {
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return status;
  const std::string last = LastLogLine(log_file_);
  return absl::Status(
      status.code(),
      absl::StrCat("billing does not answer within ", absl::FormatDuration(options_.deadline),
                   "; `gantry status` shows its state, ", log_file_, " says", last.empty() ? " nothing" : ": " + last));
}

absl::Status AdminClient::ExplainOnce(const absl::Status& status, const std::string& key) {
  if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return status;
  return absl::Status(status.code(), absl::StrCat(status.message(),
                                                  " (to repeat it without doing it twice, add "
                                                  "--idempotency-key ",
                                                  key, ")"));
}

absl::StatusOr<ProcessClient> ProcessClient::Create(const DataDir& data_dir, const std::string& process) {
  const std::string address = data_dir.socket(process);
  return ProcessClient(std::string(absl::StripPrefix(address, "unix:")), data_dir.admin_key_file());
}

absl::StatusOr<v1::StatusResponse> ProcessClient::Status(absl::Duration timeout) {
  if (stub_ == nullptr) {
    if (!SomebodyListens(socket_path_)) return absl::UnavailableError("does not listen");
    GANTRY_ASSIGN_OR_RETURN(const Identity identity, LoadAdminIdentity(admin_key_file_));
    stub_ = v1::Process::NewStub(MakeChannel("unix:" + socket_path_, identity));
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  v1::StatusResponse response;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &response);
  if (status.ok()) return response;
  stub_.reset();  // a new channel dials at once, an old one waits out its back-off
  return FromGrpcStatus(status);
}

}  // namespace gantry::cli
