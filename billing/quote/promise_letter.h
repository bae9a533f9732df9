// The letter that promises prices: who offers what to whom, until when it may be accepted and until when it holds.
// Pure: no store, no clock; the quote store fills the struct in, what is drawn is what it says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "billing/document/document.h"
#include "billing/rating/rating.h"

namespace gantry::billing {

struct LetterParty {
  std::string name;                        // legal name
  std::vector<std::string> address_lines;  // street, city, registration and VAT numbers
};

// A price of the plan. Bounds are half open, [from, to).
struct PromisedPrice {
  std::string model_glob;  // "*": every model
  TokenClass token_class = TokenClass::kInput;
  int64_t context_from = 0;  // of requests with so many tokens of context; 0 and none: all
  std::optional<int64_t> context_to;
  TierMode mode = TierMode::kFlat;
  int64_t package_size = 0;  // kPackage: whole packages of so many are charged
  int64_t tier_from = 0;     // for tokens (or requests) beyond so many a month; 0 and none: all
  std::optional<int64_t> tier_to;
  int64_t price_micro_per_m = 0;  // micro-units per million tokens or requests
};

struct PromiseLetter {
  bool draft = true;     // marked on every page until it is sent
  std::string quote;     // its number: "Q-2026-0007"
  std::string plan;      // name and version: "partners, version 3"
  std::string currency;  // ISO 4217
  LetterParty seller, buyer;
  absl::CivilDay dated, open_until, starts_on, promised_until;  // days in the seller's time zone, inclusive
  std::vector<PromisedPrice> prices;                            // at least one
  int64_t minimum_micro_per_month = 0;                          // charged at least; 0: none
  int64_t free_micro_per_month = 0;                             // not charged; 0: none
  std::string tax;                                              // "Prices are net of VAT."; may be empty
  std::vector<std::string> conditions;                          // further paragraphs: payment, abort policy, law
};

// The one place that decides what the letter says and where. INVALID_ARGUMENT names what is missing or contradicts
// itself: no party, no price, a negative amount, a promise that ends before the offer or the start.
absl::StatusOr<document::Document> PromiseLetterDocument(const PromiseLetter& letter);

// Drawn. The same letter gives the same bytes on the same machine, so that a digest of what was sent can be kept.
absl::StatusOr<document::Rendering> PromiseLetterPdf(const PromiseLetter& letter);
absl::StatusOr<document::Rendering> PromiseLetterHtml(const PromiseLetter& letter);

}  // namespace gantry::billing
