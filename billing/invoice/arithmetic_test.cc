#include "billing/invoice/arithmetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/status/status.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

TEST(InvoiceArithmetic, TaxIsRoundedHalfAwayFromZero) {
  struct Case {
    int64_t taxable, rate_ppm, tax;
  };
  for (const Case& c : std::vector<Case>{
           {0, 190'000, 0},
           {10'000, 190'000, 1'900},
           {50, 50'000, 3},            // 2.5
           {-50, 50'000, -3},          // -2.5: not -2, as floor(x + 0.5) has it
           {49, 50'000, 2},            // 2.45
           {51, 50'000, 3},            // 2.55
           {1, 77'000, 0},             // 7.7 %
           {81'596, 190'000, 15'503},  // 15503.24
           {INT64_MAX, 1'000'000, INT64_MAX},
           {-INT64_MAX, 1'000'000, -INT64_MAX},
           {INT64_MAX, 1, 9'223'372'036'855},
       }) {
    EXPECT_EQ(TaxOf(c.taxable, c.rate_ppm), c.tax) << c.taxable << " at " << c.rate_ppm;
  }
}

TEST(InvoiceArithmetic, TaxIsOfTheGroupNotOfTheLine) {
  // Three lines of 0.33 at 19 %: 0.0627 each would be 0.06 x 3 = 0.18; of 0.99 it is 0.19.
  const auto totals = TotalsOf({{33, v1::TAX_CATEGORY_S, 190'000},
                                {33, v1::TAX_CATEGORY_S, 190'000},
                                {33, v1::TAX_CATEGORY_S, 190'000},
                                {1'000, v1::TAX_CATEGORY_S, 70'000},
                                {500, v1::TAX_CATEGORY_Z, 0}});
  ASSERT_TRUE(totals.ok()) << totals.status();
  ASSERT_EQ(totals->taxes.size(), 3u);
  EXPECT_EQ(totals->taxes[0].rate_ppm, 70'000);
  EXPECT_EQ(totals->taxes[0].tax_minor, 70);
  EXPECT_EQ(totals->taxes[1].taxable_minor, 99);
  EXPECT_EQ(totals->taxes[1].tax_minor, 19);
  EXPECT_EQ(totals->taxes[2].tax_minor, 0);
  EXPECT_EQ(totals->net_minor, 1'599);
  EXPECT_EQ(totals->tax_minor, 89);
  EXPECT_EQ(totals->gross_minor, 1'688);
}

TEST(InvoiceArithmetic, NoLinesAreNoTotals) {
  const auto totals = TotalsOf({});
  ASSERT_TRUE(totals.ok());
  EXPECT_TRUE(totals->taxes.empty());
  EXPECT_EQ(totals->gross_minor, 0);
}

TEST(InvoiceArithmetic, AmountDueIsWhatIsNotPaid) {
  EXPECT_EQ(*AmountDue(1'200, 0), 1'200);
  EXPECT_EQ(*AmountDue(1'200, 1'200), 0);
  EXPECT_TRUE(absl::IsOutOfRange(AmountDue(INT64_MAX, -1).status()));
}

TEST(InvoiceArithmetic, RefusesWhatCannotBe) {
  EXPECT_TRUE(absl::IsInvalidArgument(TotalsOf({{1, v1::TAX_CATEGORY_UNSPECIFIED, 0}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TotalsOf({{1, v1::TAX_CATEGORY_AE, 190'000}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TotalsOf({{1, v1::TAX_CATEGORY_S, 0}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(TotalsOf({{1, v1::TAX_CATEGORY_S, 1'000'001}}).status()));
  EXPECT_TRUE(
      absl::IsOutOfRange(TotalsOf({{INT64_MAX, v1::TAX_CATEGORY_O, 0}, {INT64_MAX, v1::TAX_CATEGORY_O, 0}}).status()));
  EXPECT_TRUE(absl::IsOutOfRange(TotalsOf({{INT64_MAX, v1::TAX_CATEGORY_S, 10'000}}).status())) << "with its tax";
}

// 2|tax x 10^6 - taxable x rate| <= 10^6, and at a tie tax is the one further from zero.
bool IsNearest(int64_t taxable, int64_t rate_ppm, int64_t tax) {
  const __int128 exact = static_cast<__int128>(taxable) * rate_ppm, shown = static_cast<__int128>(tax) * 1'000'000;
  const __int128 off = shown - exact;
  if (2 * (off < 0 ? -off : off) < 1'000'000) return true;
  const bool away = (exact > 0 && off > 0) || (exact < 0 && off < 0);
  return 2 * (off < 0 ? -off : off) == 1'000'000 && away;
}

TEST(InvoiceArithmetic, RandomInvoicesEqualExactFractions) {
  constexpr int64_t kRates[] = {190'000, 70'000, 200'000, 55'000, 81'000, 130'000, 1, 999'999, 1'000'000};
  std::mt19937_64 random(20261126);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<TaxedLine> lines(random() % 12);
    const int64_t size = int64_t{1} << (random() % 50);
    __int128 net = 0;
    for (TaxedLine& line : lines) {
      line.net_minor = static_cast<int64_t>(random() % static_cast<uint64_t>(2 * size)) - size;
      if (random() % 4 != 0) {
        line.category = v1::TAX_CATEGORY_S;
        line.rate_ppm = kRates[random() % std::size(kRates)];
      } else {
        line.category = static_cast<v1::TaxCategory>(v1::TAX_CATEGORY_Z + random() % 6);
      }
      net += line.net_minor;
    }
    const auto totals = TotalsOf(lines);
    ASSERT_TRUE(totals.ok()) << totals.status();
    __int128 taxable = 0, tax = 0;
    for (const TaxSum& group : totals->taxes) {
      __int128 of_group = 0;
      for (const TaxedLine& line : lines) {
        if (line.category == group.category && line.rate_ppm == group.rate_ppm) of_group += line.net_minor;
      }
      ASSERT_TRUE(of_group == group.taxable_minor);
      ASSERT_TRUE(IsNearest(group.taxable_minor, group.rate_ppm, group.tax_minor))
          << group.taxable_minor << " at " << group.rate_ppm << ": " << group.tax_minor;
      taxable += group.taxable_minor;
      tax += group.tax_minor;
    }
    ASSERT_TRUE(net == taxable && net == totals->net_minor) << "BT-106 = BT-109 = sum of BT-116";
    ASSERT_TRUE(tax == totals->tax_minor && net + tax == totals->gross_minor) << "BT-110, BT-112";
  }
}

TEST(TaxRules, TermsAreCheckedBeforeTheyAreKept) {
  struct Case {
    v1::TaxCategory category;
    int64_t rate_ppm;
    const char* note;
    const char* says;  // nullptr: fine
  };
  for (const Case& c : std::vector<Case>{
           {v1::TAX_CATEGORY_UNSPECIFIED, 0, "", nullptr},
           {v1::TAX_CATEGORY_UNSPECIFIED, 190'000, "", "needs a category"},
           {v1::TAX_CATEGORY_S, 190'000, "", nullptr},
           {v1::TAX_CATEGORY_S, 0, "", "has one above 0"},
           {v1::TAX_CATEGORY_Z, 0, "", nullptr},
           {v1::TAX_CATEGORY_AE, 0, "", nullptr},
           {v1::TAX_CATEGORY_AE, 10, "", "has none; only S does"},
           {v1::TAX_CATEGORY_E, 0, "", "needs a note"},
           {v1::TAX_CATEGORY_E, 0, "Art. 132", nullptr},
       }) {
    v1::TaxTerms terms;
    terms.set_category(c.category);
    terms.set_rate_ppm(c.rate_ppm);
    terms.set_note(c.note);
    const absl::Status status = CheckTaxTerms(terms, "sells_with");
    EXPECT_EQ(status.ok(), c.says == nullptr) << TaxCategoryCode(c.category) << ": " << status;
    if (c.says == nullptr) continue;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(status.message()), HasSubstr("sells_with"));
  }
}

TEST(TaxRules, VatIdsMustFitTheCategory) {
  struct Case {
    v1::TaxCategory category;
    const char *seller, *buyer;
    const char* says;  // nullptr: fine
  };
  for (const Case& c : std::vector<Case>{
           {v1::TAX_CATEGORY_AE, "DE1", "AT1", nullptr},
           {v1::TAX_CATEGORY_AE, "DE1", "", "the buyer's VAT id is missing"},
           {v1::TAX_CATEGORY_AE, "", "AT1", "the seller's VAT id is missing"},
           {v1::TAX_CATEGORY_K, "DE1", "", "the buyer's VAT id is missing"},
           {v1::TAX_CATEGORY_G, "DE1", "", nullptr},
           {v1::TAX_CATEGORY_G, "", "", "the seller's VAT id is missing"},
           {v1::TAX_CATEGORY_O, "", "", nullptr},
           {v1::TAX_CATEGORY_O, "DE1", "", "no VAT id may stand"},
           {v1::TAX_CATEGORY_O, "", "AT1", "no VAT id may stand"},
           {v1::TAX_CATEGORY_S, "", "", nullptr},
       }) {
    const absl::Status status = CheckTaxParties(c.category, c.seller, c.buyer);
    EXPECT_EQ(status.ok(), c.says == nullptr) << TaxCategoryCode(c.category) << ": " << status;
    if (c.says == nullptr) continue;
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
}

}  // namespace
}  // namespace gantry::billing
