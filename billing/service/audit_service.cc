#include "absl/strings/str_cat.h"
#include "billing/parties/parking.h"
#include "billing/service/admin_call.h"
#include "billing/service/auditor.h"
#include "billing/service/services.h"
#include "billing/usage/aside.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/audit.grpc.pb.h"

namespace gantry::billing {
namespace {

constexpr int kBookedAtOnce = 512;
constexpr size_t kReasonMax = 1000;

class AuditService final : public v1::AuditAdmin::CallbackService {
 public:
  AuditService(const Context* context, const Auditor* auditor) : context_(context), auditor_(auditor) {}

  grpc::ServerUnaryReactor* GetAuditState(grpc::CallbackServerContext* call, const v1::GetAuditStateRequest* request,
                                          v1::AuditState* response) override {
    return Ask(context_, call, request, response,
               [state = auditor_->State()](Database& db, const Caller&) -> absl::StatusOr<v1::AuditState> {
                 v1::AuditState out;
                 out.set_full_us(state.full_us);
                 out.set_full_ok(state.full_ok);
                 out.set_full_seconds(state.full_seconds);
                 out.set_checkpoint_us(state.checkpoint_us);
                 out.set_checkpoint_event_seq(state.checkpoint_event_seq);
                 out.set_checkpoint_transfer_seq(state.checkpoint_transfer_seq);
                 out.set_trouble(state.trouble);
                 for (const ParkedParty& party : ParkedParties(db)) {
                   v1::ParkedParty* row = out.add_parked();
                   row->set_party_id(party.party_id.ToBytes());
                   row->set_party_name(party.name);
                   row->set_since_us(party.since_us);
                   row->set_reason(party.reason);
                   for (const std::string& finding : party.findings) row->add_findings(finding);
                   row->set_kept_aside(static_cast<uint64_t>(party.kept_aside));
                 }
                 return out;
               });
  }
  grpc::ServerUnaryReactor* Unpark(grpc::CallbackServerContext* call, const v1::UnparkRequest* request,
                                   v1::UnparkResponse* response) override {
    return DoOnce(context_, call, request, response, request->party_name(), request->reason(),
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::UnparkResponse> {
                    if (request->reason().empty() || request->reason().size() > kReasonMax) {
                      return absl::InvalidArgumentError(
                          absl::StrCat("reason: expected 1..", kReasonMax, " bytes, found ", request->reason().size()));
                    }
                    GANTRY_RETURN_IF_ERROR(billing::Unpark(db, request->party_name()));
                    v1::UnparkResponse answer;
                    GANTRY_ASSIGN_OR_RETURN(const int booked, BookAside(db, change.now_us, kBookedAtOnce));
                    answer.set_booked(static_cast<uint64_t>(booked));
                    answer.set_waiting(static_cast<uint64_t>(CountAside(db)));
                    return answer;
                  });
  }

 private:
  const Context* const context_;
  const Auditor* const auditor_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAuditService(const Context* context, const Auditor* auditor) {
  return std::make_unique<AuditService>(context, auditor);
}

}  // namespace gantry::billing
