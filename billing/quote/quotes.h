// Quotes in the books (contract: service QuoteAdmin). What a quote offers is fixed when it is drafted; acceptance turns
// it into a plan of its own, whose version promises the prices, and a subscription, once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/quote.pb.h"

namespace gantry::billing {

absl::StatusOr<v1::QuoteList> DraftQuotes(Database& db, const v1::DraftQuotesRequest& request, int64_t now_us);
// NOT_FOUND: no such quote.
absl::StatusOr<v1::Quote> GetQuote(Database& db, const std::string& number, int64_t now_us);
absl::StatusOr<v1::QuoteList> ListQuotes(Database& db, const v1::ListQuotesRequest& request, int64_t now_us);
absl::StatusOr<v1::Quote> SendQuote(Database& db, const v1::SendQuoteRequest& request, int64_t now_us);
absl::StatusOr<v1::Quote> AcceptQuote(Database& db, const v1::AcceptQuoteRequest& request, int64_t now_us);
absl::StatusOr<v1::Quote> WithdrawQuote(Database& db, const v1::WithdrawQuoteRequest& request, int64_t now_us);

}  // namespace gantry::billing
