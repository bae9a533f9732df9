#include <chrono>

#include "absl/time/time.h"
#include "billing/catalog/parties.h"
#include "billing/parties/party_tree.h"
#include "billing/receipt/canonical_json.h"
#include "billing/receipt/receipt_desk.h"
#include "billing/receipt/receipt_store.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/admin.grpc.pb.h"

namespace gantry::billing {
namespace {

v1::ReceiptKey ToProto(const PublicReceiptKey& key) {
  v1::ReceiptKey out;
  out.set_key_id(key.key_id);
  out.set_public_key(key.public_key);
  out.set_created_us(key.created_us);
  out.set_endorsed_by(key.endorsed_by);
  out.set_endorsement(key.endorsement);
  return out;
}

class ReceiptService final : public v1::ReceiptAdmin::CallbackService {
 public:
  explicit ReceiptService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* GetReceipt(grpc::CallbackServerContext* call, const v1::GetReceiptRequest* request,
                                       v1::GetReceiptResponse* response) override {
    return Documents(call, request, response, /*with_proof=*/false);
  }
  grpc::ServerUnaryReactor* GetReceiptProof(grpc::CallbackServerContext* call, const v1::GetReceiptRequest* request,
                                            v1::GetReceiptResponse* response) override {
    return Documents(call, request, response, /*with_proof=*/true);
  }
  grpc::ServerUnaryReactor* ListReceiptRoots(grpc::CallbackServerContext* call,
                                             const v1::ListReceiptRootsRequest* request,
                                             v1::ListReceiptRootsResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) -> absl::StatusOr<v1::ListReceiptRootsResponse> {
                 absl::StatusOr<int64_t> size = PageSize(request->page_size());
                 if (!size.ok()) return size.status();
                 v1::ListReceiptRootsResponse roots;
                 for (const StoredReceiptRoot& stored :
                      ReceiptRootsAfter(db, static_cast<int64_t>(request->after_number()), *size)) {
                   v1::ReceiptRoot* root = roots.add_roots();
                   root->set_number(static_cast<uint64_t>(stored.number));
                   root->set_receipts(static_cast<uint64_t>(stored.receipts));
                   root->set_document(RootDocument(stored.body, stored.signature));
                 }
                 return roots;
               });
  }
  grpc::ServerUnaryReactor* GetReceiptKeys(grpc::CallbackServerContext* call, const v1::GetReceiptKeysRequest* request,
                                           v1::GetReceiptKeysResponse* response) override {
    return Ask(context_, call, request, response,
               [](Database& db, const Caller&) -> absl::StatusOr<v1::GetReceiptKeysResponse> {
                 v1::GetReceiptKeysResponse keys;
                 for (const StoredReceiptKey& stored : AllReceiptKeys(db)) *keys.add_keys() = ToProto(stored.key);
                 return keys;
               });
  }
  grpc::ServerUnaryReactor* RotateReceiptKey(grpc::CallbackServerContext* call,
                                             const v1::RotateReceiptKeyRequest* request,
                                             v1::ReceiptKey* response) override {
    return DoOnce(context_, call, request, response, "receipt key", "",
                  [this](Database& db, Change& change) -> absl::StatusOr<v1::ReceiptKey> {
                    const int64_t next = ReceiptsFromBooks().last_event_seq(db) + 1;
                    GANTRY_ASSIGN_OR_RETURN(const StoredReceiptKey made,
                                            AddReceiptKey(db, context_->receipt_ring, next, change.now_us));
                    return ToProto(made.key);
                  });
  }

 private:
  // Who is asked about, then the desk.
  grpc::ServerUnaryReactor* Documents(grpc::CallbackServerContext* call, const v1::GetReceiptRequest* request,
                                      v1::GetReceiptResponse* response, bool with_proof) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    const absl::Time deadline = absl::FromChrono(call->deadline());
    auto request_id = std::make_shared<Id16>();
    auto buyer = std::make_shared<Id16>();  // zero: the tenant
    context_->store->Read(
        [this, request, request_id, buyer, token = UserTokenOf(*call)](Database& db) -> absl::Status {
          GANTRY_RETURN_IF_ERROR(AdmitCaller(db, context_, token, *request).status());
          const absl::StatusOr<Id16> id = Id16::FromBytes(request->request_id());
          if (!id.ok()) return absl::InvalidArgumentError(absl::StrCat("request_id: ", id.status().message()));
          *request_id = *id;
          if (request->party_name().empty()) return absl::OkStatus();
          GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request->party_name()));
          *buyer = party.party_id;
          return absl::OkStatus();
        },
        [this, reactor, response, with_proof, deadline, buyer, request_id](const absl::Status& found) {
          if (!found.ok()) {
            reactor->Finish(ToGrpcStatus(found));
            return;
          }
          context_->receipts->Ask(*request_id, *buyer, with_proof, deadline,
                                  [reactor, response](absl::StatusOr<std::vector<std::string>> documents) {
                                    if (documents.ok()) {
                                      for (std::string& line : *documents) response->add_documents(std::move(line));
                                    }
                                    reactor->Finish(ToGrpcStatus(documents.status()));
                                  });
        });
    return reactor;
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeReceiptService(const Context* context) {
  return std::make_unique<ReceiptService>(context);
}

}  // namespace gantry::billing
