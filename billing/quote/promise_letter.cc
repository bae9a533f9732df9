#include "billing/quote/promise_letter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/document/figures.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

using document::Align;
using document::Exact;
using document::Figure;

const char* ClassText(TokenClass token_class) {
  switch (token_class) {
    case TokenClass::kInput:
      return "Input tokens";
    case TokenClass::kCachedInput:
      return "Cached input tokens";
    case TokenClass::kOutput:
      return "Output tokens";
    case TokenClass::kRequest:
      return "Requests";
  }
  return "";
}

std::string Day(absl::CivilDay day) {
  return absl::FormatCivilTime(day);
}

// "from 1,000,000", "1,000,000 to 5,000,000", "all": the upper bound is the first that is no longer in.
std::string Band(int64_t from, const std::optional<int64_t>& to) {
  if (from == 0 && !to) return "all";
  if (!to) return absl::StrCat("from ", Figure(from, 0, 0));
  return absl::StrCat(Figure(from, 0, 0), " to below ", Figure(*to, 0, 0));
}

absl::Status CheckBand(const char* what, int64_t from, const std::optional<int64_t>& to) {
  if (from >= 0 && (!to || *to > from)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " from ", from, " to ", to.value_or(0), " is empty"));
}

absl::Status CheckLetter(const PromiseLetter& letter) {
  if (letter.quote.empty() || letter.plan.empty() || letter.currency.empty()) {
    return absl::InvalidArgumentError("a promise letter names its quote, plan and currency");
  }
  if (letter.seller.name.empty() || letter.buyer.name.empty()) {
    return absl::InvalidArgumentError("a promise letter names seller and buyer");
  }
  if (letter.prices.empty()) return absl::InvalidArgumentError("a promise letter has at least one price");
  if (letter.open_until < letter.dated) {
    return absl::InvalidArgumentError(
        absl::StrCat("the offer of ", Day(letter.dated), " ends on ", Day(letter.open_until), ", before it is made"));
  }
  if (letter.promised_until < std::max(letter.open_until, letter.starts_on)) {
    return absl::InvalidArgumentError(absl::StrCat("the prices are promised until ", Day(letter.promised_until),
                                                   ", before the offer ends (", Day(letter.open_until),
                                                   ") or the plan starts (", Day(letter.starts_on), ")"));
  }
  if (letter.minimum_micro_per_month < 0 || letter.free_micro_per_month < 0) {
    return absl::InvalidArgumentError("minimum commitment and free allowance are not negative");
  }
  for (const PromisedPrice& price : letter.prices) {
    if (price.model_glob.empty() || price.price_micro_per_m < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a price of `", price.model_glob, "`: expected a model and an amount that is not negative"));
    }
    GANTRY_RETURN_IF_ERROR(CheckBand("a context", price.context_from, price.context_to));
    GANTRY_RETURN_IF_ERROR(CheckBand("a tier", price.tier_from, price.tier_to));
    const bool tiered = price.mode == TierMode::kGraduated || price.mode == TierMode::kVolume;
    if (!tiered && (price.tier_from != 0 || price.tier_to)) {
      return absl::InvalidArgumentError("a tier: expected a graduated or volume price");
    }
    if ((price.mode == TierMode::kPackage) != (price.package_size > 0)) {
      return absl::InvalidArgumentError("a package size: expected of packages, and of them alone");
    }
  }
  return absl::OkStatus();
}

std::string Amount(const PromiseLetter& letter, int64_t micro) {
  return absl::StrCat(letter.currency, " ", Exact(micro, 6, 2));
}

bool HasMode(const PromiseLetter& letter, TierMode mode) {
  return std::any_of(letter.prices.begin(), letter.prices.end(),
                     [&](const PromisedPrice& price) { return price.mode == mode; });
}

bool HasTiers(const PromiseLetter& letter) {
  return HasMode(letter, TierMode::kGraduated) || HasMode(letter, TierMode::kVolume);
}

// What of a month's quantity has the price.
std::string Quantity(const PromisedPrice& price) {
  switch (price.mode) {
    case TierMode::kFlat:
      return "all";
    case TierMode::kGraduated:
      return absl::StrCat("the part ", Band(price.tier_from, price.tier_to));
    case TierMode::kVolume:
      return absl::StrCat("all, when it is ", Band(price.tier_from, price.tier_to));
    case TierMode::kPackage:
      return absl::StrCat("packages of ", Figure(price.package_size, 0, 0));
  }
  return "";
}

// Columns that say nothing (all contexts, all of a quantity) are left out.
document::Table Prices(const PromiseLetter& letter) {
  const auto& prices = letter.prices;
  const bool contexts = std::any_of(prices.begin(), prices.end(), [](const PromisedPrice& price) {
    return price.context_from > 0 || price.context_to;
  });
  const bool quantities = HasTiers(letter) || HasMode(letter, TierMode::kPackage);
  document::Table table;
  table.columns = {{"Model"}, {"Class"}};
  if (contexts) table.columns.push_back({"Context, tokens"});
  if (quantities) table.columns.push_back({"Of a month's quantity"});
  table.columns.push_back({absl::StrCat(letter.currency, " per million"), Align::kRight});
  for (const PromisedPrice& price : prices) {
    document::Row row{{price.model_glob == "*" ? "every model" : price.model_glob, ClassText(price.token_class)}};
    if (contexts) row.cells.push_back(Band(price.context_from, price.context_to));
    if (quantities) row.cells.push_back(Quantity(price));
    row.cells.push_back(Exact(price.price_micro_per_m, 6, 2));
    table.rows.push_back(std::move(row));
  }
  return table;
}

bool HasGlobs(const PromiseLetter& letter) {
  return std::any_of(letter.prices.begin(), letter.prices.end(), [](const PromisedPrice& price) {
    return price.model_glob != "*" && price.model_glob.find_first_of("*?") != std::string::npos;
  });
}

std::vector<std::string> WithName(const LetterParty& party) {
  std::vector<std::string> lines = {party.name};
  lines.insert(lines.end(), party.address_lines.begin(), party.address_lines.end());
  return lines;
}

}  // namespace

absl::StatusOr<document::Document> PromiseLetterDocument(const PromiseLetter& letter) {
  GANTRY_RETURN_IF_ERROR(CheckLetter(letter));
  document::Document page;
  page.title = "Price promise";
  page.subtitle = absl::StrCat("Quote ", letter.quote, " · ", Day(letter.dated));
  page.mark = letter.draft ? "DRAFT" : "";
  page.issuer = letter.seller.name;
  page.issuer_lines = letter.seller.address_lines;
  page.footer = absl::StrCat(letter.seller.name, " · quote ", letter.quote);
  page.created_us = absl::ToUnixMicros(absl::FromCivil(letter.dated, absl::UTCTimeZone()));

  page.blocks.push_back(document::Parties{{{"Seller", WithName(letter.seller)}, {"Buyer", WithName(letter.buyer)}}});
  document::KeyValues facts{
      .pairs = {{"Quote", letter.quote},
                {"Plan", letter.plan},
                {"Open for acceptance until", Day(letter.open_until)},
                {"Plan starts on", Day(letter.starts_on)},
                {"Prices promised until", Day(letter.promised_until)},
                {"Minimum a month",
                 letter.minimum_micro_per_month == 0 ? "none" : Amount(letter, letter.minimum_micro_per_month)}},
      .columns = 2};
  page.blocks.push_back(std::move(facts));
  page.blocks.push_back(document::Paragraph{absl::StrCat(
      "We offer ", letter.buyer.name, " the use of our models at the prices below. From ", Day(letter.starts_on),
      " until ", Day(letter.promised_until), ", both days included, none of them will rise.")});
  page.blocks.push_back(Prices(letter));

  page.blocks.push_back(document::Heading{"Terms", 2});
  if (HasGlobs(letter)) {
    page.blocks.push_back(document::Paragraph{
        "In a model's name * stands for any letters and ? for one; the first row that fits a model and class counts."});
  }
  if (HasTiers(letter)) {
    page.blocks.push_back(document::Paragraph{"Quantities are counted by calendar month."});
  }
  if (HasMode(letter, TierMode::kGraduated)) {
    page.blocks.push_back(document::Paragraph{
        "Where a price is for a part, each part of a month's quantity has the price of the band it falls into."});
  }
  if (HasMode(letter, TierMode::kVolume)) {
    page.blocks.push_back(document::Paragraph{
        "Where a price is for all, the whole of a month's quantity has the price of the band it reaches."});
  }
  if (HasMode(letter, TierMode::kPackage)) {
    page.blocks.push_back(
        document::Paragraph{"Where packages are sold, those of a month that were begun are charged whole."});
  }
  if (letter.minimum_micro_per_month > 0) {
    page.blocks.push_back(
        document::Paragraph{absl::StrCat("Each month at least ", Amount(letter, letter.minimum_micro_per_month),
                                         " is charged, whether it was used or not.")});
  }
  if (letter.free_micro_per_month > 0) {
    page.blocks.push_back(document::Paragraph{absl::StrCat(
        "Of each month's usage ", Amount(letter, letter.free_micro_per_month), " at these prices is not charged.")});
  }
  if (!letter.tax.empty()) page.blocks.push_back(document::Paragraph{letter.tax});
  for (const std::string& condition : letter.conditions) page.blocks.push_back(document::Paragraph{condition});

  page.blocks.push_back(document::Heading{"Acceptance", 2});
  page.blocks.push_back(document::Paragraph{absl::StrCat("This offer is open until the end of ", Day(letter.open_until),
                                                         ". By accepting quote ", letter.quote,
                                                         " the buyer subscribes to the plan ", letter.plan, " from ",
                                                         Day(letter.starts_on), " at the prices and terms above.")});
  page.blocks.push_back(document::Signatures{{absl::StrCat("Place, date, signature for ", letter.seller.name),
                                              absl::StrCat("Place, date, signature for ", letter.buyer.name)}});
  return page;
}

absl::StatusOr<document::Rendering> PromiseLetterPdf(const PromiseLetter& letter) {
  GANTRY_ASSIGN_OR_RETURN(const document::Document page, PromiseLetterDocument(letter));
  return document::RenderPdf(page);
}

absl::StatusOr<document::Rendering> PromiseLetterHtml(const PromiseLetter& letter) {
  GANTRY_ASSIGN_OR_RETURN(const document::Document page, PromiseLetterDocument(letter));
  return document::RenderHtml(page);
}

}  // namespace gantry::billing
