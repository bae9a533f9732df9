// gantry-billing: keeps every durable fact about money and identity.
#include <unistd.h>

#include "billing/service/billing.h"
#include "services/common/config.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/secret.h"

int main(int argc, char** argv) {
  gantry::Lifecycle lifecycle;
  gantry::billing::BillingOptions options;
  options.rpc.process = "billing";
  std::string metrics_address = "127.0.0.1:8084";

  gantry::Config config("billing", "keeps parties, keys, prices, balances and usage in one SQLite database.");
  config.Group("Listening");
  config.String("listen", &options.rpc.listen, "unix:/path, or host:port with mutual TLS")
      .Required()
      .Example("unix:/var/lib/gantry/run/billing.sock");
  config.String("metrics", &metrics_address, "host:port of /metrics and /healthz");
  config.Group("State");
  config.String("data-dir", &options.data_dir, "directory of gantry.db and pepper; only one process may use it")
      .Required()
      .Example("/var/lib/gantry/billing");
  config
      .String("command-log", &options.command_log,
              "directory on another disk: every group commit syncs its changes there before it is acknowledged, and a "
              "backup with them restores everything; empty: none")
      .Example("/mnt/other/gantry-command-log");
  config.Int("witness-deadline-ms", &options.witness_deadline_ms, 100, 86'400'000,
             "how long a request waits for its second witness before it is flagged, milliseconds");
  config.Group("Messages to parties");
  std::string smtp_password_file;
  config.String("smtp-server", &options.smtp.server, "host or host:port that takes mail; empty: no mail is sent")
      .Example("smtp.example.org:587");
  config.Choice("smtp-security", &options.smtp.security, {"starttls", "tls", "none"}, "how the mail server is reached");
  config.String("smtp-username", &options.smtp.username, "empty: without logging in");
  config.String("smtp-password-file", &smtp_password_file, "file with the password, mode 0600");
  config.String("smtp-from", &options.smtp.from, "the sender of all mails").Example("billing@example.org");
  config.String("smtp-authority", &options.smtp.authority_file, "PEM certificate authority beside the system's");
  config
      .String("webhook-private-networks", &options.webhook.private_networks,
              "private addresses that webhooks may be sent to; all others must be public")
      .Example("10.1.0.0/16,192.168.7.9");
  config.String("webhook-authority", &options.webhook.authority_file, "PEM certificate authority beside the system's");
  config.Group("Identities (token files, mode 0600)");
  config.String("identity-dir", &options.rpc.identity_dir, "directory with gateway.key and worker.key")
      .Required()
      .Example("/var/lib/gantry/identity");
  config.String("admin-key-file", &options.rpc.admin_key_file, "token of the administrator");
  config.Group("Mutual TLS, when --listen is host:port");
  config.String("tls-certificate", &options.rpc.tls.certificate, "PEM chain; its SAN URI is gantry://billing");
  config.String("tls-key", &options.rpc.tls.key, "PEM private key");
  config.String("tls-authority", &options.rpc.tls.authority, "PEM certificate authority of the peers");
  absl::StatusOr<bool> run = config.Parse(argc, argv);
  if (!run.ok()) return gantry::ExitWithError("billing", run.status());
  if (!*run) return 0;

  if (!smtp_password_file.empty()) {
    absl::StatusOr<gantry::Secret> password = gantry::ReadSecretFile(smtp_password_file);
    if (!password.ok()) return gantry::ExitWithError("billing", password.status());
    options.smtp.password = *std::move(password);
  }

  // What the disk holds after a failed commit is known only to a process that reads it anew.
  options.on_fatal = [](const absl::Status& status) {
    gantry::Log(gantry::LogLevel::kError, "stopping at once: the database cannot be written",
                {{"error", status.message()}});
    _exit(1);
  };
  auto billing = gantry::billing::Billing::Start(std::move(options), &lifecycle);
  if (!billing.ok()) return gantry::ExitWithError("billing", billing.status());
  auto metrics = gantry::MetricsServer::Start(metrics_address, &(*billing)->metrics(),
                                              [&] { return (*billing)->CurrentHealth(); });
  if (!metrics.ok()) return gantry::ExitWithError("billing", metrics.status());

  lifecycle.SetReady(true);
  gantry::Log(gantry::LogLevel::kInfo, "billing is listening",
              {{"address", (*billing)->address()}, {"metrics", metrics_address}, {"version", gantry::BuildVersion()}});
  gantry::DrainRequestInfo drain = lifecycle.WaitForDrain();
  (*billing)->Drain(drain.budget);
  gantry::Log(gantry::LogLevel::kInfo, "billing has drained");
  return 0;
}
