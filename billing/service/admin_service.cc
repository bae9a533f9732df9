#include <atomic>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "billing/audit/audit.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/receivables.h"
#include "billing/ledger/lots.h"
#include "billing/parties/party_tree.h"
#include "billing/service/admin_call.h"
#include "billing/service/backup_stream.h"
#include "billing/service/services.h"
#include "billing/store/lineage.h"
#include "billing/usage/correct.h"
#include "billing/usage/gateway_clocks.h"
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

class AdminService final : public v1::BillingAdmin::CallbackService {
 public:
  explicit AdminService(const Context* context) : context_(context) {}

  // ---- parties ----
  grpc::ServerUnaryReactor* CreateParty(grpc::CallbackServerContext* call, const v1::CreatePartyRequest* request,
                                        v1::Party* response) override {
    return DoOnce(context_, call, request, response, request->name(), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Party> {
                    GANTRY_ASSIGN_OR_RETURN(v1::Party party, billing::CreateParty(db, *request, change.now_us));
                    if (party.plan().empty()) return party;
                    GANTRY_ASSIGN_OR_RETURN(const PartyRow row, PartyByName(db, party.name()));
                    GANTRY_RETURN_IF_ERROR(TellPrices(db, row.party_no, &change));
                    return party;
                  });
  }
  grpc::ServerUnaryReactor* ListParties(grpc::CallbackServerContext* call, const v1::ListPartiesRequest* request,
                                        v1::ListPartiesResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::ListParties(db, *request); });
  }
  grpc::ServerUnaryReactor* SetPartyStatus(grpc::CallbackServerContext* call, const v1::SetPartyStatusRequest* request,
                                           v1::Party* response) override {
    return DoOnce(context_, call, request, response, HexOf(request->party_id()),
                  v1::PartyStatus_Name(request->status()),
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Party> {
                    if (request->status() == v1::PARTY_STATUS_CLOSED) {
                      return absl::InvalidArgumentError("status: CloseParty closes a party");
                    }
                    GANTRY_ASSIGN_OR_RETURN(v1::Party party, billing::SetPartyStatus(db, *request));
                    change.keys = KeyRecordsOfParty(db, *Id16::FromBytes(request->party_id()));
                    return party;
                  });
  }

  // ---- keys ----
  grpc::ServerUnaryReactor* CreateKey(grpc::CallbackServerContext* call, const v1::CreateKeyRequest* request,
                                      v1::CreateKeyResponse* response) override {
    return MakeKey(call, request, response, request->party_name(), request->label(),
                   [this, request](Database& db, Change& change) {
                     return billing::CreateKey(db, *request, context_->pepper, change.now_us);
                   });
  }
  grpc::ServerUnaryReactor* RotateKey(grpc::CallbackServerContext* call, const v1::RotateKeyRequest* request,
                                      v1::CreateKeyResponse* response) override {
    return MakeKey(call, request, response, request->public_id(), absl::StrCat("overlap ", request->overlap_s(), " s"),
                   [this, request](Database& db, Change& change) -> absl::StatusOr<CreatedKey> {
                     GANTRY_ASSIGN_OR_RETURN(CreatedKey created,
                                             billing::RotateKey(db, *request, context_->pepper, change.now_us));
                     change.keys = KeyRecordsOfKey(db, request->public_id());
                     return created;
                   });
  }
  grpc::ServerUnaryReactor* ListKeys(grpc::CallbackServerContext* call, const v1::ListKeysRequest* request,
                                     v1::ListKeysResponse* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::ListKeys(db, request->party_name(), context_->clock());
    });
  }
  grpc::ServerUnaryReactor* RevokeKey(grpc::CallbackServerContext* call, const v1::RevokeKeyRequest* request,
                                      v1::Key* response) override {
    return DoOnce(context_, call, request, response, request->public_id(), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Key> {
                    GANTRY_ASSIGN_OR_RETURN(v1::Key key, billing::RevokeKey(db, *request, change.now_us));
                    change.keys = KeyRecordsOfKey(db, request->public_id());
                    return key;
                  });
  }

  // ---- plans ----
  grpc::ServerUnaryReactor* PublishPlanVersion(grpc::CallbackServerContext* call,
                                               const v1::PublishPlanVersionRequest* request,
                                               v1::PlanVersion* response) override {
    return DoOnce(context_, call, request, response, request->plan(), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::PlanVersion> {
                    GANTRY_ASSIGN_OR_RETURN(v1::PlanVersion version,
                                            billing::PublishPlanVersion(db, *request, change.now_us));
                    GANTRY_RETURN_IF_ERROR(TellPrices(db, 0, &change));
                    return version;
                  });
  }
  grpc::ServerUnaryReactor* ListPlanVersions(grpc::CallbackServerContext* call,
                                             const v1::ListPlanVersionsRequest* request,
                                             v1::ListPlanVersionsResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::ListPlanVersions(db, *request); });
  }
  grpc::ServerUnaryReactor* PreviewPrice(grpc::CallbackServerContext* call, const v1::PreviewPriceRequest* request,
                                         v1::PreviewPriceResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::PreviewPrice(db, *request); });
  }
  grpc::ServerUnaryReactor* DiffPlanVersions(grpc::CallbackServerContext* call,
                                             const v1::DiffPlanVersionsRequest* request,
                                             v1::DiffPlanVersionsResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::DiffPlanVersions(db, *request); });
  }
  grpc::ServerUnaryReactor* Subscribe(grpc::CallbackServerContext* call, const v1::SubscribeRequest* request,
                                      v1::Party* response) override {
    return DoOnce(context_, call, request, response, request->party_name(), request->plan(),
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Party> {
                    GANTRY_ASSIGN_OR_RETURN(v1::Party party, billing::Subscribe(db, *request, change.now_us));
                    GANTRY_ASSIGN_OR_RETURN(const PartyRow row, PartyByName(db, party.name()));
                    GANTRY_RETURN_IF_ERROR(TellPrices(db, row.party_no, &change));
                    return party;
                  });
  }

  // ---- money ----
  grpc::ServerUnaryReactor* TopUp(grpc::CallbackServerContext* call, const v1::TopUpRequest* request,
                                  v1::Balance* response) override {
    return DoOnce(context_, call, request, response, request->party_name(),
                  absl::StrCat(request->amount_micro(), " micro-units, reference ", request->reference()),
                  [request](Database& db, Change& change) { return BookTopUp(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* GetBalance(grpc::CallbackServerContext* call, const v1::GetBalanceRequest* request,
                                       v1::Balance* response) override {
    return Ask(context_, call, request, response, [request](Database& db, const Caller&) {
      return billing::GetBalance(db, request->party_name(), request->as_of_us());
    });
  }
  grpc::ServerUnaryReactor* QueryUsage(grpc::CallbackServerContext* call, const v1::QueryUsageRequest* request,
                                       v1::QueryUsageResponse* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::QueryUsage(db, *request, context_->clock());
    });
  }
  grpc::ServerUnaryReactor* CorrectUsage(grpc::CallbackServerContext* call, const v1::CorrectUsageRequest* request,
                                         v1::UsageRow* response) override {
    return DoOnce(
        context_, call, request, response, HexOf(request->request_id()), request->reason(),
        [request](Database& db, Change& change) { return billing::CorrectUsage(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* MarginReport(grpc::CallbackServerContext* call, const v1::MarginReportRequest* request,
                                         v1::MarginReportResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::MarginReport(db, *request); });
  }

  // ---- invoices, audit ----
  grpc::ServerUnaryReactor* GetInvoice(grpc::CallbackServerContext* call, const v1::GetInvoiceRequest* request,
                                       v1::Invoice* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::GetInvoice(db, *request); });
  }
  grpc::ServerUnaryReactor* FinalizeInvoice(grpc::CallbackServerContext* call,
                                            const v1::FinalizeInvoiceRequest* request, v1::Invoice* response) override {
    return DoOnce(context_, call, request, response, request->party_name(), request->period(),
                  [this, request](Database& db, Change& change) -> absl::StatusOr<v1::Invoice> {
                    GANTRY_RETURN_IF_ERROR(context_->gateway_clocks->Check());
                    return billing::FinalizeInvoice(db, *request, change.now_us);
                  });
  }
  grpc::ServerUnaryReactor* Audit(grpc::CallbackServerContext* call, const v1::AuditRequest* request,
                                  v1::AuditReport* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    context_->store->ReadFor(
        kAuditLimit,
        [this, request, response, token = UserTokenOf(*call)](Database& db) -> absl::Status {
          GANTRY_RETURN_IF_ERROR(AdmitCaller(db, context_, token, *request).status());
          *response = billing::Audit(db);
          return absl::OkStatus();
        },
        [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
    return reactor;
  }

  // ---- backup ----
  grpc::ServerWriteReactor<v1::BackupChunk>* CreateBackup(grpc::CallbackServerContext* call,
                                                          const v1::CreateBackupRequest*) override {
    return StreamBackup(context_, call, &backup_runs_);
  }
  grpc::ServerUnaryReactor* ConfirmBackup(grpc::CallbackServerContext* call, const v1::ConfirmBackupRequest* request,
                                          v1::ConfirmBackupResponse* response) override {
    auto covered = std::make_shared<BooksPosition>();
    auto newest_us = std::make_shared<int64_t>(0);
    return DoOnce<v1::ConfirmBackupRequest, v1::ConfirmBackupResponse>(
        context_, call, request, response, HexOf(request->backup_id()),
        absl::StrCat("epoch ", request->epoch(), ", sequence ", request->sequence()),
        [request, covered, newest_us](Database& db, Change& change) -> absl::StatusOr<v1::ConfirmBackupResponse> {
          absl::StatusOr<Id16> id = Id16::FromBytes(request->backup_id());
          if (!id.ok()) return absl::InvalidArgumentError("backup_id: expected 16 bytes");
          if (request->made_us() <= 0 || request->made_us() > change.now_us) {
            return absl::InvalidArgumentError("made_us: expected the time that CreateBackup told");
          }
          GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(db));
          if (request->epoch() > lineage.position.epoch || request->sequence() > lineage.position.sequence) {
            return absl::InvalidArgumentError("epoch, sequence: expected those that CreateBackup told");
          }
          db.Execute("INSERT INTO backup (backup_id, made_us, confirmed_us, epoch, sequence) VALUES (?, ?, ?, ?, ?)",
                     *id, request->made_us(), change.now_us, request->epoch(), request->sequence());
          *covered = BackupBefore(db, 1).position;
          *newest_us = BackupBefore(db, 0).made_us;
          return v1::ConfirmBackupResponse();
        },
        [this, covered, newest_us](v1::ConfirmBackupResponse*) {
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
  // The secret goes into this answer, after the commit; the stored one has none.
  template <typename Request, typename Make>
  grpc::ServerUnaryReactor* MakeKey(grpc::CallbackServerContext* call, const Request* request,
                                    v1::CreateKeyResponse* response, std::string object, std::string detail,
                                    Make make) {
    auto secret = std::make_shared<Secret>();
    return DoOnce<Request, v1::CreateKeyResponse>(
        context_, call, request, response, std::move(object), std::move(detail),
        [make, secret](Database& db, Change& change) -> absl::StatusOr<v1::CreateKeyResponse> {
          GANTRY_ASSIGN_OR_RETURN(CreatedKey created, make(db, change));
          v1::CreateKeyResponse answer;
          *answer.mutable_key() = created.key;
          for (v1::KeyRecord& key : KeyRecordsOfKey(db, created.key.public_id())) change.keys.push_back(std::move(key));
          *secret = std::move(created.text);
          return answer;
        },
        [secret](v1::CreateKeyResponse* answer) { answer->set_secret(std::string(secret->Reveal())); });
  }

  static absl::StatusOr<v1::Balance> BookTopUp(Database& db, const v1::TopUpRequest& request, int64_t now_us) {
    if (request.amount_micro() <= 0 || request.amount_micro() > kTopUpLimitMicro) {
      return absl::InvalidArgumentError(
          absl::StrCat("amount_micro: expected 1..", kTopUpLimitMicro, ", found ", request.amount_micro()));
    }
    if (request.reference().size() > 140) return absl::InvalidArgumentError("reference: expected at most 140 bytes");
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
    if (party.depth == 0) return absl::InvalidArgumentError("the house needs no top-up");
    if (request.expires_us() != 0 && request.expires_us() <= now_us) {
      return absl::InvalidArgumentError("expires_us: expected a time to come, or 0 for never");
    }
    GANTRY_RETURN_IF_ERROR(PostCredit(db, party,
                                      {.amount_micro = request.amount_micro(),
                                       .kind = request.promotional() ? LotKind::kPromotional : LotKind::kBought,
                                       .priority = request.priority(),
                                       .expires_us = request.expires_us() == 0 ? kNeverExpires : request.expires_us(),
                                       .reference = request.reference()},
                                      now_us));
    // What was paid is a payment: it settles what is owed first.
    if (!request.promotional()) AllocateOldestFirst(db, party, now_us);
    return billing::GetBalance(db, request.party_name(), 0);
  }

  const Context* const context_;
  std::atomic<bool> backup_runs_{false};
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const Context* context) {
  return std::make_unique<AdminService>(context);
}

}  // namespace gantry::billing
