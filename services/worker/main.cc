// gantry-worker: runs the engine and serves it to routers.
#include <grpcpp/impl/service_type.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "services/common/config.h"
#include "services/common/instance.h"
#include "services/common/latency.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/process_service.h"
#include "services/worker/attach_client.h"
#include "services/worker/inference_service.h"
#include "services/worker/model_options.h"

namespace gantry::worker {
namespace {

// The engine's figures as metrics; counters take over what has been added since the last scrape.
class WorkerMetrics {
 public:
  WorkerMetrics(Metrics* metrics, const engine::Engine* engine, EnergyMeter* energy)
      : engine_(engine), energy_(energy) {
    prometheus::Registry& registry = *metrics->registry();
    const auto gauge = [&](const char* name, const char* help) -> prometheus::Gauge& {
      return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
    };
    const auto counter = [&](const char* name, const char* help) -> prometheus::Counter& {
      return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
    };
    running_ = &gauge("gantry_worker_running_sequences", "Sequences in the batch");
    queued_ = &gauge("gantry_worker_queued_sequences", "Sequences waiting in the worker");
    auto& pages =
        prometheus::BuildGauge().Name("gantry_worker_kv_pages").Help("KV pages of 64 tokens").Register(registry);
    pages_free_ = &pages.Add({{"state", "free"}});
    pages_used_ = &pages.Add({{"state", "used"}});
    generated_ = &counter("gantry_worker_generated_tokens_total", "Tokens generated");
    prompt_ = &counter("gantry_worker_prompt_tokens_total", "Prompt tokens computed");
    drafted_ = &counter("gantry_worker_drafted_tokens_total", "Tokens drafted by speculation");
    accepted_ = &counter("gantry_worker_accepted_tokens_total", "Drafted tokens that were accepted");
    rounds_ = &counter("gantry_worker_rounds_total", "Rounds of the engine");
    device_seconds_ = &counter("gantry_worker_device_seconds_total", "Time in rounds");
    joules_ = &counter("gantry_worker_joules_total",
                       "Energy of the machine's packages and memory since start; stays 0 where it is not measured");
    round_seconds_ = &gauge("gantry_worker_last_round_seconds", "Duration of the last round");
  }

  void Update() {
    const engine::EngineStats stats = engine_->Stats();
    running_->Set(stats.running);
    queued_->Set(stats.queued);
    pages_free_->Set(static_cast<double>(stats.kv_pages_free));
    pages_used_->Set(static_cast<double>(stats.kv_pages_used));
    round_seconds_->Set(stats.last_round_ms / 1e3);
    const auto raise = [](prometheus::Counter* counter, double total) {
      const double added = total - counter->Value();
      if (added > 0) counter->Increment(added);
    };
    const auto raise_to = [&](prometheus::Counter* counter, int64_t total) {
      raise(counter, static_cast<double>(total));
    };
    raise_to(generated_, stats.totals.generated);
    raise_to(prompt_, stats.totals.prompt);
    raise_to(drafted_, stats.totals.drafted);
    raise_to(accepted_, stats.totals.accepted);
    raise_to(rounds_, stats.rounds);
    raise(device_seconds_, stats.device_ms / 1e3);
    raise(joules_, energy_->Read());
  }

 private:
  const engine::Engine* const engine_;
  EnergyMeter* const energy_;
  prometheus::Gauge *running_, *queued_, *pages_free_, *pages_used_, *round_seconds_;
  prometheus::Counter *generated_, *prompt_, *drafted_, *accepted_, *rounds_, *device_seconds_, *joules_;
};

struct Options {
  RpcServerOptions rpc;
  ModelOptions model;
  std::string metrics = "127.0.0.1:8083", router, billing, state_dir, durability = "fsync";
  std::string powercap_dir = EnergyMeter::kRoot;
  int64_t frames_per_s = 500;
};

absl::Status Run(const Options& options, Lifecycle* lifecycle) {
  GANTRY_ASSIGN_OR_RETURN(Identity identity, LoadIdentity("worker", options.rpc.identity_dir));
  identity.tls = options.rpc.tls;
  GANTRY_ASSIGN_OR_RETURN(const Instance instance, LoadInstance(options.state_dir));

  GANTRY_ASSIGN_OR_RETURN(const engine::EngineOptions engine_options, options.model.ForEngine());
  GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine, engine::Engine::Create(engine_options));
  // Not for the engine's threads, which run already.
  AskForShortTurns();
  std::string served = options.model.model_name;
  if (served.empty()) served = std::filesystem::path(options.model.model).lexically_normal().filename().string();
  GANTRY_ASSIGN_OR_RETURN(const ModelFiles files, ReadModelFiles(served, engine->card()));

  GANTRY_ASSIGN_OR_RETURN(
      const std::unique_ptr<WitnessSender> witness,
      WitnessSender::Start({.state_dir = options.state_dir,
                            .billing = options.billing,
                            .identity = identity,
                            .worker_id = instance.id.ToBytes(),
                            .epoch = instance.epoch,
                            .model = served,
                            .durability = options.durability == "write" ? Durability::kWrite : Durability::kFsync}));
  EnergyMeter energy(options.powercap_dir);
  std::function<void()> read_energy;  // again and again, so that no counter wraps unseen
  DelayedCalls delayed;
  read_energy = [&] {
    energy.Read();
    delayed.After(EnergyMeter::kReadAtLeastEvery, read_energy);
  };
  read_energy();
  FramePacer pacer(static_cast<int>(options.frames_per_s));
  const GenerateContext context{.engine = engine.get(),
                                .witness = witness.get(),
                                .delayed = &delayed,
                                .pacer = &pacer,
                                .energy = &energy,
                                .model = served,
                                .worker_id = instance.id.ToBytes(),
                                .numerics_id = engine->card().numerics_id};
  InferenceService inference(&context, &files);
  std::unique_ptr<AttachClient> attach;
  const auto process = MakeProcessService("worker", lifecycle, [&] {
    const engine::EngineStats stats = engine->Stats();
    ProcessState state;
    state.ready = lifecycle->ready() && attach != nullptr && attach->attached();
    state.running = static_cast<uint32_t>(stats.running);
    state.items = {{"model", served},
                   {"running", absl::StrCat(stats.running)},
                   {"queued", absl::StrCat(stats.queued)},
                   {"energy", energy.sources()},
                   {"witness records waiting", absl::StrCat(witness->pending())},
                   {"numerics", engine->card().numerics_id}};
    return state;
  });
  GANTRY_ASSIGN_OR_RETURN(const auto server, RpcServer::Start(options.rpc, {&inference, process.get()}));

  AttachOptions attach_options{.router = options.router, .identity = identity};
  attach_options.hello.set_worker_id(instance.id.ToBytes());
  attach_options.hello.set_epoch(instance.epoch);
  attach_options.hello.set_address(server->address());
  *attach_options.hello.add_models() = files.card;
  attach = std::make_unique<AttachClient>(std::move(attach_options), engine.get());

  Metrics metrics;
  WorkerMetrics worker_metrics(&metrics, engine.get(), &energy);
  GANTRY_ASSIGN_OR_RETURN(const auto metrics_server,
                          MetricsServer::Start(
                              options.metrics, &metrics,
                              [&] {
                                return Health{
                                    .live = true,
                                    .ready = lifecycle->ready() && attach->attached(),
                                    .detail = absl::StrCat(served, ", ", engine->Stats().running, " running")};
                              },
                              [&] { worker_metrics.Update(); }));
  lifecycle->SetReady(true);
  Log(LogLevel::kInfo, "worker serves a model",
      {{"model", served},
       {"address", server->address()},
       {"numerics", engine->card().numerics_id},
       {"energy", energy.sources()}});

  const DrainRequestInfo drain = lifecycle->WaitForDrain();
  attach->SetDraining();
  engine->Drain(absl::Now() + drain.budget);
  witness->Flush(absl::Seconds(2));
  server->Shutdown(absl::Seconds(1));
  attach.reset();
  Log(LogLevel::kInfo, "worker has drained", {{"witness records left in the spool", absl::StrCat(witness->pending())}});
  return absl::OkStatus();
}

}  // namespace
}  // namespace gantry::worker

int main(int argc, char** argv) {
  gantry::Lifecycle lifecycle;
  gantry::worker::Options options;
  options.rpc.process = "worker";
  gantry::Config config("worker", "runs a model and serves it to the router.");
  options.model.Declare(&config);
  config.Group("Peers");
  config.String("listen", &options.rpc.listen, "unix:/path, or host:port with mutual TLS")
      .Required()
      .Example("unix:/var/lib/gantry/run/worker.sock");
  config.String("router", &options.router, "the router's address")
      .Required()
      .Example("unix:/var/lib/gantry/run/router.sock");
  config.String("billing", &options.billing, "billing's address, for witness records")
      .Required()
      .Example("unix:/var/lib/gantry/run/billing.sock");
  config.String("metrics", &options.metrics, "host:port of /metrics and /healthz");
  config.Group("Streams");
  config.Int(
      "frames-per-s", &options.frames_per_s, 0, 1'000'000,
      "token frames of all streams together; beyond it tokens share frames, at least 20 a second for each stream; "
      "0: a frame for every round");
  config.Group("Identities (token files, mode 0600)");
  config.String("identity-dir", &options.rpc.identity_dir, "directory with gateway.key, router.key, worker.key")
      .Required()
      .Example("/var/lib/gantry/identity");
  config.String("admin-key-file", &options.rpc.admin_key_file, "token of the administrator");
  config.Group("State");
  config.String("state-dir", &options.state_dir, "directory of id, epoch, witness board and spool")
      .Required()
      .Example("/var/lib/gantry/worker");
  config.Choice("witness-durability", &options.durability, {"fsync", "write"},
                "fsync survives power loss, write survives kill -9");
  config.Group("Energy");
  config.String("powercap-dir", &options.powercap_dir,
                "the kernel's energy counters; joules are told beside tokens where this process may read them");
  config.Group("Mutual TLS, when --listen is host:port");
  config.String("tls-certificate", &options.rpc.tls.certificate, "PEM chain; its SAN URI is gantry://worker");
  config.String("tls-key", &options.rpc.tls.key, "PEM private key");
  config.String("tls-authority", &options.rpc.tls.authority, "PEM certificate authority of the peers");
  const absl::StatusOr<bool> run = config.Parse(argc, argv);
  if (!run.ok()) return gantry::ExitWithError("worker", run.status());
  if (!*run) return 0;
  const absl::Status status = gantry::worker::Run(options, &lifecycle);
  return status.ok() ? 0 : gantry::ExitWithError("worker", status);
}
