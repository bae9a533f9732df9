#include "absl/strings/str_cat.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/service/services.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr size_t kRevokedMax = 65'536;

template <typename Event>
class WatchReactor final : public grpc::ServerWriteReactor<Event> {
 public:
  WatchReactor() : outbox_(std::make_shared<Outbox<Event>>(this)) {}
  const std::shared_ptr<Outbox<Event>>& outbox() const { return outbox_; }
  void OnWriteDone(bool ok) override { outbox_->WriteDone(ok); }
  void OnCancel() override { outbox_->Close(absl::CancelledError("the gateway left")); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<Outbox<Event>> outbox_;
};

class CatalogService final : public v1::Catalog::CallbackService {
 public:
  explicit CatalogService(const Context* context) : context_(context) {}

  grpc::ServerWriteReactor<v1::KeyEvent>* WatchKeys(grpc::CallbackServerContext*,
                                                    const v1::WatchRequest* request) override {
    TakeRevocations(*request);
    return Watch<v1::KeyEvent>(*request, context_->keys, [this](Database& db, v1::KeyEvent* event) {
      v1::KeySnapshot* snapshot = event->mutable_snapshot();
      snapshot->set_pepper(std::string(context_->pepper.Reveal()));  // the gateway checks secrets with it
      for (v1::KeyRecord& record : AllKeyRecords(db)) *snapshot->add_keys() = std::move(record);
      return absl::OkStatus();
    });
  }
  grpc::ServerWriteReactor<v1::PriceEvent>* WatchPrices(grpc::CallbackServerContext*,
                                                        const v1::WatchRequest* request) override {
    return Watch<v1::PriceEvent>(*request, context_->prices, [this](Database& db, v1::PriceEvent* event) {
      v1::PriceSnapshot* snapshot = event->mutable_snapshot();
      absl::StatusOr<std::vector<v1::TenantPrices>> tenants = CurrentPrices(db, 0, context_->clock());
      if (!tenants.ok()) return tenants.status();
      for (v1::TenantPrices& prices : *tenants) *snapshot->add_tenants() = std::move(prices);
      return absl::OkStatus();
    });
  }

 private:
  // Before the snapshot is read, and also from a gateway that is fenced: keys revoked anywhere stay revoked (R14).
  void TakeRevocations(const v1::WatchRequest& request) {
    std::vector<Id16> ids;
    for (const std::string& bytes : request.revoked_key_ids()) {
      absl::StatusOr<Id16> id = Id16::FromBytes(bytes);
      if (id.ok() && ids.size() < kRevokedMax) ids.push_back(*id);
    }
    if (ids.empty()) return;
    auto changed = std::make_shared<std::vector<v1::KeyRecord>>();
    context_->store->Write(
        [this, ids = std::move(ids), changed](Database& db) {
          *changed = RevokeAsGatewayKnows(db, ids, context_->clock());
          return absl::OkStatus();
        },
        [this, changed](const absl::Status& status) {
          if (!status.ok()) return;
          for (const v1::KeyRecord& key : *changed) {
            Log(LogLevel::kWarning, "a gateway knows a key as revoked that the restored books had valid: revoked",
                {{"key", key.public_id()}});
            v1::KeyEvent event;
            *event.mutable_upsert() = key;
            context_->keys->Publish(std::move(event));
          }
        });
  }

  template <typename Event, typename Fill>
  grpc::ServerWriteReactor<Event>* Watch(const v1::WatchRequest& request, Feed<Event>* feed, Fill fill) {
    auto* reactor = new WatchReactor<Event>;
    std::shared_ptr<Outbox<Event>> outbox = reactor->outbox();
    absl::StatusOr<Id16> gateway = Id16::FromBytes(request.gateway_id());
    if (!gateway.ok()) {
      outbox->Close(absl::InvalidArgumentError(absl::StrCat("gateway_id: ", gateway.status().message())));
      return reactor;
    }
    auto event = std::make_shared<Event>();
    context_->store->Write(
        [this, event, fill, gateway = *gateway, epoch = request.gateway_epoch()](Database& db) {
          absl::Status entered = EnterEpoch(db, gateway, epoch, context_->clock()).status();
          return entered.ok() ? fill(db, event.get()) : entered;
        },
        [outbox, event, feed](const absl::Status& status) {
          if (status.ok()) {
            feed->Subscribe(outbox, std::move(*event));
          } else {
            outbox->Close(status);
          }
        });
    return reactor;
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCatalogService(const Context* context) {
  return std::make_unique<CatalogService>(context);
}

}  // namespace gantry::billing
