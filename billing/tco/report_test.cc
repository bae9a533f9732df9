// One report, four renderings: none says another figure.
#include "billing/tco/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/document/document_test_util.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"
#include "billing/document/text.h"

namespace gantry::tco {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

Report Conceived() {
  std::ostringstream text;
  text << std::ifstream(std::string(GANTRY_SOURCE_DIR) + "/docs/examples/tco-cny.toml").rdbuf();
  const absl::StatusOr<Input> input =
      ParseInput(text.str(), {.overrides = {"prepared_by='机器之家'", "prepared_for='上海示例科技有限公司'"}});
  EXPECT_TRUE(input.ok()) << input.status();
  const absl::StatusOr<Report> report = Decide(*input, absl::CivilDay(2026, 7, 20));
  EXPECT_TRUE(report.ok()) << report.status();
  return *report;
}

TEST(TcoReport, EveryRenderingHasEveryWordOfTheOthers) {
  const document::Document page = ReportDocument(Conceived());
  const auto pdf = document::RenderPdf(page), html = document::RenderHtml(page), text = document::RenderText(page);
  ASSERT_TRUE(pdf.ok() && html.ok() && text.ok()) << pdf.status() << html.status() << text.status();
  document::KeepForEyes("tco.pdf", pdf->bytes);
  document::KeepForEyes("tco.html", html->bytes);
  EXPECT_THAT(pdf->warnings, IsEmpty());
  const std::string in_html = document::HtmlText(html->bytes), in_pdf = document::PdfText(pdf->bytes);
  // Words of the terminal: rules and the mark of a highlighted row are its own.
  for (absl::string_view word : absl::StrSplit(text->bytes, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (word == "<" || word == "**" || word.find_first_not_of('-') == std::string::npos) continue;
    EXPECT_THAT(in_html, HasSubstr(std::string(word)));
    EXPECT_THAT(in_pdf, HasSubstr(std::string(word)));
  }
  for (const char* figure : {"7,973.56", "41,666.67", "+33,693.11", "13.4 %", "323 M"}) {
    EXPECT_THAT(text->bytes, HasSubstr(figure));
  }
}

TEST(TcoReport, JsonHasIntegersBesideDecimals) {
  const auto json = nlohmann::json::parse(ReportJson(Conceived()));
  EXPECT_EQ(json["verdict"]["answer"], "buy");
  EXPECT_EQ(json["cost_per_month"]["total"], "7973.557778");
  EXPECT_EQ(json["cost_per_month"]["total_micro"], 7'973'557'778);
  EXPECT_EQ(json["base"]["answer"], "buy");
  EXPECT_EQ(json["base"]["boxes"], 1);
  EXPECT_EQ(json["apis"].size(), 3u);
  EXPECT_EQ(json["apis"][0]["listed"], "USD 0.29 / 0.29 / 2.32");
  EXPECT_EQ(json["apis"][0]["age_days"], 18);
  EXPECT_EQ(json["trial"]["answer"], "does_not_decide");
  EXPECT_EQ(json["trial"]["cost"], "40000.000000");
  EXPECT_EQ(json["rates"][0]["rate"], "7.100000");
  EXPECT_EQ(json["sensitivities"].size(), 3u + 3 + 2 + 5);
  EXPECT_EQ(json["utilisation"].size(), 7u);
  EXPECT_EQ(json["price_floors"].size(), 7u);
}

TEST(TcoReport, IsTheSameEveryTime) {
  EXPECT_TRUE(document::RenderPdf(ReportDocument(Conceived()))->bytes ==
              document::RenderPdf(ReportDocument(Conceived()))->bytes);
  EXPECT_EQ(ReportJson(Conceived()), ReportJson(Conceived()));
}

}  // namespace
}  // namespace gantry::tco
