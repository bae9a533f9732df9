// gantry-gateway: the public API; keys, limits and metering in front of the router.
#include <utility>

#include "gateway/gateway.h"
#include "services/common/config.h"
#include "services/common/latency.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"

namespace {

struct Options {
  gantry::gateway::GatewayOptions gateway;
  std::string metrics = "127.0.0.1:8081";
  std::string durability = "fsync";
  std::string trusted_proxies;
  int64_t threads = 2;
  int64_t spool_mib = 1024;
  int64_t request_seconds = 600;
};

void Declare(gantry::Config& config, Options* options) {
  gantry::gateway::GatewayOptions& gateway = options->gateway;
  config.Group("Public API");
  config.String("http", &gateway.http.address, "host:port of the API");
  config.String("http-tls-certificate", &gateway.http.tls_certificate, "PEM chain; read again when it changes");
  config.String("http-tls-key", &gateway.http.tls_key, "PEM private key");
  config.Bool("insecure", &gateway.insecure, "serve others without TLS: keys and prompts travel in the clear");
  config
      .String("trusted-proxies", &options->trusted_proxies,
              "addresses whose X-Forwarded-For is believed, separated by commas")
      .Example("10.0.0.0/8,::1");
  config.Int("threads", &options->threads, 1, 64, "threads of the API");
  config.Int("request-timeout-s", &options->request_seconds, 1, 86'400, "longest request, queueing included");
  config.Group("Peers");
  config.String("router", &gateway.router, "the router's address")
      .Required()
      .Example("unix:/var/lib/gantry/run/router.sock");
  config.String("billing", &gateway.billing, "billing's address")
      .Required()
      .Example("unix:/var/lib/gantry/run/billing.sock");
  config.String("listen", &gateway.rpc.listen, "status and drain: unix:/path, or host:port with mutual TLS")
      .Required()
      .Example("unix:/var/lib/gantry/run/gateway.sock");
  config.String("metrics", &options->metrics, "host:port of /metrics and /healthz");
  config.Group("Identities (token files, mode 0600)");
  config.String("identity-dir", &gateway.rpc.identity_dir, "directory with gateway.key, router.key, worker.key")
      .Required()
      .Example("/var/lib/gantry/identity");
  config.String("admin-key-file", &gateway.rpc.admin_key_file, "token of the administrator");
  config.Group("Credit and usage");
  config.String("state-dir", &gateway.state_dir, "directory of id, epoch and usage spool")
      .Required()
      .Example("/var/lib/gantry/gateway");
  config.Int("slice-micro", &gateway.slice_micro, 1, 1'000'000'000'000,
             "credit that is set aside per tenant, 10^-6 of its currency's unit");
  config.Choice("spool-durability", &options->durability, {"fsync", "write"},
                "fsync survives power loss, write survives kill -9");
  config.Int("spool-mib", &options->spool_mib, 1, 1 << 20, "limit of the spool; requests are refused beyond it");
  config.Group("Mutual TLS, when --listen, --router or --billing is host:port");
  config.String("tls-certificate", &gateway.rpc.tls.certificate, "PEM chain; its SAN URI is gantry://gateway");
  config.String("tls-key", &gateway.rpc.tls.key, "PEM private key");
  config.String("tls-authority", &gateway.rpc.tls.authority, "PEM certificate authority of the peers");
}

absl::Status Run(Options options, gantry::Lifecycle* lifecycle) {
  gantry::gateway::GatewayOptions& gateway_options = options.gateway;
  auto proxies = gantry::gateway::ParseCidrs(options.trusted_proxies);
  if (!proxies.ok()) return proxies.status();
  auto identity = gantry::LoadIdentity("gateway", gateway_options.rpc.identity_dir);
  if (!identity.ok()) return identity.status();
  gateway_options.identity = *std::move(identity);
  gateway_options.identity.tls = gateway_options.rpc.tls;
  gateway_options.api.trusted_proxies = *std::move(proxies);
  gateway_options.api.request_deadline = absl::Seconds(options.request_seconds);
  gateway_options.http.threads = static_cast<int>(options.threads);
  gateway_options.durability = options.durability == "write" ? gantry::Durability::kWrite : gantry::Durability::kFsync;
  gateway_options.spool_bytes = options.spool_mib << 20;

  gantry::AskForShortTurns();
  auto gateway = gantry::gateway::Gateway::Start(std::move(gateway_options), lifecycle);
  if (!gateway.ok()) return gateway.status();
  auto metrics = gantry::MetricsServer::Start(
      options.metrics, &(*gateway)->metrics(), [&] { return (*gateway)->CurrentHealth(); },
      [&] { (*gateway)->UpdateMetrics(); });
  if (!metrics.ok()) return metrics.status();
  lifecycle->SetReady(true);
  gantry::Log(gantry::LogLevel::kInfo, "gateway listens", {{"port", (*gateway)->http_port()}});

  const gantry::DrainRequestInfo drain = lifecycle->WaitForDrain();
  (*gateway)->Drain(drain.budget);
  (*metrics).reset();
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  gantry::Lifecycle lifecycle;
  Options options;
  options.gateway.rpc.process = "gateway";
  gantry::Config config("gateway", "the public API: checks keys and limits, meters usage, talks to the router.");
  Declare(config, &options);
  const absl::StatusOr<bool> run = config.Parse(argc, argv);
  if (!run.ok()) return gantry::ExitWithError("gateway", run.status());
  if (!*run) return 0;
  const absl::Status status = Run(std::move(options), &lifecycle);
  return status.ok() ? 0 : gantry::ExitWithError("gateway", status);
}
