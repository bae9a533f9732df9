#include "gateway/gateway.h"

#include <grpcpp/impl/service_type.h>

#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "boost/asio/thread_pool.hpp"
#include "engine/base/status_macros.h"
#include "gateway/admission/orphan_slices.h"
#include "gateway/api/api_server.h"
#include "gateway/clients/billing_client.h"
#include "gateway/clients/lease_line.h"
#include "services/common/instance.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/process_service.h"

namespace gantry::gateway {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
// What a shutdown waits for billing to take records and slices; what is left stays in the spool for the next start.
constexpr absl::Duration kFlush = absl::Seconds(5);
constexpr absl::Duration kReturnAgain = absl::Milliseconds(500);

absl::Duration MonotonicNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

bool IsLoopback(absl::string_view address) {
  return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]:");
}

// Polls until `done` or the time is over.
template <typename Done>
bool WaitUntil(absl::Duration limit, Done done) {
  const absl::Duration deadline = MonotonicNow() + limit;
  while (!done()) {
    if (MonotonicNow() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

}  // namespace

// In the order of their dependence: the last is the first to go.
struct Gateway::Impl {
  GatewayOptions options;
  Lifecycle* lifecycle = nullptr;
  GatewayMetrics metrics;
  std::shared_ptr<grpc::Channel> router_channel, billing_channel;
  std::unique_ptr<CreditClient> credit;
  KeyTable keys{MonotonicNow};
  PriceTable prices;
  std::shared_ptr<UsageJournal> journal;
  std::shared_ptr<CreditBook> book;
  std::shared_ptr<OrphanSlices> orphans;
  std::shared_ptr<LeaseLine> leases;
  std::unique_ptr<ModelCatalog> models;
  std::unique_ptr<GenerateClient> generate;
  std::unique_ptr<BillingStreams> streams;
  // One thread: heavy bodies wait for each other, not the streams for them.
  boost::asio::thread_pool heavy{1};
  ApiContext context;
  std::unique_ptr<ApiServer> api;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<grpc::Service> process;
  std::unique_ptr<RpcServer> rpc;
  absl::Notification stop;
  std::thread ticker;
  bool drained = false;

  bool Ready() const {
    return !context.draining.load() && keys.Fresh() && prices.loaded() && context.admission->windows_known() &&
           !models->List().empty() && !journal->Stats().failing;
  }
  absl::Status OpenJournal(const std::string& state_dir);
  void ConnectCredit(const Instance& instance, const std::vector<UsageJournal::Slice>& left);
  void Obey(const v1::GatewayOrder& order);
  ProcessState State() const;
};

absl::Status Gateway::Impl::OpenJournal(const std::string& state_dir) {
  GANTRY_ASSIGN_OR_RETURN(const Instance instance, LoadInstance(state_dir));
  SpoolOptions spool;
  spool.directory = state_dir + "/spool";
  spool.durability = options.durability;
  spool.total_bytes = options.spool_bytes;
  std::vector<UsageJournal::Slice> left;
  GANTRY_ASSIGN_OR_RETURN(journal, UsageJournal::Open(options.file_system, spool, &left));
  ConnectCredit(instance, left);
  return absl::OkStatus();
}

void Gateway::Impl::ConnectCredit(const Instance& instance, const std::vector<UsageJournal::Slice>& left) {
  credit = MakeCreditClient(billing_channel);
  CreditBook::Options book_options;
  book_options.gateway_id = instance.id;
  book_options.gateway_epoch = instance.epoch;
  book_options.slice_micro = options.slice_micro;
  book_options.request_life = options.api.request_deadline;
  book_options.monotonic = MonotonicNow;
  book_options.on_grant = [journal = journal](const Id16& slice, const Id16& party, int64_t granted_micro) {
    return journal->SliceGranted({.id = slice, .party = party, .granted_micro = granted_micro});
  };
  book_options.on_closed = [journal = journal](const Id16& slice) { journal->SliceClosed(slice); };
  book = CreditBook::Create(std::move(book_options), credit.get());

  std::vector<OrphanSlices::Slice> orphan_slices;
  for (const UsageJournal::Slice& slice : left) orphan_slices.push_back({slice.id, slice.records});
  orphans = OrphanSlices::Create(orphan_slices, credit.get(),
                                 [journal = journal](const Id16& slice) { journal->SliceClosed(slice); });
  journal->OnAcked([this](const Id16& slice_or_hold, bool taken) {
    taken ? book->RecordAcked(slice_or_hold) : book->RecordRefused(slice_or_hold);
    orphans->RecordAcked(slice_or_hold);
  });
  leases = MakeLeaseLine(billing_channel, instance.id, instance.epoch);
  const auto report = [line = leases](const v1::GatewayReport& what) { return line->Send(what); };
  context.admission = Admission::Create(&keys, &prices, book, MonotonicNow, absl::Now, report);
  leases->Start({.order = [this](const v1::GatewayOrder& order) { Obey(order); },
                 .broken = [this] { context.admission->Broken(); }});
  streams = StartBillingStreams(billing_channel, instance.id, instance.epoch, &keys, &prices, journal.get());
}

void Gateway::Impl::Obey(const v1::GatewayOrder& order) {
  context.admission->Obey(order);
  if (order.has_recall()) {
    book->Recall(order.recall(), [line = std::weak_ptr<LeaseLine>(leases), number = order.recall().number()] {
      v1::GatewayReport report;
      report.mutable_recall_done()->set_number(number);
      if (auto to = line.lock()) to->Send(report);
    });
  }
}

ProcessState Gateway::Impl::State() const {
  ProcessState state;
  state.ready = Ready();
  state.running = static_cast<uint32_t>(context.running.count());
  state.items = {{"http", absl::StrCat("port ", http->port())},
                 {"models", absl::StrCat(models->List().size())},
                 {"keys", absl::StrCat(keys.size(), keys.Fresh() ? "" : ", stale")},
                 {"running", absl::StrCat(state.running)},
                 {"usage records waiting", absl::StrCat(journal->pending())},
                 {"slices", absl::StrCat(book->open_slices())}};
  return state;
}

Gateway::Gateway(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Gateway::~Gateway() {
  Drain(absl::ZeroDuration());
}

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(GatewayOptions options, Lifecycle* lifecycle) {
  if (!IsLoopback(options.http.address) && options.http.tls_certificate.empty() && !options.insecure) {
    return absl::InvalidArgumentError(
        absl::StrCat("http address ", options.http.address,
                     " is open to others and would carry API keys unencrypted: give --http-tls-certificate and ",
                     "--http-tls-key, or say --insecure"));
  }
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->lifecycle = lifecycle;
  Impl* raw = impl.get();
  raw->router_channel = MakeChannel(raw->options.router, raw->options.identity);
  raw->billing_channel = MakeChannel(raw->options.billing, raw->options.identity);
  // From here on what has been started is taken down by ~Gateway.
  auto gateway = std::unique_ptr<Gateway>(new Gateway(std::move(impl)));
  GANTRY_RETURN_IF_ERROR(raw->OpenJournal(raw->options.state_dir));
  raw->models = MakeModelCatalog(raw->router_channel, nullptr);
  raw->generate = MakeGenerateClient(raw->router_channel);

  raw->context.options = raw->options.api;
  raw->context.models = raw->models.get();
  raw->context.generate = raw->generate.get();
  raw->context.journal = raw->journal;
  raw->context.metrics = &raw->metrics;
  raw->context.heavy_work = raw->heavy.get_executor();
  raw->context.ready = [raw] { return raw->Ready(); };
  raw->api = std::make_unique<ApiServer>(&raw->context);
  GANTRY_ASSIGN_OR_RETURN(raw->http, HttpServer::Start(raw->options.http, raw->api.get()));
  if (!raw->options.rpc.listen.empty()) {
    raw->process = MakeProcessService("gateway", lifecycle, [raw] { return raw->State(); });
    GANTRY_ASSIGN_OR_RETURN(raw->rpc, RpcServer::Start(raw->options.rpc, {raw->process.get()}));
  }
  raw->ticker = std::thread([raw] {
    while (!raw->stop.WaitForNotificationWithTimeout(kTick)) {
      raw->book->Tick();
      raw->context.admission->Tick();
      raw->orphans->Tick();
    }
  });
  return gateway;
}

int Gateway::http_port() const {
  return impl_->http->port();
}
const Metrics& Gateway::metrics() const {
  return impl_->metrics.metrics();
}
bool Gateway::ready() const {
  return impl_->Ready();
}
void Gateway::UpdateMetrics() {
  const SpoolStats stats = impl_->journal->Stats();
  impl_->metrics.Spool(stats.bytes, stats.last_sync_ms);
  impl_->metrics.ReservedHolds(impl_->book->reserved_total());
}

Health Gateway::CurrentHealth() const {
  const Impl& impl = *impl_;
  return {.live = true,
          .ready = impl.Ready(),
          .detail = absl::StrCat(impl.keys.Fresh() ? "keys fresh" : "keys stale", ", ", impl.models->List().size(),
                                 " models, ", impl.context.running.count(), " running, ", impl.journal->pending(),
                                 " usage records waiting")};
}

void Gateway::Drain(absl::Duration budget) {
  Impl& impl = *impl_;
  if (std::exchange(impl.drained, true)) return;
  impl.context.draining = true;
  if (impl.http != nullptr) {
    impl.http->Drain(budget);
    impl.context.ending = true;
    impl.context.running.NotifyAll();
    WaitUntil(absl::Seconds(1), [&] { return impl.context.running.count() == 0; });
    impl.http.reset();
  }
  impl.heavy.join();
  if (impl.ticker.joinable()) {
    impl.stop.Notify();
    impl.ticker.join();
  }
  if (impl.book != nullptr && budget > absl::ZeroDuration()) {
    const absl::Duration deadline = MonotonicNow() + kFlush;
    WaitUntil(kFlush, [&] { return impl.journal->pending() == 0; });
    // What a record that could not be written keeps open stays open: the worker's count will settle it.
    do {
      impl.book->ReturnAll();
      impl.orphans->Tick();
    } while (!WaitUntil(kReturnAgain, [&] { return impl.book->closing() == 0; }) && MonotonicNow() < deadline);
    if (impl.context.running.count() == 0) impl.leases->Leave();
    Log(LogLevel::kInfo, "gateway has drained",
        {{"usage records left in the spool", impl.journal->pending()}, {"slices left", impl.book->open_slices()}});
  }
  if (impl.rpc != nullptr) impl.rpc->Shutdown(absl::Milliseconds(250));
  // No callback into what goes next.
  if (impl.journal != nullptr) impl.journal->OnAcked(nullptr);
  impl.generate.reset();
  if (impl.leases != nullptr) impl.leases->Stop();
  impl.streams.reset();
  impl.credit.reset();
  impl.models.reset();
}

absl::StatusOr<std::vector<Cidr>> ParseCidrs(const std::string& text) {
  std::vector<Cidr> out;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    Cidr cidr;
    part = absl::StripAsciiWhitespace(part);
    if (!Cidr::Parse(part, &cidr)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", part, "\" is no address and no range like 10.0.0.0/8"));
    }
    out.push_back(cidr);
  }
  return out;
}

}  // namespace gantry::gateway
