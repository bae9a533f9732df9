#include "services/common/rpc.h"

#include <fcntl.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security_constants.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "services/common/allow_list.h"
#include "services/common/log.h"

namespace gantry {
namespace {

constexpr char kIdentityKey[] = "gantry-identity";
constexpr char kTokenKey[] = "gantry-token";
constexpr int kKeepaliveMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 5'000;

// The library's own messages become log lines; what it calls information is of no use to an operator.
void InstallLibraryLog() {
  static const bool installed = [] {
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    gpr_set_log_function([](gpr_log_func_args* args) {
      Log(LogLevel::kWarning, "grpc", {{"message", args->message}, {"file", args->file}, {"line", args->line}});
    });
    return true;
  }();
  (void)installed;
}

absl::string_view View(const grpc::string_ref& text) {
  return {text.data(), text.size()};
}

std::string FindOnly(const grpc::AuthMetadataProcessor::InputMetadata& metadata, const char* key) {
  auto range = metadata.equal_range(key);
  // Twice the same key is somebody trying something: treated as absent.
  if (range.first == range.second || std::next(range.first) != range.second) return "";
  return std::string(View(range.first->second));
}

// Runs for every call of every service before any handler. Sees the method as `:path`.
class Gatekeeper : public grpc::AuthMetadataProcessor {
 public:
  Gatekeeper(std::string server, std::map<std::string, Secret> tokens, bool by_certificate)
      : server_(std::move(server)), tokens_(std::move(tokens)), by_certificate_(by_certificate) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata* consumed,
                       OutputMetadata* /*response*/) override {
    std::string path = FindOnly(metadata, ":path");
    std::string identity = by_certificate_ ? FromCertificate(*context) : FromToken(metadata);
    for (const char* key : {kIdentityKey, kTokenKey}) {
      auto range = metadata.equal_range(key);
      for (auto it = range.first; it != range.second; ++it) {
        consumed->emplace(std::string(View(it->first)), std::string(View(it->second)));
      }
    }
    if (identity.empty()) {
      return grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                          absl::StrCat(server_, ": the caller has no valid identity (gateway, router, worker, admin)"));
    }
    if (!IsAllowed(identity, server_, path)) {
      Log(LogLevel::kWarning, "call denied", {{"identity", identity}, {"method", path}});
      return grpc::Status(grpc::StatusCode::PERMISSION_DENIED,
                          absl::StrCat("identity ", identity, " may not call ", path, " of ", server_));
    }
    return grpc::Status::OK;
  }

 private:
  std::string FromToken(const InputMetadata& metadata) const {
    std::string name = FindOnly(metadata, kIdentityKey);
    auto known = tokens_.find(name);
    if (known == tokens_.end() || known->second.empty()) return "";
    return known->second.Equals(FindOnly(metadata, kTokenKey)) ? name : "";
  }

  static std::string FromCertificate(const grpc::AuthContext& context) {
    if (!context.IsPeerAuthenticated()) return "";
    std::string found;
    for (const grpc::string_ref& uri : context.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      absl::string_view name = View(uri);
      if (!absl::ConsumePrefix(&name, "gantry://")) continue;
      if (!found.empty()) return "";  // a certificate for two identities is for none
      found = std::string(name);
    }
    return std::find(std::begin(kIdentities), std::end(kIdentities), found) != std::end(kIdentities) ? found : "";
  }

  const std::string server_;
  const std::map<std::string, Secret> tokens_;
  const bool by_certificate_;
};

class TokenPlugin : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenPlugin(const Identity& identity) : name_(identity.name), token_(identity.token) {}
  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return "gantry"; }
  grpc::string DebugString() override { return absl::StrCat("identity ", name_); }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace(kIdentityKey, name_);
    metadata->emplace(kTokenKey, std::string(token_.Reveal()));  // what a token is for; the transport is private
    return grpc::Status::OK;
  }

 private:
  const std::string name_;
  const Secret token_;
};

absl::StatusOr<std::string> UnixPath(const std::string& listen) {
  std::string path(absl::StripPrefix(listen, "unix:"));
  if (path.empty() || path[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("address ", listen, ": a unix socket needs an absolute path, unix:/path"));
  }
  if (path.size() >= sizeof(sockaddr_un{}.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("address ", listen, ": a unix socket's path has at most ",
                                                   sizeof(sockaddr_un{}.sun_path) - 1, " characters, this one ",
                                                   path.size(), "; choose a shorter data dir"));
  }
  return path;
}

// A socket file may be left over from a crash: then nobody answers, and it may be replaced.
bool SomebodyListens(const std::string& path) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  bool listens = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 || errno == EAGAIN;
  close(fd);
  return listens;
}

absl::Status CheckReadable(const TlsFiles& tls) {
  for (const auto& [what, path] : {std::pair<const char*, const std::string&>{"certificate", tls.certificate},
                                   {"key", tls.key},
                                   {"certificate authority", tls.authority}}) {
    if (path.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("mutual TLS needs certificate, key and certificate authority; the ", what, " is not set"));
    }
    if (access(path.c_str(), R_OK) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("TLS ", what, " ", path));
  }
  return absl::OkStatus();
}

std::shared_ptr<grpc::experimental::CertificateProviderInterface> Certificates(const TlsFiles& tls) {
  constexpr unsigned kRefreshSeconds = 60;
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(tls.key, tls.certificate, tls.authority,
                                                                              kRefreshSeconds);
}

std::shared_ptr<grpc::ServerCredentials> TlsServer(const TlsFiles& tls) {
  grpc::experimental::TlsServerCredentialsOptions options(Certificates(tls));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> TlsClient(const TlsFiles& tls) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Certificates(tls));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace

absl::StatusOr<Identity> LoadIdentity(const std::string& name, const std::string& identity_dir) {
  absl::StatusOr<Secret> token = ReadSecretFile(absl::StrCat(identity_dir, "/", name, ".key"));
  if (!token.ok()) return token.status();
  return Identity{name, *std::move(token), {}};
}

absl::StatusOr<Identity> LoadAdminIdentity(const std::string& admin_key_file) {
  absl::StatusOr<Secret> token = ReadSecretFile(admin_key_file);
  if (!token.ok()) return token.status();
  return Identity{"admin", *std::move(token), {}};
}

struct RpcServer::Impl {
  std::string address;
  std::string socket_path;  // empty for TCP
  std::unique_ptr<grpc::Server> server;
  bool shut_down = false;
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RpcServer::~RpcServer() {
  Shutdown(absl::ZeroDuration());
}

const std::string& RpcServer::address() const {
  return impl_->address;
}

void RpcServer::Shutdown(absl::Duration grace) {
  if (impl_->shut_down) return;
  impl_->shut_down = true;
  impl_->server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
  impl_->server->Wait();
  if (!impl_->socket_path.empty()) unlink(impl_->socket_path.c_str());
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const RpcServerOptions& options, const std::vector<grpc::Service*>& services,
    const std::function<void(grpc::ServerBuilder&)>& configure) {
  InstallLibraryLog();
  auto impl = std::make_unique<Impl>();
  impl->address = options.listen;
  const bool is_unix = absl::StartsWith(options.listen, "unix:");

  std::map<std::string, Secret> tokens;
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (is_unix) {
    absl::StatusOr<std::string> path = UnixPath(options.listen);
    if (!path.ok()) return path.status();
    impl->socket_path = *path;
    std::string directory = path->substr(0, std::max<size_t>(1, path->rfind('/')));
    if (access(directory.c_str(), W_OK | X_OK) != 0) {
      return absl::UnavailableError(
          absl::StrCat("address ", options.listen, ": cannot listen there: ", directory, ": ", std::strerror(errno)));
    }
    if (SomebodyListens(*path)) {
      return absl::AlreadyExistsError(
          absl::StrCat("address ", options.listen, ": a running process listens there already; stop it first"));
    }
    for (absl::string_view name : kIdentities) {
      std::string file =
          name == "admin" ? options.admin_key_file : absl::StrCat(options.identity_dir, "/", name, ".key");
      if (file.empty()) continue;
      absl::StatusOr<Secret> token = ReadSecretFile(file);
      if (absl::IsNotFound(token.status())) continue;
      if (!token.ok()) return token.status();
      tokens.emplace(std::string(name), *std::move(token));
    }
    credentials = grpc::experimental::LocalServerCredentials(UDS);
  } else {
    if (options.listen.rfind(':') == options.listen.npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("address '", options.listen, "': expected unix:/path or host:port"));
    }
    if (absl::Status readable = CheckReadable(options.tls); !readable.ok()) return readable;
    credentials = TlsServer(options.tls);
  }
  credentials->SetAuthMetadataProcessor(std::make_shared<Gatekeeper>(options.process, std::move(tokens), !is_unix));

  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kKeepaliveTimeoutMs);
  // Two pollers per synchronous queue are enough; idle memory counts.
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (configure) configure(builder);

  int port = 0;
  builder.AddListeningPort(options.listen, credentials, &port);
  // The socket must never exist with wider rights, not even for a moment.
  mode_t old_mask = umask(0177);
  impl->server = builder.BuildAndStart();
  umask(old_mask);
  if (impl->server == nullptr || (!is_unix && port == 0)) {
    return absl::UnavailableError(absl::StrCat("address ", options.listen,
                                               ": cannot listen there (is the directory writable, is the port free?)"));
  }
  if (is_unix) {
    chmod(impl->socket_path.c_str(), 0600);
  } else {
    impl->address = absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":", port);
  }
  KeepCallbackThreadsAwake();
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const Identity& identity) {
  InstallLibraryLog();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Never shares a connection with another identity of this process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  if (absl::StartsWith(address, "unix:")) {
    credentials =
        grpc::CompositeChannelCredentials(grpc::experimental::LocalCredentials(UDS),
                                          grpc::MetadataCredentialsFromPlugin(std::make_unique<TokenPlugin>(identity)));
  } else {
    credentials = TlsClient(identity.tls);
  }
  KeepCallbackThreadsAwake();
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

namespace {

// A call on a channel without credentials fails inside the library, and its completion is an event on the shared
// callback queue: the cheapest wake-up that the public API offers.
class Awake {
 public:
  Awake() : thread_([this] { Tick(); }) {}
  // At exit, before the library's own statics go.
  ~Awake() {
    stop_.Notify();
    thread_.join();
  }

 private:
  void Tick() {
    struct Call {
      grpc::ClientContext context;
      grpc::ByteBuffer request;
      grpc::ByteBuffer response;
    };
    grpc::GenericStub stub(grpc::CreateChannel("unix:/", nullptr));
    do {
      auto call = std::make_shared<Call>();
      grpc::Slice empty("", 0);
      call->request = grpc::ByteBuffer(&empty, 1);
      stub.UnaryCall(&call->context, "/gantry.Awake/Tick", grpc::StubOptions(), &call->request, &call->response,
                     [call](const grpc::Status&) {});
    } while (!stop_.WaitForNotificationWithTimeout(absl::Milliseconds(200)));
  }

  absl::Notification stop_;
  std::thread thread_;
};

}  // namespace

void KeepCallbackThreadsAwake() {
  // One reference to the library for ever: giving back the last one joins a thread that may sit in a poll of 10 s
  // (gRPC 1.51's poller of connections that nobody waits on), and the process's exit with it.
  [[maybe_unused]] static const bool kept = [] {
    grpc_init();
    return true;
  }();
  static Awake awake;
}

}  // namespace gantry
