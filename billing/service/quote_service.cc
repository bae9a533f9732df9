#include <memory>

#include "billing/parties/party_tree.h"
#include "billing/quote/quotes.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/quote.grpc.pb.h"

namespace gantry::billing {
namespace {

class QuoteService final : public v1::QuoteAdmin::CallbackService {
 public:
  explicit QuoteService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* DraftQuotes(grpc::CallbackServerContext* call, const v1::DraftQuotesRequest* request,
                                        v1::QuoteList* response) override {
    return DoOnce(
        context_, call, request, response, request->seller_name(), absl::StrCat(request->buyers_size(), " buyers"),
        [request](Database& db, Change& change) { return billing::DraftQuotes(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* GetQuote(grpc::CallbackServerContext* call, const v1::GetQuoteRequest* request,
                                     v1::Quote* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::GetQuote(db, request->number(), context_->clock());
    });
  }
  grpc::ServerUnaryReactor* ListQuotes(grpc::CallbackServerContext* call, const v1::ListQuotesRequest* request,
                                       v1::QuoteList* response) override {
    return Ask(context_, call, request, response, [this, request](Database& db, const Caller&) {
      return billing::ListQuotes(db, *request, context_->clock());
    });
  }
  grpc::ServerUnaryReactor* SendQuote(grpc::CallbackServerContext* call, const v1::SendQuoteRequest* request,
                                      v1::Quote* response) override {
    return DoOnce(context_, call, request, response, request->number(), "",
                  [request](Database& db, Change& change) { return billing::SendQuote(db, *request, change.now_us); });
  }
  grpc::ServerUnaryReactor* AcceptQuote(grpc::CallbackServerContext* call, const v1::AcceptQuoteRequest* request,
                                        v1::Quote* response) override {
    return DoOnce(context_, call, request, response, request->number(), request->accepted_by(),
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Quote> {
                    GANTRY_ASSIGN_OR_RETURN(v1::Quote quote, billing::AcceptQuote(db, *request, change.now_us));
                    GANTRY_ASSIGN_OR_RETURN(const PartyRow buyer, PartyByName(db, quote.buyer().name()));
                    GANTRY_RETURN_IF_ERROR(TellPrices(db, buyer.party_no, &change));
                    return quote;
                  });
  }
  grpc::ServerUnaryReactor* WithdrawQuote(grpc::CallbackServerContext* call, const v1::WithdrawQuoteRequest* request,
                                          v1::Quote* response) override {
    return DoOnce(context_, call, request, response, request->number(), "", [request](Database& db, Change& change) {
      return billing::WithdrawQuote(db, *request, change.now_us);
    });
  }

 private:
  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeQuoteService(const Context* context) {
  return std::make_unique<QuoteService>(context);
}

}  // namespace gantry::billing
