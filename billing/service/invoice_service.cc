#include "absl/strings/str_cat.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/payments.h"
#include "billing/invoice/profile.h"
#include "billing/invoice/statement.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/invoicing.grpc.pb.h"

namespace gantry::billing {
namespace {

class InvoiceService final : public v1::InvoiceAdmin::CallbackService {
 public:
  explicit InvoiceService(const Context* context) : context_(context) {}

  // ---- profiles ----
  grpc::ServerUnaryReactor* SetBillingProfile(grpc::CallbackServerContext* call,
                                              const v1::SetBillingProfileRequest* request,
                                              v1::BillingProfile* response) override {
    return DoOnce(
        context_, call, request, response, request->profile().party_name(), "",
        [request](Database& db, Change& change) { return billing::SetBillingProfile(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* GetBillingProfile(grpc::CallbackServerContext* call,
                                              const v1::GetBillingProfileRequest* request,
                                              v1::BillingProfile* response) override {
    return Ask(context_, call, request, response, [request](Database& db, const Caller&) {
      return billing::GetBillingProfile(db, request->party_name());
    });
  }

  // ---- documents ----
  grpc::ServerUnaryReactor* GetDocument(grpc::CallbackServerContext* call, const v1::GetDocumentRequest* request,
                                        v1::Invoice* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::GetDocument(db, request->number()); });
  }
  grpc::ServerUnaryReactor* ListInvoices(grpc::CallbackServerContext* call, const v1::ListInvoicesRequest* request,
                                         v1::ListInvoicesResponse* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::ListInvoices(db, *request, context_->clock());
    });
  }
  grpc::ServerUnaryReactor* CreateCreditNote(grpc::CallbackServerContext* call,
                                             const v1::CreateCreditNoteRequest* request,
                                             v1::Invoice* response) override {
    return DoOnce(
        context_, call, request, response, request->number(), request->reason(),
        [request](Database& db, Change& change) { return billing::CreateCreditNote(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* VoidInvoice(grpc::CallbackServerContext* call, const v1::VoidInvoiceRequest* request,
                                        v1::Invoice* response) override {
    return DoOnce(
        context_, call, request, response, request->number(), request->reason(),
        [request](Database& db, Change& change) { return billing::VoidInvoice(db, *request, change.now_us); });
  }

  // ---- payments ----
  grpc::ServerUnaryReactor* RecordPayment(grpc::CallbackServerContext* call, const v1::RecordPaymentRequest* request,
                                          v1::Payment* response) override {
    return DoOnce(
        context_, call, request, response, request->party_name(),
        absl::StrCat(request->amount_micro(), " micro-units, ", request->method(), ", reference ",
                     request->reference()),
        [request](Database& db, Change& change) { return billing::RecordPayment(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* ListPayments(grpc::CallbackServerContext* call, const v1::ListPaymentsRequest* request,
                                         v1::ListPaymentsResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::ListPayments(db, *request); });
  }
  grpc::ServerUnaryReactor* AllocatePayment(grpc::CallbackServerContext* call,
                                            const v1::AllocatePaymentRequest* request,
                                            v1::AllocatePaymentResponse* response) override {
    return DoOnce(
        context_, call, request, response, request->party_name(),
        absl::StrCat("payment ", request->payment(), " to ", request->invoice_number(), ": ", request->amount_minor()),
        [request](Database& db, Change& change) { return billing::AllocatePayment(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* ReleaseAllocations(grpc::CallbackServerContext* call,
                                               const v1::ReleaseAllocationsRequest* request,
                                               v1::AllocatePaymentResponse* response) override {
    return DoOnce(
        context_, call, request, response, request->invoice_number(), absl::StrCat("payment ", request->payment()),
        [request](Database& db, Change& change) { return billing::ReleaseAllocations(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* RefundPayment(grpc::CallbackServerContext* call, const v1::RefundPaymentRequest* request,
                                          v1::RefundPaymentResponse* response) override {
    return DoOnce(
        context_, call, request, response, request->party_name(),
        absl::StrCat(request->amount_micro(), " micro-units, ", request->reference()),
        [request](Database& db, Change& change) { return billing::RefundPayment(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* GetStatement(grpc::CallbackServerContext* call, const v1::GetStatementRequest* request,
                                         v1::Statement* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::GetStatement(db, *request, context_->clock());
    });
  }

 private:
  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInvoiceService(const Context* context) {
  return std::make_unique<InvoiceService>(context);
}

}  // namespace gantry::billing
