#include "billing/quote/quote_letter.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace gantry::billing {
namespace {

absl::CivilDay DayOf(const std::string& text) {
  absl::CivilDay day;
  absl::ParseCivilTime(text, &day);
  return day;
}

std::optional<int64_t> EndOf(uint64_t to) {
  if (to == 0) return std::nullopt;
  return static_cast<int64_t>(to);
}

// One row for each tier of a line.
void AddPrices(const v1::PriceLine& line, std::vector<PromisedPrice>* prices) {
  PromisedPrice price{
      .model_glob = line.model_glob(),
      .token_class = static_cast<TokenClass>(line.token_class() - 1),
      .context_from = static_cast<int64_t>(line.context_from()),
      .context_to = EndOf(line.context_to()),
      .mode = line.mode() == v1::TIER_MODE_UNSPECIFIED ? TierMode::kFlat : static_cast<TierMode>(line.mode() - 1),
      .package_size = static_cast<int64_t>(line.package_size()),
      .price_micro_per_m = line.price_micro_per_m()};
  if (line.tiers().empty()) prices->push_back(price);
  for (int i = 0; i < line.tiers_size(); ++i) {
    price.tier_from = static_cast<int64_t>(line.tiers(i).from());
    price.tier_to = i + 1 < line.tiers_size() ? EndOf(line.tiers(i + 1).from()) : std::nullopt;
    price.price_micro_per_m = line.tiers(i).price_micro_per_m();
    prices->push_back(price);
  }
}

}  // namespace

PromiseLetter LetterOf(const v1::Quote& quote) {
  const v1::QuoteTerms& terms = quote.terms();
  absl::TimeZone zone;
  absl::LoadTimeZone(quote.time_zone(), &zone);  // UTC when this machine does not know it
  const int64_t dated_us = quote.sent_us() != 0 ? quote.sent_us() : quote.drafted_us();
  PromiseLetter letter{
      .draft = quote.sent_us() == 0,
      .quote = quote.number(),
      .plan = absl::StrCat(terms.plan(), "-", absl::AsciiStrToLower(quote.number())),
      .currency = terms.currency(),
      .seller = {quote.seller_legal_name(), {quote.seller_address().begin(), quote.seller_address().end()}},
      .buyer = {quote.buyer().legal_name(), {quote.buyer().address().begin(), quote.buyer().address().end()}},
      .dated = absl::ToCivilDay(absl::FromUnixMicros(dated_us), zone),
      .open_until = DayOf(terms.open_until()),
      .starts_on = DayOf(terms.starts_on()),
      .promised_until = DayOf(terms.promised_until()),
      .minimum_micro_per_month = terms.commitment_micro(),
      .free_micro_per_month = terms.allowance_micro(),
      .tax = terms.tax(),
      .conditions = {terms.conditions().begin(), terms.conditions().end()}};
  for (const v1::PriceLine& line : terms.lines()) {
    // Requests for nothing are not worth a row.
    if (line.token_class() == v1::TOKEN_CLASS_REQUEST && line.price_micro_per_m() == 0 && line.tiers().empty())
      continue;
    AddPrices(line, &letter.prices);
  }
  return letter;
}

}  // namespace gantry::billing
