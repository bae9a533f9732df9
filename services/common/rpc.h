// Internal gRPC: one way to listen and one way to dial, with who-may-call-what enforced for every method in one place.
//
// Transport: `unix:/path` (socket 0600, caller proves its identity with a token) or `host:port` (mutual TLS,
// identity from the certificate's SAN URI gantry://<identity>; certificate files are read again when they change).
// Nothing else. A call without a known identity ends UNAUTHENTICATED, one outside services/common/allow_list.h
// PERMISSION_DENIED, before any handler or message parser sees it.
//
// Limits on both sides: messages of 16 MiB, keepalive 10 s with 5 s to answer. Retries of the library are off: a caller
// that wants one decides it. Calls have no deadline by themselves: set one on every ClientContext.
//
// The callback API is what servers and clients here use; why, and what keeps it from napping, is in
// docs/decisions/0001-grpc-api.md. Never block in a reaction: two threads serve them all.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/secret.h"

namespace grpc {
class Channel;
class ServerBuilder;
class Service;
}  // namespace grpc

namespace gantry {

inline constexpr int kMaxMessageBytes = 16 << 20;

// Paths of PEM files. Empty members: no TLS.
struct TlsFiles {
  std::string certificate;  // chain of this process; its SAN URI is the identity
  std::string key;
  std::string authority;  // CA that signs the peers
  bool empty() const { return certificate.empty() && key.empty() && authority.empty(); }
};

// Who this process is when it calls.
struct Identity {
  std::string name;  // "gateway", "router", "worker", "admin"
  Secret token;      // for unix sockets
  TlsFiles tls;      // for host:port
};

// Reads <identity_dir>/<name>.key. Errors of ReadSecretFile.
absl::StatusOr<Identity> LoadIdentity(const std::string& name, const std::string& identity_dir);
absl::StatusOr<Identity> LoadAdminIdentity(const std::string& admin_key_file);

struct RpcServerOptions {
  std::string process;         // "billing", "router", "worker", "gateway": selects the rules of the allow-list
  std::string listen;          // "unix:/path" or "host:port" (port 0: any)
  std::string identity_dir;    // tokens of gateway, router, worker; a missing file means nobody has that identity
  std::string admin_key_file;  // token of admin; empty or missing: nobody has it
  TlsFiles tls;                // for host:port
};

class RpcServer {
 public:
  // Services must outlive the server. `configure` (may be null) gets the builder before it starts, for completion
  // queues or resource quotas. Errors: INVALID_ARGUMENT (address, missing TLS files), ALREADY_EXISTS (a process listens
  // there), UNAVAILABLE (cannot bind; names the address), those of ReadSecretFile for identity files that exist.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const RpcServerOptions& options, const std::vector<grpc::Service*>& services,
      const std::function<void(grpc::ServerBuilder&)>& configure = nullptr);
  // Shuts down with no grace unless Shutdown was called before.
  ~RpcServer();

  // Refuses new calls, waits up to `grace` for running ones, cancels the rest. Blocks; call from no reaction.
  void Shutdown(absl::Duration grace);
  // Where peers reach this server: as given, with the port that was chosen.
  const std::string& address() const;

 private:
  struct Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A channel of its own connection to `address` that presents `identity` on every call. Connects when first used, comes
// back by itself (100 ms to 1 s between tries); calls meanwhile fail UNAVAILABLE at once. Make one per peer and keep
// it.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const Identity& identity);

// Keeps gRPC's callback threads from their 100 ms naps (docs/decisions/0001-grpc-api.md). RpcServer::Start and
// MakeChannel call it; the benchmark measures without.
void KeepCallbackThreadsAwake();

}  // namespace gantry
