// One invoice with everything on it, its credit note and the statement: every rendering says the same, and what it says
// is what was booked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/catalog/plans.h"
#include "billing/document/document_test_util.h"
#include "billing/invoice/invoice_document.h"
#include "billing/invoice/invoice_test_util.h"
#include "billing/invoice/render.h"
#include "billing/invoice/statement_document.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Output graduated from a million tokens on, 0.50 free; 19 %; a Chinese customer.
class Renderings : public testing::Test {
 protected:
  Renderings() {
    v1::BillingProfile house;
    house.set_party_name("house");
    house.set_legal_name("Haus der Maschinen GmbH");
    house.add_address_lines("Lindenstraße 12");
    house.add_address_lines("10969 Berlin");
    house.set_country("DE");
    house.set_vat_id("DE123456789");
    house.set_registration("HRB 12345 B, Amtsgericht Charlottenburg");
    house.set_email("billing@example.com");
    house.set_terms_days(14);
    house.add_payment_lines("Beispielbank, IBAN DE02 1203 0000 0000 2020 51, BIC BYLADEM1001");
    house.mutable_sells_with()->set_category(v1::TAX_CATEGORY_S);
    house.mutable_sells_with()->set_rate_ppm(190'000);
    EXPECT_TRUE(SetProfile(books_, house).ok());
    v1::BillingProfile buyer;
    buyer.set_party_name("demo");
    buyer.set_legal_name("上海示例科技有限公司");
    buyer.add_address_lines("上海市浦东新区世纪大道 100 号");
    buyer.add_address_lines("200120 上海");
    buyer.set_country("CN");
    buyer.set_buyer_reference("PO-2026-4711");
    EXPECT_TRUE(SetProfile(books_, buyer).ok());
    books_.Do([&](Database& db) {
      v1::PublishPlanVersionRequest plan;
      plan.set_plan("standard");
      plan.set_currency("EUR");
      plan.set_allowance_micro(500'000);
      for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
        v1::PriceLine* line = plan.add_lines();
        line->set_model_glob("*");
        line->set_token_class(static_cast<v1::TokenClass>(c));
        line->set_price_micro_per_m(c == v1::TOKEN_CLASS_REQUEST ? 1'000'000 : 250'000 * c);
        if (c != v1::TOKEN_CLASS_OUTPUT) continue;
        line->clear_price_micro_per_m();
        line->set_mode(v1::TIER_MODE_GRADUATED);
        for (const auto& [from, price] : {std::pair{0, 900'000}, std::pair{1'000'000, 700'000}}) {
          v1::PriceTier* tier = line->add_tiers();
          tier->set_from(static_cast<uint64_t>(from));
          tier->set_price_micro_per_m(price);
        }
      }
      return PublishPlanVersion(db, plan, books_.now_us()).status();
    });
    Give(books_, "demo", 300'000);
    slice_ = books_.Slice(10'000'000);
    Use(3'123'457, 1'000'000, 2'345'678, 0);
  }

  void Use(uint64_t prompt, uint64_t cached, uint64_t output, uint64_t age_ms) {
    v1::UsageRecord record = books_.Record(slice_, prompt, output);
    record.set_cached_tokens(cached);
    record.set_age_ms(age_ms);
    record.set_plan_version_id(books_.PlanOf(books_.tenant()).ToBytes());
    books_.Append(record);
    books_.Append(books_.Witness(record, output));
  }

  Books books_;
  Id16 slice_;
};

// The amount in the CSV's first row of a kind.
std::string CsvAmount(const std::string& csv, const std::string& kind) {
  const std::vector<std::string> rows = absl::StrSplit(csv, "\r\n");
  const std::vector<std::string> heads = absl::StrSplit(rows[0], ',');
  const auto column = [&](const char* name) { return std::find(heads.begin(), heads.end(), name) - heads.begin(); };
  for (const std::string& row : rows) {
    const std::vector<std::string> cells = absl::StrSplit(row, ',');
    if (cells.size() == heads.size() && cells[static_cast<size_t>(column("kind"))] == kind) {
      return cells[static_cast<size_t>(column("net"))];
    }
  }
  return "no row";
}

// JSON, CSV, HTML and PDF have these sums, and the figures of every line.
void ExpectTheSame(const v1::Invoice& invoice, const std::string& name) {
  const auto json = nlohmann::json::parse(InvoiceJson(invoice));
  const std::string csv = InvoiceCsv(invoice);
  const auto pdf = InvoicePdf(invoice), html = InvoiceHtml(invoice);
  ASSERT_TRUE(pdf.ok() && html.ok());
  document::KeepForEyes(absl::StrCat(name, ".pdf"), pdf->bytes);
  document::KeepForEyes(absl::StrCat(name, ".html"), html->bytes);
  EXPECT_THAT(pdf->warnings, IsEmpty());
  const std::string paper = document::PdfText(pdf->bytes), page = document::HtmlText(html->bytes);
  for (const char* sum : {"net", "tax", "total", "paid", "due"}) {
    EXPECT_EQ(json[sum], CsvAmount(csv, sum)) << sum;
  }
  EXPECT_EQ(json["net_minor"], invoice.net_minor());
  EXPECT_EQ(json["tax_minor"], invoice.tax_minor());
  EXPECT_EQ(json["total_minor"], invoice.total_minor());
  for (const std::string& text : {paper, page}) {
    EXPECT_THAT(text, HasSubstr(json["net"].get<std::string>()));
    EXPECT_THAT(text, HasSubstr(json["tax"].get<std::string>()));
    EXPECT_THAT(text, HasSubstr(json["total"].get<std::string>()));
    EXPECT_THAT(text, HasSubstr(invoice.number()));
    EXPECT_THAT(text, HasSubstr("上海示例科技有限公司"));
    EXPECT_THAT(text, HasSubstr("DE123456789"));
    for (const auto& line : json["lines"]) EXPECT_THAT(text, HasSubstr(line["net"].get<std::string>()));
  }
  EXPECT_THAT(paper, HasSubstr(absl::StrCat("Total EUR ", json["total"].get<std::string>())));
  EXPECT_THAT(paper, HasSubstr(absl::StrCat("VAT 19 % on ", json["net"].get<std::string>(), " ",
                                            json["tax"].get<std::string>())));
}

TEST_F(Renderings, AgreeOnAnInvoiceItsCreditNoteAndTheStatement) {
  books_.Advance(25 * kDayUs);
  const auto invoice = Finalize(books_, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  // input 2,123,457 x 0.25 = 0.53086425; cached 1,000,000 x 0.50; output 1,000,000 x 0.90 + 1,345,678 x 0.70 =
  // 1.8419746; 0.50 free; 0.30 given
  EXPECT_EQ(invoice->net_minor(), 53 + 50 + 184 - 50 - 30);
  EXPECT_EQ(invoice->tax_minor(), 39) << "39.33";
  EXPECT_EQ(invoice->total_minor(), 246);
  ExpectTheSame(*invoice, "invoice-full");

  v1::CreateCreditNoteRequest request;
  request.set_number(invoice->number());
  request.set_reason("The output of 12 November was garbled; as agreed by telephone.");
  request.add_lines()->set_line(3);
  request.mutable_lines(0)->set_net_minor(100);
  const auto note = CreditNote(books_, request);
  ASSERT_TRUE(note.ok()) << note.status();
  EXPECT_EQ(note->total_minor(), 119);
  ExpectTheSame(*note, "credit-note");
  const auto note_json = nlohmann::json::parse(InvoiceJson(*note));
  EXPECT_EQ(note_json["original_number"], invoice->number());
  const std::string note_text = document::PdfText(InvoicePdf(*note)->bytes);
  EXPECT_THAT(note_text, HasSubstr("Credit note"));
  EXPECT_THAT(note_text, HasSubstr(absl::StrCat("Takes back invoice ", invoice->number(), " of 2026-12-05")));
  EXPECT_THAT(note_text, HasSubstr("garbled"));

  const auto statement = StatementOf(books_, "demo");
  ASSERT_TRUE(statement.ok()) << statement.status();
  EXPECT_EQ(statement->closing_micro(), -10'000'000 + 2'460'000 - 1'190'000);
  const auto json = nlohmann::json::parse(StatementJson(*statement));
  EXPECT_EQ(json["closing"], "-8.730000");
  EXPECT_THAT(StatementCsv(*statement), HasSubstr(",closing,,,,-8.730000\r\n"));
  const auto pdf = StatementPdf(*statement);
  document::KeepForEyes("statement.pdf", pdf->bytes);
  EXPECT_THAT(document::PdfText(pdf->bytes), HasSubstr("Closing balance -8.73"));
  EXPECT_THAT(document::HtmlText(StatementHtml(*statement)->bytes), HasSubstr("-8.73"));
  for (const auto& entry : json["entries"]) {
    EXPECT_THAT(StatementCsv(*statement), HasSubstr(entry["amount"].get<std::string>()));
  }
}

TEST_F(Renderings, SayWhatIsDueWhatIsLateAndWhatIsVoid) {
  books_.Advance(25 * kDayUs);
  ASSERT_TRUE(Finalize(books_, "demo", "2026-11").ok());
  // All that is left, and 1.00 of November's end that came late: tax cannot be paid from the balance.
  Use(0, 0, 1'000'000, 20ull * 86'400'000);
  const int64_t left = books_.FundsOfParty(books_.tenant()).posted_micro;
  Use(static_cast<uint64_t>(left) * 4, 0, 0, 0);
  books_.Advance(31 * kDayUs);
  const auto invoice = Finalize(books_, "demo", "2026-12");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_GT(invoice->due_minor(), 0);
  ExpectTheSame(*invoice, "invoice-due");
  const std::string due = FormatMinor(invoice->due_minor(), 2);
  for (const std::string& text :
       {document::PdfText(InvoicePdf(*invoice)->bytes), document::HtmlText(InvoiceHtml(*invoice)->bytes)}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("Please pay ", due, " EUR until ", invoice->due_on())));
    EXPECT_THAT(text, HasSubstr("IBAN DE02"));
    EXPECT_THAT(text, HasSubstr("Usage of earlier months"));
    EXPECT_THAT(text, HasSubstr("2026-11-15"));
  }
  ASSERT_TRUE(ReleaseFrom(books_, invoice->number()).ok());
  const auto gone = Void(books_, invoice->number());
  ASSERT_TRUE(gone.ok()) << gone.status();
  const std::string text = document::PdfText(InvoicePdf(*gone)->bytes);
  EXPECT_THAT(text, HasSubstr("VOID"));
  EXPECT_THAT(text, HasSubstr("wrong address"));
  EXPECT_EQ(nlohmann::json::parse(InvoiceJson(*gone))["state"], "void");
}

}  // namespace
}  // namespace gantry::billing
