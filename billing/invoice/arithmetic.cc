#include "billing/invoice/arithmetic.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kWholePpm = 1'000'000;
constexpr size_t kNoteBytesMax = 256;

absl::Status CheckRate(v1::TaxCategory category, int64_t rate_ppm) {
  if (category < v1::TAX_CATEGORY_S || category > v1::TAX_CATEGORY_O) {
    return absl::InvalidArgumentError("tax category: expected S, Z, E, AE, K, G or O");
  }
  if (rate_ppm < 0 || rate_ppm > kWholePpm) {
    return absl::InvalidArgumentError(absl::StrCat("tax rate: expected 0..100 %, found ", rate_ppm, " millionths"));
  }
  if ((category == v1::TAX_CATEGORY_S) != (rate_ppm > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tax rate: category ", TaxCategoryCode(category),
        category == v1::TAX_CATEGORY_S ? " has one above 0; at 0 % the category is Z or E" : " has none; only S does"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Fitting(__int128 minor) {
  if (minor <= INT64_MAX && minor >= -INT64_MAX) return static_cast<int64_t>(minor);
  return absl::OutOfRangeError("the sums of the invoice are too large");
}

}  // namespace

int64_t TaxOf(int64_t taxable_minor, int64_t rate_ppm) {
  GANTRY_CHECK(rate_ppm >= 0 && rate_ppm <= kWholePpm, "a tax rate is at most 100 %");
  // On the magnitude, the sign afterwards: what is taken back is taxed as what was charged.
  const __int128 exact = static_cast<__int128>(taxable_minor) * rate_ppm;
  const __int128 rounded = ((exact < 0 ? -exact : exact) + kWholePpm / 2) / kWholePpm;
  return static_cast<int64_t>(exact < 0 ? -rounded : rounded);
}

absl::StatusOr<DocumentTotals> TotalsOf(const std::vector<TaxedLine>& lines) {
  std::map<std::pair<int, int64_t>, __int128> taxable;
  __int128 net = 0, tax = 0;
  for (const TaxedLine& line : lines) {
    GANTRY_RETURN_IF_ERROR(CheckRate(line.category, line.rate_ppm));
    taxable[{line.category, line.rate_ppm}] += line.net_minor;
    net += line.net_minor;
  }
  DocumentTotals totals;
  for (const auto& [group, sum] : taxable) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t fitting, Fitting(sum));
    totals.taxes.push_back(
        {static_cast<v1::TaxCategory>(group.first), group.second, fitting, TaxOf(fitting, group.second)});
    tax += totals.taxes.back().tax_minor;
  }
  GANTRY_ASSIGN_OR_RETURN(totals.net_minor, Fitting(net));
  GANTRY_ASSIGN_OR_RETURN(totals.tax_minor, Fitting(tax));
  GANTRY_ASSIGN_OR_RETURN(totals.gross_minor, Fitting(net + tax));
  return totals;
}

absl::StatusOr<int64_t> AmountDue(int64_t gross_minor, int64_t paid_minor) {
  return Fitting(static_cast<__int128>(gross_minor) - paid_minor);
}

const char* TaxCategoryCode(v1::TaxCategory category) {
  switch (category) {
    case v1::TAX_CATEGORY_S:
      return "S";
    case v1::TAX_CATEGORY_Z:
      return "Z";
    case v1::TAX_CATEGORY_E:
      return "E";
    case v1::TAX_CATEGORY_AE:
      return "AE";
    case v1::TAX_CATEGORY_K:
      return "K";
    case v1::TAX_CATEGORY_G:
      return "G";
    case v1::TAX_CATEGORY_O:
      return "O";
    default:
      return "";
  }
}

const char* StandardTaxNote(v1::TaxCategory category) {
  switch (category) {
    case v1::TAX_CATEGORY_AE:
      return "Reverse charge: the customer owes the tax.";
    case v1::TAX_CATEGORY_K:
      return "Intra-community supply, exempt from tax.";
    case v1::TAX_CATEGORY_G:
      return "Export outside the EU, exempt from tax.";
    case v1::TAX_CATEGORY_O:
      return "Not subject to tax.";
    default:
      return "";
  }
}

absl::Status CheckTaxTerms(const v1::TaxTerms& terms, const char* field) {
  if (terms.category() == v1::TAX_CATEGORY_UNSPECIFIED) {
    if (terms.rate_ppm() == 0 && terms.note().empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(field, ": a rate or a note needs a category"));
  }
  if (absl::Status status = CheckRate(terms.category(), terms.rate_ppm()); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": ", status.message()));
  }
  if (terms.category() == v1::TAX_CATEGORY_E && terms.note().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": category E needs a note that says why: it is printed"));
  }
  if (terms.note().size() > kNoteBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": note: expected at most ", kNoteBytesMax, " bytes, found ", terms.note().size()));
  }
  return absl::OkStatus();
}

absl::Status CheckTaxParties(v1::TaxCategory category, const std::string& seller_vat_id,
                             const std::string& buyer_vat_id) {
  const auto wrong = [&](const char* what) {
    return absl::FailedPreconditionError(
        absl::StrCat("tax category ", TaxCategoryCode(category), ": ", what, "; see `gantry profile set`"));
  };
  switch (category) {
    case v1::TAX_CATEGORY_AE:
    case v1::TAX_CATEGORY_K:
      if (seller_vat_id.empty()) return wrong("the seller's VAT id is missing");
      if (buyer_vat_id.empty()) return wrong("the buyer's VAT id is missing");
      return absl::OkStatus();
    case v1::TAX_CATEGORY_G:
      if (seller_vat_id.empty()) return wrong("the seller's VAT id is missing");
      return absl::OkStatus();
    case v1::TAX_CATEGORY_O:
      if (!seller_vat_id.empty() || !buyer_vat_id.empty()) {
        return wrong("no VAT id may stand on such an invoice: choose another category, or remove them");
      }
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

}  // namespace gantry::billing
