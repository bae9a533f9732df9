#include "billing/invoice/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "billing/invoice/invoice_test_util.h"
#include "billing/invoice/series.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

v1::BillingProfile Of(const std::string& party) {
  v1::BillingProfile profile;
  profile.set_party_name(party);
  return profile;
}

TEST(BillingProfile, IsKeptAsVersions) {
  Books books;
  auto none = books.Get<v1::BillingProfile>([](Database& db) { return GetBillingProfile(db, "house"); });
  EXPECT_EQ(none.version(), 0u);
  EXPECT_EQ(none.legal_name(), "House Ltd");
  EXPECT_EQ(none.terms_days(), kTermsDaysDefault);
  v1::BillingProfile profile = Of("house");
  profile.set_legal_name("House of Machines GmbH");
  profile.set_terms_days(0);
  EXPECT_EQ(SetProfile(books, profile)->version(), 1u);
  profile.set_country("AT");
  EXPECT_EQ(SetProfile(books, profile)->version(), 2u);
  const auto now = books.Get<v1::BillingProfile>([](Database& db) { return GetBillingProfile(db, "house"); });
  EXPECT_EQ(now.version(), 2u);
  EXPECT_EQ(now.legal_name(), "House of Machines GmbH");
  EXPECT_EQ(now.terms_days(), 0u) << "due at once, as was said";
  EXPECT_EQ(now.set_us(), books.now_us());
  for (const char* sql : {"UPDATE billing_profile SET set_us = 0", "DELETE FROM billing_profile"}) {
    EXPECT_FALSE(books.store()
                     .WriteAndWait([&](Database& db) {
                       db.Script(sql);
                       return absl::OkStatus();
                     })
                     .ok())
        << sql;
  }
}

TEST(BillingProfile, FieldsAreBoundedAndNamed) {
  struct Case {
    const char* field;
    std::function<void(v1::BillingProfile*)> spoil;
  };
  Books books;
  for (const Case& c : std::vector<Case>{
           {"legal_name", [](auto* p) { p->set_legal_name(std::string(257, 'x')); }},
           {"legal_name", [](auto* p) { p->set_legal_name("two\nlines"); }},
           {"address_lines", [](auto* p) { p->add_address_lines(std::string(129, 'x')); }},
           {"address_lines",
            [](auto* p) {
              for (int i = 0; i < 7; ++i) p->add_address_lines("x");
            }},
           {"payment_lines", [](auto* p) { p->add_payment_lines("\x07"); }},
           {"registration", [](auto* p) { p->set_registration(std::string(129, 'x')); }},
           {"buyer_reference", [](auto* p) { p->set_buyer_reference(std::string(129, 'x')); }},
           {"country", [](auto* p) { p->set_country("Austria"); }},
           {"country", [](auto* p) { p->set_country("at"); }},
           {"vat_id", [](auto* p) { p->set_vat_id("ATU 123"); }},
           {"email", [](auto* p) { p->set_email("nobody"); }},
           {"email", [](auto* p) { p->set_email("a@b, c@d"); }},
           {"terms_days", [](auto* p) { p->set_terms_days(366); }},
           {"sells_with", [](auto* p) { p->mutable_sells_with()->set_rate_ppm(190'000); }},
           {"buys_with", [](auto* p) { p->mutable_buys_with()->set_category(v1::TAX_CATEGORY_E); }},
           {"series_prefix", [](auto* p) { p->set_series_prefix("r"); }},
           {"series_prefix", [](auto* p) { p->set_series_prefix("R1"); }},
           {"series_prefix", [](auto* p) { p->set_series_prefix("ABCDEFGHIJKLM"); }},
       }) {
    v1::BillingProfile profile = Of("house");
    c.spoil(&profile);
    const absl::Status status = SetProfile(books, profile).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << c.field << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.field));
    EXPECT_EQ(books.Int("SELECT count(*) FROM billing_profile"), 0);
  }
  EXPECT_TRUE(absl::IsNotFound(SetProfile(books, Of("nobody")).status()));
}

TEST(BillingProfile, NoTwoSellersMakeTheSameNumbers) {
  Books books;
  books.NewReseller("alpine", 0, 100'000);
  books.NewReseller("baltic", 0, 100'000);
  v1::BillingProfile alpine = Of("alpine"), baltic = Of("baltic");
  alpine.set_series_prefix("A-");
  EXPECT_TRUE(SetProfile(books, alpine).ok());
  for (const char* taken : {"A-", "A-C", "G", "GC", "S2-"}) {
    baltic.set_series_prefix(taken);
    const absl::Status status = SetProfile(books, baltic).status();
    if (std::string(taken) == "S2-") continue;  // whose own it is depends on the order of creation
    EXPECT_TRUE(absl::IsAlreadyExists(status)) << taken << ": " << status;
  }
  alpine.set_series_prefix("ALP-");
  EXPECT_TRUE(SetProfile(books, alpine).ok());
  baltic.set_series_prefix("A-");
  EXPECT_TRUE(absl::IsAlreadyExists(SetProfile(books, baltic).status())) << "numbers of it are on paper";
  alpine.set_series_prefix("A-");
  EXPECT_TRUE(SetProfile(books, alpine).ok()) << "its own";
  v1::BillingProfile tenant = Of("demo");
  tenant.set_series_prefix("D-");
  EXPECT_TRUE(absl::IsInvalidArgument(SetProfile(books, tenant).status())) << "it sells nothing";
}

TEST(BillingProfile, TheBuyersTaxGoesBeforeTheSellers) {
  v1::BillingProfile seller, buyer;
  EXPECT_EQ(TaxBetween(seller, buyer).category(), v1::TAX_CATEGORY_O);
  EXPECT_EQ(TaxBetween(seller, buyer).note(), "") << "nothing is claimed when nothing was said";
  seller.mutable_sells_with()->set_category(v1::TAX_CATEGORY_S);
  seller.mutable_sells_with()->set_rate_ppm(190'000);
  EXPECT_EQ(TaxBetween(seller, buyer).rate_ppm(), 190'000);
  buyer.mutable_buys_with()->set_category(v1::TAX_CATEGORY_K);
  EXPECT_EQ(TaxBetween(seller, buyer).rate_ppm(), 0);
  EXPECT_EQ(TaxBetween(seller, buyer).note(), "Intra-community supply, exempt from tax.");
  buyer.mutable_buys_with()->set_note("as agreed");
  EXPECT_EQ(TaxBetween(seller, buyer).note(), "as agreed");
}

TEST(InvoiceSeries, AForeignSeriesIsRefused) {
  Books books;
  const Id16 id = books.NewReseller("alpine", 0, 100'000);
  books.Do([&](Database& db) -> absl::Status {
    absl::StatusOr<PartyRow> house = HouseOf(db), alpine = PartyById(db, id);
    if (!house.ok() || !alpine.ok()) return absl::InternalError("no parties");
    EXPECT_EQ(NextNumber(db, *house, SeriesKind::kInvoices, 2026)->name, "G2026-000001");
    EXPECT_EQ(NextNumber(db, *house, SeriesKind::kInvoices, 2026)->name, "G2026-000001") << "nobody took it";
    EXPECT_EQ(NextNumber(db, *house, SeriesKind::kCreditNotes, 2026)->name, "GC2026-000001");
    db.Execute("INSERT INTO invoice_series VALUES ('S3-2026', ?, 1)", house->party_no);
    alpine->party_no = 3;
    EXPECT_TRUE(absl::IsFailedPrecondition(NextNumber(db, *alpine, SeriesKind::kInvoices, 2026).status()));
    return absl::OkStatus();
  });
}

TEST(InvoiceDates, DaysAreThoseOfTheTimeZone) {
  const int64_t midnight = StartOfDay(*ParseDay("2026-12-01", "day"), "Europe/Vienna");
  EXPECT_EQ(FormatDay(DayAt(midnight, "Europe/Vienna")), "2026-12-01");
  EXPECT_EQ(FormatDay(DayAt(midnight, "UTC")), "2026-11-30");
  EXPECT_EQ(FormatDay(DayAt(midnight - 1, "Europe/Vienna")), "2026-11-30");
  for (const char* wrong : {"", "2026-12", "2026-13-01", "2026-02-30", "1.12.2026", "2026-12-01T00"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDay(wrong, "from").status())) << wrong;
  }
}

}  // namespace
}  // namespace gantry::billing
