// The invoice as a page: the same figures as JSON and CSV, drafts marked, final ones the same bytes for ever.
#include "billing/invoice/invoice_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"
#include "billing/document/document_test_util.h"
#include "billing/invoice/render.h"

namespace gantry::billing {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int64_t kJuly = 1'782'864'000'000'000, kAugust = 1'785'542'400'000'000;

void AddLine(v1::Invoice* invoice, const char* model, v1::TokenClass token_class, uint64_t quantity, int64_t price,
             int64_t net_minor) {
  v1::InvoiceLine* line = invoice->add_lines();
  line->set_model(model);
  line->set_token_class(token_class);
  line->set_plan_version_id(std::string(16, '\x01'));
  line->set_quantity(quantity);
  line->set_price_micro_per_m(price);
  line->set_amount_pico(static_cast<int64_t>(quantity) * price);
  line->set_net_minor(net_minor);
  invoice->set_amount_pico(invoice->amount_pico() + line->amount_pico());
  invoice->set_net_minor(invoice->net_minor() + net_minor);
  invoice->set_total_minor(invoice->net_minor());
}

v1::Invoice FinalInvoice() {
  v1::Invoice invoice;
  invoice.set_number("H-2026-000017");
  invoice.set_state("final");
  invoice.set_seller("Haus der Maschinen GmbH");
  invoice.set_party_name("shili");
  invoice.set_legal_name("上海示例科技有限公司");
  invoice.set_period("2026-07");
  invoice.set_period_from_us(kJuly);
  invoice.set_period_to_us(kAugust);
  invoice.set_currency("EUR");
  invoice.set_minor_digits(2);
  invoice.set_requests(1'234'567);
  AddLine(&invoice, "qwen3.5-122b-a10b", v1::TOKEN_CLASS_INPUT, 4'123'456'789, 200'000, 82'469);
  AddLine(&invoice, "qwen3.5-122b-a10b", v1::TOKEN_CLASS_CACHED_INPUT, 2'000'000'001, 50'000, 10'000);
  AddLine(&invoice, "通义千问 3.5", v1::TOKEN_CLASS_OUTPUT, 987'654'321, 800'000, 79'012);
  return invoice;
}

TEST(InvoiceDocument, PdfSaysWhatTheMessageSays) {
  const auto pdf = InvoicePdf(FinalInvoice());
  ASSERT_TRUE(pdf.ok()) << pdf.status();
  document::KeepForEyes("invoice.pdf", pdf->bytes);
  EXPECT_THAT(pdf->warnings, IsEmpty());
  EXPECT_THAT(
      document::PdfLines(pdf->bytes),
      ElementsAre(ElementsAre(
          "Haus der Maschinen GmbH", "Invoice", "No. H-2026-000017", "Seller Buyer",
          "Haus der Maschinen GmbH 上海示例科技有限公司", "Invoice number H-2026-000017 Account shili",
          "Period (UTC) 2026-07-01 to 2026-07-31 Requests 1,234,567", "Model Class Quantity Price per million Net EUR",
          "qwen3.5-122b-a10b Input tokens 4,123,456,789 0.20 824.69",
          "qwen3.5-122b-a10b Cached input tokens 2,000,000,001 0.05 100.00",
          "通义千问 3.5 Output tokens 987,654,321 0.80 790.12", "Net 1,714.81", "Total EUR 1,714.81",
          StartsWith("Each line is its quantity times its price, exact, and rounded once"),
          EndsWith("add up to 1,714.81481465 EUR."), "Haus der Maschinen GmbH Page 1 of 1")));
}

TEST(InvoiceDocument, EveryRenderingHasTheSameAmounts) {
  const v1::Invoice invoice = FinalInvoice();
  const std::string pdf = document::PdfText(InvoicePdf(invoice)->bytes);
  const std::string html = document::HtmlText(InvoiceHtml(invoice)->bytes);
  const std::string csv = InvoiceCsv(invoice);
  const auto json = nlohmann::json::parse(InvoiceJson(invoice));
  EXPECT_EQ(json["total"], "1714.81");
  EXPECT_THAT(csv, HasSubstr(",total,,,,,,,,,,1714.81,,\r\n"));
  EXPECT_THAT(pdf, HasSubstr("Total EUR 1,714.81"));
  EXPECT_THAT(html, HasSubstr("Total EUR"));
  for (const char* amount : {"824.69", "100.00", "790.12", "1,714.81", "1,714.81481465", "4,123,456,789"}) {
    EXPECT_THAT(pdf, HasSubstr(amount));
    EXPECT_THAT(html, HasSubstr(amount));
  }
}

TEST(InvoiceDocument, ADraftIsMarkedAndHasNoNumber) {
  v1::Invoice invoice = FinalInvoice();
  EXPECT_THAT(document::PdfText(InvoicePdf(invoice)->bytes), Not(HasSubstr("DRAFT")));
  invoice.set_state("draft");
  invoice.clear_number();
  for (int i = 0; i < 60; ++i) AddLine(&invoice, "more", v1::TOKEN_CLASS_OUTPUT, 1, 1, 0);
  const auto pages = document::PdfLines(InvoicePdf(invoice)->bytes);
  ASSERT_EQ(pages.size(), 3u);
  for (const auto& page : pages) EXPECT_THAT(absl::StrJoin(page, "\n"), HasSubstr("DRAFT"));
  EXPECT_THAT(InvoiceHtml(invoice)->bytes, HasSubstr("DRAFT"));
}

TEST(InvoiceDocument, LinesOfSeveralPriceVersionsSayWhich) {
  v1::Invoice invoice = FinalInvoice();
  EXPECT_THAT(document::PdfText(InvoicePdf(invoice)->bytes), Not(HasSubstr("01010101")));
  invoice.mutable_lines(1)->set_plan_version_id(std::string(16, '\x02'));
  const std::string text = document::PdfText(InvoicePdf(invoice)->bytes);
  EXPECT_THAT(text, HasSubstr("qwen3.5-122b-a10b Input tokens 01010101 4,123,456,789 0.20 824.69"));
  EXPECT_THAT(text, HasSubstr("qwen3.5-122b-a10b Cached input tokens 02020202 2,000,000,001 0.05 100.00"));
}

TEST(InvoiceDocument, TheSameInvoiceGivesTheSameFile) {
  EXPECT_TRUE(InvoicePdf(FinalInvoice())->bytes == InvoicePdf(FinalInvoice())->bytes);
}

}  // namespace
}  // namespace gantry::billing
