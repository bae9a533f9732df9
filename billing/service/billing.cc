#include "billing/service/billing.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "billing/alerts/alerts.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/plans.h"
#include "billing/closing/closing.h"
#include "billing/invoice/receivables.h"
#include "billing/lease/lease_desk.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/gateways.h"
#include "billing/ledger/lots.h"
#include "billing/outbox/courier.h"
#include "billing/outbox/outbox.h"
#include "billing/outbox/post.h"
#include "billing/parties/parking.h"
#include "billing/receipt/receipt_desk.h"
#include "billing/service/auditor.h"
#include "billing/service/backup_stream.h"
#include "billing/service/billing_metrics.h"
#include "billing/service/services.h"
#include "billing/store/lineage.h"
#include "billing/usage/aside.h"
#include "billing/usage/gateway_clocks.h"
#include "billing/usage/witness_match.h"
#include "engine/base/status_macros.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/process_service.h"

namespace gantry::billing {
namespace {

constexpr int kLotsPerSweep = 1000;
constexpr int64_t kOutboxRowsPerSweep = 1000;
constexpr int kAsidePerSweep = 512;
constexpr int kPrunedPerSweep = 1000;
constexpr int kBuyersPerSweep = 100;

}  // namespace

struct Billing::Impl {
  BillingOptions options;
  Lifecycle* lifecycle = nullptr;
  BillingMetrics metrics;
  Feed<v1::KeyEvent> keys;
  Feed<v1::PriceEvent> prices;
  Context context;
  std::unique_ptr<Store> store;
  std::unique_ptr<ReceiptKeyRing> receipt_ring;
  std::unique_ptr<ReceiptDesk> receipts;
  std::unique_ptr<Post> post;
  std::unique_ptr<Courier> courier;
  std::unique_ptr<LeaseDesk> leases;
  GatewayClocks gateway_clocks;
  std::unique_ptr<Auditor> auditor;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<RpcServer> server;
  absl::Notification stop;
  std::thread ticker;
  std::atomic<bool> draining{false};
  std::atomic<int64_t> open_items{0}, quarantined{0}, parked{0}, covered_us{0};
  // The ticker's.
  int64_t prices_looked_us = 0;
  std::chrono::steady_clock::time_point alerts_next{};

  ProcessState State() const {
    ProcessState state;
    const absl::Status writes = store->WriteHealth();
    state.ready = !draining && writes.ok() && (lifecycle == nullptr || lifecycle->ready());
    state.items = {{"gateways", absl::StrCat(leases->attached())},
                   {"open items", absl::StrCat(open_items.load())},
                   {"quarantined", absl::StrCat(quarantined.load())}};
    const StoreStats stats = store->Stats();
    state.items.push_back({"longest commit", absl::StrCat(static_cast<int64_t>(stats.longest_commit_s * 1e3), " ms")});
    if (!writes.ok()) state.items.push_back({"books", std::string(writes.message())});
    const AuditorState audit = auditor->State();
    if (parked > 0) state.items.push_back({"parked parties", absl::StrCat(parked.load())});
    if (!audit.trouble.empty()) state.items.push_back({"audit", audit.trouble});
    return state;
  }

  // Prices that were published for a time that has come.
  void PublishPrices(int64_t now_us) {
    auto current = std::make_shared<std::vector<v1::TenantPrices>>();
    store->Write(
        [current, now_us](Database& db) {
          GANTRY_ASSIGN_OR_RETURN(*current, CurrentPrices(db, 0, now_us));
          return absl::OkStatus();
        },
        [this, current](const absl::Status& status) {
          if (!status.ok()) return;
          for (v1::TenantPrices& tenant : *current) {
            v1::PriceEvent event;
            *event.mutable_upsert() = std::move(tenant);
            prices.Publish(std::move(event));
          }
        });
  }

  // The first start makes a key. A key whose private half is gone stops receipts, not billing.
  absl::Status PrepareReceipts() {
    std::vector<StoredReceiptKey> known;
    GANTRY_RETURN_IF_ERROR(store->WriteAndWait([&](Database& db) -> absl::Status {
      known = AllReceiptKeys(db);
      if (!known.empty()) return absl::OkStatus();
      return AddReceiptKey(db, receipt_ring.get(), /*first_event_seq=*/1, context.clock()).status();
    }));
    for (const StoredReceiptKey& stored : known) {
      if (receipt_ring->Has(stored.key.key_id)) continue;
      Log(LogLevel::kError, "a private receipt key is missing: receipts of its time cannot be made",
          {{"key", stored.key.key_id}, {"file", options.data_dir + "/receipt.keys"}});
    }
    ReceiptDesk::Options desk;
    desk.deriver = {
        .store = store.get(), .ring = receipt_ring.get(), .clock = context.clock, .source = ReceiptsFromBooks()};
    receipts = std::make_unique<ReceiptDesk>(std::move(desk));
    context.receipts = receipts.get();
    return absl::OkStatus();
  }

  // Gateways that were granted something once may be running: nobody knows what they have counted.
  absl::Status PrepareLeases() {
    std::vector<Id16> may_run;
    GANTRY_RETURN_IF_ERROR(store->ReadAndWait([&](Database& db) {
      may_run = GatewaysThatMayRun(db);
      return absl::OkStatus();
    }));
    LeaseDesk::Options desk;
    desk.windows.monotonic = [] { return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()); };
    desk.windows.longest_request = absl::Milliseconds(options.longest_request_ms);
    leases = std::make_unique<LeaseDesk>(std::move(desk), may_run);
    context.leases = leases.get();
    context.gateway_clocks = &gateway_clocks;
    context.freed_after_us = (options.witness_deadline_ms + options.longest_request_ms) * 1000;
    return absl::OkStatus();
  }

  // What time brings. Looks first, so that an idle house writes nothing.
  void Sweep() {
    const int64_t now_us = context.clock();
    const int64_t witness_before = now_us - options.witness_deadline_ms * 1000;
    const int64_t fenced_before = witness_before - options.longest_request_ms * 1000;
    bool due = false, new_prices = false;
    absl::Status looked = store->ReadAndWait([&](Database& db) {
      const MatchCounts counts = CountMatches(db);
      const int64_t fenced = CountFenced(db);
      open_items = counts.waiting + fenced;
      quarantined = counts.quarantined;
      {
        Rows rows = db.Query("SELECT min(since_us) FROM unmatched WHERE state = 'waiting'");
        due = fenced > 0 || (rows.Next() && !rows.IsNull(0) && rows.Int(0) <= witness_before);
      }
      Rows rows = db.Query("SELECT min(expires_us) FROM credit_lot WHERE left_micro > 0");
      due |= rows.Next() && !rows.IsNull(0) && rows.Int(0) <= now_us;
      parked = static_cast<int64_t>(ParkedParties(db).size());
      due |= CountAside(db) > 0 || AnyIdempotencyToPrune(db, now_us);
      new_prices = PricesTakeEffect(db, prices_looked_us, now_us);
      return absl::OkStatus();
    });
    metrics.SetOpen(open_items, quarantined);
    metrics.SetLeases(leases->attached(), leases->recalls().rounds());
    metrics.SetStore(store->Stats(), store->WriteHealth().ok(), covered_us);
    const AuditorState audit = auditor->State();
    metrics.SetAudit(parked, parked == 0 && audit.trouble.empty(), audit.full_us);
    if (looked.ok() && new_prices) PublishPrices(now_us);
    if (looked.ok()) prices_looked_us = now_us;
    if (!looked.ok() || !due) return;
    store
        ->WriteAndWait([&](Database& db) {
          ReleaseFenced(db, fenced_before);
          GANTRY_RETURN_IF_ERROR(ExpireLots(db, now_us, kLotsPerSweep).status());
          GANTRY_RETURN_IF_ERROR(BookAside(db, now_us, kAsidePerSweep).status());
          PruneIdempotency(db, now_us, kPrunedPerSweep);
          return ExpireWaiting(db, witness_before, now_us);
        })
        .IgnoreError();
  }

  // Parties that are being closed: calls their credit back, and finishes when nothing can follow.
  void EndParties() {
    std::vector<CreditOut> out;
    bool open = false;
    const absl::Status looked = store->ReadAndWait([&](Database& db) {
      open = ClosingsAreOpen(db);
      if (open) out = CreditOfClosing(db);
      return absl::OkStatus();
    });
    if (!looked.ok() || !open) return;
    for (const CreditOut& credit : out) leases->recalls().CallBack(credit.scope, credit.lenders, [](bool) {});
    const int64_t now_us = context.clock();
    const absl::Status clocks = gateway_clocks.Check();
    const absl::Status finished = store->WriteAndWait([&](Database& db) { return FinishClosings(db, clocks, now_us); });
    if (!finished.ok()) Log(LogLevel::kError, "a party cannot be closed", {{"error", finished.message()}});
  }

  // Invoices that became final while running requests held their buyers' money, once it is free. Looks first.
  void PayInvoices() {
    std::vector<int64_t> buyers;
    const absl::Status looked = store->ReadAndWait([&](Database& db) {
      buyers = BuyersWhoCanPay(db, kBuyersPerSweep);
      return absl::OkStatus();
    });
    if (!looked.ok() || buyers.empty()) return;
    const int64_t now_us = context.clock();
    const absl::Status paid =
        store->WriteAndWait([&](Database& db) { return PayFromFreedMoney(db, buyers, now_us).status(); });
    if (!paid.ok()) Log(LogLevel::kError, "open invoices cannot be paid", {{"error", paid.message()}});
  }

  // Looks first, like Sweep.
  void TellOfAlerts() {
    const int64_t now_us = context.clock();
    bool changed = false, prune = false;
    OutboxCounts counts;
    const absl::Status looked = store->ReadAndWait([&](Database& db) {
      changed = AlertsChanged(db, now_us);
      prune = OutboxNeedsPruning(db, now_us);
      counts = CountOutbox(db);
      return absl::OkStatus();
    });
    if (!looked.ok()) return;
    metrics.SetOutbox(counts.waiting, counts.parked);
    if (!changed && !prune) return;
    store
        ->WriteAndWait([&](Database& db) {
          if (prune) PruneOutbox(db, now_us, kOutboxRowsPerSweep);
          return TellAlerts(db, now_us).status();
        })
        .IgnoreError();
    courier->Wake();
  }

  // What the outbox holds goes out from now on.
  absl::Status StartCourier() {
    GANTRY_ASSIGN_OR_RETURN(
        post,
        Post::Create(
            {.smtp = options.smtp, .webhook = options.webhook, .pepper = context.pepper, .clock = context.clock}));
    context.sends_mail = post->sends_mail();
    courier = std::make_unique<Courier>(Courier::Options{
        .store = store.get(),
        .clock = context.clock,
        .send = [this](const Delivery& delivery, StreamStop* ends) { return post->Send(delivery, ends); },
        .on_try =
            [this](const Delivery&, const absl::Status& status, bool given_up) {
              metrics.CountDelivery(status.ok() ? "delivered" : given_up ? "parked" : "failed");
            }});
    return absl::OkStatus();
  }

  void Tick() {
    const absl::Duration sweep_every =
        std::clamp(absl::Milliseconds(options.witness_deadline_ms) / 4, absl::Milliseconds(50), absl::Seconds(1));
    while (!stop.WaitForNotificationWithTimeout(sweep_every)) {
      keys.Heartbeat(context.clock());
      prices.Heartbeat(context.clock());
      Sweep();
      EndParties();
      const auto now = std::chrono::steady_clock::now();
      if (now < alerts_next) continue;
      alerts_next = now + std::chrono::milliseconds(options.alerts_every_ms);
      PayInvoices();
      TellOfAlerts();
    }
  }
};

std::string HexOf(const std::string& id) {
  const absl::StatusOr<Id16> parsed = Id16::FromBytes(id);
  return parsed.ok() ? parsed->ToHex() : "?";
}

Billing::Billing(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Billing::~Billing() {
  Drain(absl::ZeroDuration());
  impl_->stop.Notify();
  impl_->ticker.join();
  impl_->server.reset();
  impl_->courier.reset();
  impl_->auditor.reset();
  impl_->receipts.reset();
  impl_->leases.reset();
  impl_->store.reset();
}

absl::StatusOr<std::unique_ptr<Billing>> Billing::Start(BillingOptions options, Lifecycle* lifecycle) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->lifecycle = lifecycle;
  Impl* raw = impl.get();
  const std::string& dir = raw->options.data_dir;
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::PermissionDeniedError(absl::StrCat("cannot create ", dir, ": ", std::strerror(errno)));
  }
  RemoveBackupCopies(dir);
  GANTRY_ASSIGN_OR_RETURN(raw->context.pepper, LoadOrCreatePepper(dir + "/pepper"));
  Store::Options store;
  store.path = dir + "/gantry.db";
  store.on_commit = [raw](double seconds, int commands) { raw->metrics.ObserveCommit(seconds, commands); };
  store.on_fatal = raw->options.on_fatal;
  store.command_log = raw->options.command_log;
  store.clock = raw->options.clock;
  GANTRY_ASSIGN_OR_RETURN(raw->store, Store::Open(std::move(store)));

  raw->context.store = raw->store.get();
  raw->context.data_dir = dir;
  raw->context.command_log = !raw->options.command_log.empty();
  raw->context.covered_us = &raw->covered_us;
  GANTRY_RETURN_IF_ERROR(raw->store->ReadAndWait([raw](Database& db) {
    raw->covered_us = BackupBefore(db, 0).made_us;
    return absl::OkStatus();
  }));
  raw->context.clock = raw->options.clock ? raw->options.clock : SystemClock();
  raw->context.metrics = &raw->metrics;
  raw->context.keys = &raw->keys;
  raw->context.prices = &raw->prices;
  GANTRY_ASSIGN_OR_RETURN(raw->receipt_ring, ReceiptKeyRing::Open(dir + "/receipt.keys"));
  raw->context.receipt_ring = raw->receipt_ring.get();
  GANTRY_RETURN_IF_ERROR(raw->PrepareReceipts());
  GANTRY_RETURN_IF_ERROR(raw->StartCourier());
  GANTRY_RETURN_IF_ERROR(raw->PrepareLeases());
  raw->services.push_back(MakeCreditService(&raw->context));
  raw->services.push_back(MakeUsageService(&raw->context));
  raw->services.push_back(MakeCatalogService(&raw->context));
  raw->services.push_back(MakeAdminService(&raw->context));
  raw->services.push_back(MakeReceiptService(&raw->context));
  raw->services.push_back(MakeUserService(&raw->context));
  raw->services.push_back(MakeNotificationService(&raw->context));
  raw->services.push_back(MakeQuoteService(&raw->context));
  raw->services.push_back(MakeClosingService(&raw->context));
  raw->services.push_back(MakeInvoiceService(&raw->context));
  raw->services.push_back(MakeLeaseService(&raw->context));
  raw->services.push_back(MakeGatewayAdminService(&raw->context));
  raw->auditor = Auditor::Start({.store = raw->store.get(),
                                 .ring = raw->receipt_ring.get(),
                                 .path = dir + "/gantry.db",
                                 .clock = raw->context.clock});
  raw->services.push_back(MakeAuditService(&raw->context, raw->auditor.get()));
  if (lifecycle != nullptr) {
    raw->services.push_back(MakeProcessService("billing", lifecycle, [raw] { return raw->State(); }));
  }
  std::vector<grpc::Service*> services;
  for (const auto& service : raw->services) services.push_back(service.get());
  GANTRY_ASSIGN_OR_RETURN(raw->server, RpcServer::Start(raw->options.rpc, services));
  raw->prices_looked_us = raw->context.clock();
  raw->ticker = std::thread([raw] { raw->Tick(); });
  return std::unique_ptr<Billing>(new Billing(std::move(impl)));
}

const std::string& Billing::address() const {
  return impl_->server->address();
}
const Metrics& Billing::metrics() const {
  return impl_->metrics.metrics();
}

Health Billing::CurrentHealth() const {
  const absl::Status writes = impl_->store->WriteHealth();
  return {.live = true,
          .ready = impl_->State().ready,
          .detail = absl::StrCat(impl_->keys.subscribers(), " gateways, ", impl_->open_items.load(), " open items, ",
                                 impl_->quarantined.load(), " quarantined",
                                 writes.ok() ? "" : absl::StrCat("; ", writes.message()))};
}

void Billing::Drain(absl::Duration budget) {
  if (impl_->draining.exchange(true)) return;
  // Gateways and workers keep what is not acknowledged; only commands that run are worth waiting for.
  impl_->keys.CloseAll(absl::UnavailableError("billing is stopping"));
  impl_->prices.CloseAll(absl::UnavailableError("billing is stopping"));
  impl_->leases->CloseAll(absl::UnavailableError("billing is stopping"));
  impl_->store->CancelCopies();
  impl_->server->Shutdown(std::min(budget, absl::Milliseconds(500)));
}

}  // namespace gantry::billing
