// The arithmetic of an invoice by EN 16931: every line is rounded first, sums are sums of rounded figures, tax is
// rounded once per category and rate. Pure; no clock, no store.
//
//   BT-106 = BT-109 = sum of lines       BT-117 = BT-116 x rate, rounded half away from zero on its magnitude
//   BT-110 = sum of BT-117               BT-112 = BT-109 + BT-110       BT-115 = BT-112 - BT-113 + BT-114
//
// There are no allowances and charges beside the lines (BT-107, BT-108), and nothing is rounded to pay (BT-114 = 0).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

struct TaxedLine {
  int64_t net_minor = 0;
  v1::TaxCategory category = v1::TAX_CATEGORY_O;
  int64_t rate_ppm = 0;  // 190000 = 19 %
};

struct TaxSum {
  v1::TaxCategory category = v1::TAX_CATEGORY_O;
  int64_t rate_ppm = 0;
  int64_t taxable_minor = 0;
  int64_t tax_minor = 0;
};

struct DocumentTotals {
  std::vector<TaxSum> taxes;  // by category and rate
  int64_t net_minor = 0;      // BT-106, BT-109
  int64_t tax_minor = 0;      // BT-110
  int64_t gross_minor = 0;    // BT-112
};
// OUT_OF_RANGE: a sum does not fit. INVALID_ARGUMENT: a line without category, or a rate that its category cannot have.
absl::StatusOr<DocumentTotals> TotalsOf(const std::vector<TaxedLine>& lines);

// taxable x rate, half away from zero. REQUIRES: 0 <= rate_ppm <= 10^6.
int64_t TaxOf(int64_t taxable_minor, int64_t rate_ppm);

// Amount due (BT-115) of what was paid already. OUT_OF_RANGE.
absl::StatusOr<int64_t> AmountDue(int64_t gross_minor, int64_t paid_minor);

// "S", "AE", ... as in UNTDID 5305; "" when unspecified.
const char* TaxCategoryCode(v1::TaxCategory category);
// "Reverse charge", ...; "" where the law asks for no reason (S, Z).
const char* StandardTaxNote(v1::TaxCategory category);

// Whether such terms can be chosen at all. INVALID_ARGUMENT: a rate with any category but S, S without a rate, E
// without a note, texts too long.
absl::Status CheckTaxTerms(const v1::TaxTerms& terms, const char* field);
// Whether an invoice between two parties may say so. FAILED_PRECONDITION names whose VAT id is missing (AE, K: both; G:
// the seller's) or must not be there (O), and what to do.
absl::Status CheckTaxParties(v1::TaxCategory category, const std::string& seller_vat_id,
                             const std::string& buyer_vat_id);

}  // namespace gantry::billing
