#include "billing/invoice/render.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace gantry::billing {
namespace {

v1::Invoice Example() {
  v1::Invoice invoice;
  invoice.set_state("draft");
  invoice.set_seller("House, \"the\" Ltd");
  invoice.set_party_name("demo");
  invoice.set_period("2026-11");
  invoice.set_currency("EUR");
  invoice.set_minor_digits(2);
  invoice.set_requests(3);
  v1::InvoiceLine* line = invoice.add_lines();
  line->set_model("=cmd()");
  line->set_token_class(v1::TOKEN_CLASS_OUTPUT);
  line->set_plan_version_id(std::string(16, '\x01'));
  line->set_quantity(12'345);
  line->set_price_micro_per_m(800'000);
  line->set_amount_pico(9'876'000'000);
  line->set_net_minor(1);
  invoice.set_net_minor(1);
  invoice.set_total_minor(1);
  invoice.set_amount_pico(9'876'000'000);
  return invoice;
}

TEST(InvoiceRender, JsonHasIntegersAndExactDecimals) {
  auto json = nlohmann::json::parse(InvoiceJson(Example()));
  EXPECT_TRUE(json["number"].is_null());
  EXPECT_EQ(json["seller"], "House, \"the\" Ltd");
  EXPECT_EQ(json["lines"][0]["quantity"], 12'345);
  EXPECT_EQ(json["lines"][0]["amount_exact"], "0.009876000000");
  EXPECT_EQ(json["lines"][0]["price_per_million"], "0.800000");
  EXPECT_EQ(json["total"], "0.01");
}

TEST(InvoiceRender, CsvQuotesAndDisarmsOutsideText) {
  const std::string csv = InvoiceCsv(Example());
  EXPECT_NE(csv.find("\"House, \"\"the\"\" Ltd\""), std::string::npos) << csv;
  EXPECT_NE(
      csv.find(",usage,'=cmd(),output,0,0,flat,01010101010101010101010101010101,12345,800000,9876000000,0.01,,0\r\n"),
      std::string::npos)
      << csv;
  EXPECT_NE(csv.find(",net,,,,,,,,,9876000000,0.01,,\r\n"), std::string::npos) << csv;
  EXPECT_NE(csv.find(",total,,,,,,,,,,0.01,,\r\n"), std::string::npos) << csv;
}

TEST(InvoiceRender, MinorUnits) {
  struct Case {
    int64_t minor;
    uint32_t digits;
    const char* text;
  };
  for (const Case& c : {Case{0, 2, "0.00"}, Case{5, 2, "0.05"}, Case{-5, 2, "-0.05"}, Case{12345, 2, "123.45"},
                        Case{7, 0, "7"}, Case{INT64_MIN, 3, "-9223372036854775.808"}}) {
    EXPECT_EQ(FormatMinor(c.minor, c.digits), c.text);
  }
}

}  // namespace
}  // namespace gantry::billing
