#include <atomic>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "billing/audit/audit.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/invoice.h"
#include "billing/ledger/lots.h"
#include "billing/parties/party_tree.h"
#include "billing/service/backup_stream.h"
#include "billing/service/services.h"
#include "billing/store/lineage.h"
#include "billing/usage/correct.h"
#include "billing/usage/margin.h"
#include "billing/usage/usage_query.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr int64_t kTopUpLimitMicro = 1'000'000'000'000'000;
// An audit reads everything; longer than that it is made on a copy.
constexpr std::chrono::milliseconds kAuditLimit{600'000};

// Changes that gateways must hear of once they are durable.
struct Changes {
  std::vector<v1::KeyRecord> keys;
  std::vector<v1::TenantPrices> prices;
  std::string secret;  // of CreateKey, when this call made it
};

class AdminService final : public v1::BillingAdmin::CallbackService {
 public:
  explicit AdminService(const Context* context) : context_(context) {}

  // ---- parties ----
  grpc::ServerUnaryReactor* CreateParty(grpc::CallbackServerContext* call, const v1::CreatePartyRequest* request,
                                        v1::Party* response) override {
    return Change(call, "CreateParty", request, response, request->name(), "",
                  [request, response](Database& db, int64_t now_us, Changes* changes) {
                    absl::StatusOr<v1::Party> party = billing::CreateParty(db, *request, now_us);
                    if (!party.ok()) return party.status();
                    *response = *std::move(party);
                    if (response->plan().empty()) return absl::OkStatus();
                    return CollectPrices(db, response->party_id(), now_us, changes);
                  });
  }
  grpc::ServerUnaryReactor* ListParties(grpc::CallbackServerContext* call, const v1::ListPartiesRequest* request,
                                        v1::ListPartiesResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::ListParties(db, *request); });
  }
  grpc::ServerUnaryReactor* SetPartyStatus(grpc::CallbackServerContext* call, const v1::SetPartyStatusRequest* request,
                                           v1::Party* response) override {
    return Change(call, "SetPartyStatus", request, response, Hex(request->party_id()),
                  v1::PartyStatus_Name(request->status()),
                  [request, response](Database& db, int64_t, Changes* changes) {
                    absl::StatusOr<v1::Party> party = billing::SetPartyStatus(db, *request);
                    if (!party.ok()) return party.status();
                    *response = *std::move(party);
                    changes->keys = KeyRecordsOfParty(db, *Id16::FromBytes(request->party_id()));
                    return absl::OkStatus();
                  });
  }

  // ---- keys ----
  grpc::ServerUnaryReactor* CreateKey(grpc::CallbackServerContext* call, const v1::CreateKeyRequest* request,
                                      v1::CreateKeyResponse* response) override {
    return Change(
        call, "CreateKey", request, response, request->party_name(), request->label(),
        [this, request, response](Database& db, int64_t now_us, Changes* changes) {
          absl::StatusOr<CreatedKey> created = billing::CreateKey(db, *request, context_->pepper, now_us);
          if (!created.ok()) return created.status();
          *response->mutable_key() = created->key;
          changes->keys = KeyRecordsOfKey(db, created->key.public_id());
          changes->secret = std::string(created->text.Reveal());  // into the answer, after the commit
          return absl::OkStatus();
        },
        [response](const Changes& changes) { response->set_secret(changes.secret); });
  }
  grpc::ServerUnaryReactor* ListKeys(grpc::CallbackServerContext* call, const v1::ListKeysRequest* request,
                                     v1::ListKeysResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::ListKeys(db, request->party_name()); });
  }
  grpc::ServerUnaryReactor* RevokeKey(grpc::CallbackServerContext* call, const v1::RevokeKeyRequest* request,
                                      v1::Key* response) override {
    return Change(call, "RevokeKey", request, response, request->public_id(), "",
                  [request, response](Database& db, int64_t now_us, Changes* changes) {
                    absl::StatusOr<v1::Key> key = billing::RevokeKey(db, *request, now_us);
                    if (!key.ok()) return key.status();
                    *response = *std::move(key);
                    changes->keys = KeyRecordsOfKey(db, request->public_id());
                    return absl::OkStatus();
                  });
  }

  // ---- plans ----
  grpc::ServerUnaryReactor* PublishPlanVersion(grpc::CallbackServerContext* call,
                                               const v1::PublishPlanVersionRequest* request,
                                               v1::PlanVersion* response) override {
    return Change(call, "PublishPlanVersion", request, response, request->plan(), "",
                  [request, response](Database& db, int64_t now_us, Changes* changes) {
                    absl::StatusOr<v1::PlanVersion> version = billing::PublishPlanVersion(db, *request, now_us);
                    if (!version.ok()) return version.status();
                    *response = *std::move(version);
                    return CollectPrices(db, "", now_us, changes);
                  });
  }
  grpc::ServerUnaryReactor* ListPlanVersions(grpc::CallbackServerContext* call,
                                             const v1::ListPlanVersionsRequest* request,
                                             v1::ListPlanVersionsResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::ListPlanVersions(db, request->plan()); });
  }

  grpc::ServerUnaryReactor* PreviewPrice(grpc::CallbackServerContext* call, const v1::PreviewPriceRequest* request,
                                         v1::PreviewPriceResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::PreviewPrice(db, *request); });
  }
  grpc::ServerUnaryReactor* DiffPlanVersions(grpc::CallbackServerContext* call,
                                             const v1::DiffPlanVersionsRequest* request,
                                             v1::DiffPlanVersionsResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::DiffPlanVersions(db, *request); });
  }
  grpc::ServerUnaryReactor* Subscribe(grpc::CallbackServerContext* call, const v1::SubscribeRequest* request,
                                      v1::Party* response) override {
    return Change(call, "Subscribe", request, response, request->party_name(), request->plan(),
                  [request, response](Database& db, int64_t now_us, Changes* changes) {
                    GANTRY_ASSIGN_OR_RETURN(*response, billing::Subscribe(db, *request, now_us));
                    return CollectPrices(db, response->party_id(), now_us, changes);
                  });
  }

  // ---- money ----
  grpc::ServerUnaryReactor* TopUp(grpc::CallbackServerContext* call, const v1::TopUpRequest* request,
                                  v1::Balance* response) override {
    return Change(call, "TopUp", request, response, request->party_name(),
                  absl::StrCat(request->amount_micro(), " micro-units, reference ", request->reference()),
                  [request, response](Database& db, int64_t now_us, Changes*) {
                    return BookTopUp(db, *request, now_us, response);
                  });
  }
  grpc::ServerUnaryReactor* GetBalance(grpc::CallbackServerContext* call, const v1::GetBalanceRequest* request,
                                       v1::Balance* response) override {
    return Ask(call, response,
               [request](Database& db) { return billing::GetBalance(db, request->party_name(), request->as_of_us()); });
  }
  grpc::ServerUnaryReactor* QueryUsage(grpc::CallbackServerContext* call, const v1::QueryUsageRequest* request,
                                       v1::QueryUsageResponse* response) override {
    return Ask(call, response,
               [this, request](Database& db) { return billing::QueryUsage(db, *request, context_->clock()); });
  }

  grpc::ServerUnaryReactor* CorrectUsage(grpc::CallbackServerContext* call, const v1::CorrectUsageRequest* request,
                                         v1::UsageRow* response) override {
    return Change(call, "CorrectUsage", request, response, Hex(request->request_id()), request->reason(),
                  [request, response](Database& db, int64_t now_us, Changes*) {
                    GANTRY_ASSIGN_OR_RETURN(*response, billing::CorrectUsage(db, *request, now_us));
                    return absl::OkStatus();
                  });
  }
  grpc::ServerUnaryReactor* MarginReport(grpc::CallbackServerContext* call, const v1::MarginReportRequest* request,
                                         v1::MarginReportResponse* response) override {
    return Ask(call, response, [request](Database& db) { return billing::MarginReport(db, *request); });
  }

  // ---- invoices, audit ----
  grpc::ServerUnaryReactor* GetInvoice(grpc::CallbackServerContext* call, const v1::GetInvoiceRequest* request,
                                       v1::Invoice* response) override {
    return Ask(call, response, [request](Database& db) { return billing::GetInvoice(db, *request); });
  }
  grpc::ServerUnaryReactor* FinalizeInvoice(grpc::CallbackServerContext* call,
                                            const v1::FinalizeInvoiceRequest* request, v1::Invoice* response) override {
    return Change(call, "FinalizeInvoice", request, response, request->party_name(), request->period(),
                  [request, response](Database& db, int64_t now_us, Changes*) {
                    absl::StatusOr<v1::Invoice> invoice = billing::FinalizeInvoice(db, *request, now_us);
                    if (invoice.ok()) *response = *std::move(invoice);
                    return invoice.status();
                  });
  }
  grpc::ServerUnaryReactor* Audit(grpc::CallbackServerContext* call, const v1::AuditRequest*,
                                  v1::AuditReport* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    context_->store->ReadFor(
        kAuditLimit,
        [response](Database& db) {
          *response = billing::Audit(db);
          return absl::OkStatus();
        },
        [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
    return reactor;
  }

  // ---- backup ----
  grpc::ServerWriteReactor<v1::BackupChunk>* CreateBackup(grpc::CallbackServerContext*,
                                                          const v1::CreateBackupRequest*) override {
    return StreamBackup(context_, &backup_runs_);
  }
  grpc::ServerUnaryReactor* ConfirmBackup(grpc::CallbackServerContext* call, const v1::ConfirmBackupRequest* request,
                                          v1::ConfirmBackupResponse* response) override {
    auto covered = std::make_shared<BooksPosition>();
    auto newest_us = std::make_shared<int64_t>(0);
    return Change(
        call, "ConfirmBackup", request, response, Hex(request->backup_id()),
        absl::StrCat("epoch ", request->epoch(), ", sequence ", request->sequence()),
        [request, covered, newest_us](Database& db, int64_t now_us, Changes*) {
          absl::StatusOr<Id16> id = Id16::FromBytes(request->backup_id());
          if (!id.ok()) return absl::InvalidArgumentError("backup_id: expected 16 bytes");
          if (request->made_us() <= 0 || request->made_us() > now_us) {
            return absl::InvalidArgumentError("made_us: expected the time that CreateBackup told");
          }
          GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(db));
          if (request->epoch() > lineage.position.epoch || request->sequence() > lineage.position.sequence) {
            return absl::InvalidArgumentError("epoch, sequence: expected those that CreateBackup told");
          }
          db.Execute("INSERT INTO backup (backup_id, made_us, confirmed_us, epoch, sequence) VALUES (?, ?, ?, ?, ?)",
                     *id, request->made_us(), now_us, request->epoch(), request->sequence());
          *covered = BackupBefore(db, 1).position;
          *newest_us = BackupBefore(db, 0).made_us;
          return absl::OkStatus();
        },
        [this, covered, newest_us](const Changes&) {
          *context_->covered_us = std::max(context_->covered_us->load(), *newest_us);
          // Removing files takes as long as it takes: not on the writer's thread.
          context_->store->Read(
              [this, covered](Database&) { return context_->store->PruneCommandLog(*covered); },
              [](const absl::Status& pruned) {
                if (pruned.ok()) return;
                Log(LogLevel::kWarning, "the command log cannot be pruned", {{"error", pruned.message()}});
              });
        });
  }

 private:
  static std::string Hex(const std::string& id) {
    absl::StatusOr<Id16> parsed = Id16::FromBytes(id);
    return parsed.ok() ? parsed->ToHex() : "?";
  }

  // Prices of all who buy, or of one.
  static absl::Status CollectPrices(Database& db, const std::string& party_id, int64_t now_us, Changes* changes) {
    int64_t party_no = 0;
    if (!party_id.empty()) {
      GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyById(db, *Id16::FromBytes(party_id)));
      party_no = party.party_no;
    }
    GANTRY_ASSIGN_OR_RETURN(changes->prices, CurrentPrices(db, party_no, now_us));
    return absl::OkStatus();
  }

  static absl::Status BookTopUp(Database& db, const v1::TopUpRequest& request, int64_t now_us, v1::Balance* balance) {
    if (request.amount_micro() <= 0 || request.amount_micro() > kTopUpLimitMicro) {
      return absl::InvalidArgumentError(
          absl::StrCat("amount_micro: expected 1..", kTopUpLimitMicro, ", found ", request.amount_micro()));
    }
    if (request.reference().size() > 140) return absl::InvalidArgumentError("reference: expected at most 140 bytes");
    absl::StatusOr<PartyRow> party = PartyByName(db, request.party_name());
    if (!party.ok()) return party.status();
    if (party->depth == 0) return absl::InvalidArgumentError("the house needs no top-up");
    if (request.expires_us() != 0 && request.expires_us() <= now_us) {
      return absl::InvalidArgumentError("expires_us: expected a time to come, or 0 for never");
    }
    absl::Status posted = PostCredit(db, *party,
                                     {.amount_micro = request.amount_micro(),
                                      .kind = request.promotional() ? LotKind::kPromotional : LotKind::kBought,
                                      .priority = request.priority(),
                                      .expires_us = request.expires_us() == 0 ? kNeverExpires : request.expires_us(),
                                      .reference = request.reference()},
                                     now_us);
    if (!posted.ok()) return posted;
    absl::StatusOr<v1::Balance> now = billing::GetBalance(db, request.party_name(), 0);
    if (now.ok()) *balance = *std::move(now);
    return now.status();
  }

  template <typename Request, typename Response, typename Run>
  grpc::ServerUnaryReactor* Change(grpc::CallbackServerContext* call, const char* method, const Request* request,
                                   Response* response, std::string object, std::string detail, Run run,
                                   std::function<void(const Changes&)> after = nullptr) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    auto changes = std::make_shared<Changes>();
    context_->store->Write(
        [this, method, request, response, object = std::move(object), detail = std::move(detail), run,
         changes](Database& db) {
          const int64_t now_us = context_->clock();
          return Once(db,
                      {.method = method,
                       .idempotency_key = request->idempotency_key(),
                       .object = object,
                       .detail = detail,
                       .now_us = now_us,
                       .request = request},
                      response, [&] { return run(db, now_us, changes.get()); });
        },
        [this, reactor, changes, after](const absl::Status& status) {
          if (status.ok()) {
            for (const v1::KeyRecord& key : changes->keys) {
              v1::KeyEvent event;
              *event.mutable_upsert() = key;
              context_->keys->Publish(std::move(event));
            }
            for (const v1::TenantPrices& prices : changes->prices) {
              v1::PriceEvent event;
              *event.mutable_upsert() = prices;
              context_->prices->Publish(std::move(event));
            }
            if (after) after(*changes);
          }
          reactor->Finish(ToGrpcStatus(status));
        });
    return reactor;
  }

  template <typename Response, typename Query>
  grpc::ServerUnaryReactor* Ask(grpc::CallbackServerContext* call, Response* response, Query query) {
    return Answer(context_->store, &Store::Read, call, response, std::move(query));
  }

  const Context* const context_;
  std::atomic<bool> backup_runs_{false};
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const Context* context) {
  return std::make_unique<AdminService>(context);
}

}  // namespace gantry::billing
