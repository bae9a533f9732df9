// gantry-router: forwards requests from gateways to workers.
#include <cstdio>

#include "services/common/config.h"
#include "services/common/latency.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/router/fleet.h"
#include "services/router/router.h"
#include "services/router/router_metrics.h"

int main(int argc, char** argv) {
  gantry::Lifecycle lifecycle;
  gantry::router::RouterOptions options;
  options.rpc.process = "router";
  std::string metrics_address = "127.0.0.1:8082";

  gantry::Config config("router", "chooses a worker for each request and forwards its stream.");
  config.Group("Listening");
  config.String("listen", &options.rpc.listen, "unix:/path, or host:port with mutual TLS")
      .Required()
      .Example("unix:/var/lib/gantry/run/router.sock");
  config.String("metrics", &metrics_address, "host:port of /metrics and /healthz");
  config.Group("Identities (token files, mode 0600)");
  config.String("identity-dir", &options.rpc.identity_dir, "directory with gateway.key, router.key, worker.key")
      .Required()
      .Example("/var/lib/gantry/identity");
  config.String("admin-key-file", &options.rpc.admin_key_file, "token of the administrator");
  config.Group("Mutual TLS, when --listen is host:port");
  config.String("tls-certificate", &options.rpc.tls.certificate, "PEM chain; its SAN URI is gantry://router");
  config.String("tls-key", &options.rpc.tls.key, "PEM private key");
  config.String("tls-authority", &options.rpc.tls.authority, "PEM certificate authority of the peers");
  config.Group("Queueing");
  config.Int("queue-limit", &options.queue_limit, 0, 1'000'000, "requests that may wait per model");
  config.Int("queue-wait-ms", &options.queue_wait_ms, 1, 86'400'000, "longest wait for a worker, milliseconds");
  absl::StatusOr<bool> run = config.Parse(argc, argv);
  if (!run.ok()) return gantry::ExitWithError("router", run.status());
  if (!*run) return 0;

  absl::StatusOr<gantry::Identity> identity = gantry::LoadIdentity("router", options.rpc.identity_dir);
  if (!identity.ok()) return gantry::ExitWithError("router", identity.status());
  options.identity = *std::move(identity);
  options.identity.tls = options.rpc.tls;

  gantry::AskForShortTurns();
  auto router = gantry::router::Router::Start(std::move(options), &lifecycle);
  if (!router.ok()) return gantry::ExitWithError("router", router.status());
  auto metrics = gantry::MetricsServer::Start(
      metrics_address, &(*router)->metrics().metrics(), [&] { return (*router)->CurrentHealth(); },
      [&] { (*router)->UpdateMetrics(); });
  if (!metrics.ok()) return gantry::ExitWithError("router", metrics.status());

  lifecycle.SetReady(true);
  gantry::Log(gantry::LogLevel::kInfo, "router is listening",
              {{"address", (*router)->address()}, {"metrics", metrics_address}, {"version", gantry::BuildVersion()}});
  gantry::DrainRequestInfo drain = lifecycle.WaitForDrain();
  (*router)->Drain(drain.budget);
  gantry::Log(gantry::LogLevel::kInfo, "router has drained");
  return 0;
}
