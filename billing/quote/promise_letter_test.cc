#include "billing/quote/promise_letter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "billing/document/document_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

PromiseLetter Letter() {
  PromiseLetter letter;
  letter.draft = false;
  letter.quote = "Q-2026-0007";
  letter.plan = "partners, version 3";
  letter.currency = "EUR";
  letter.seller = {"Haus der Maschinen GmbH", {"Lindenstraße 12, 10969 Berlin", "VAT DE123456789"}};
  letter.buyer = {"上海示例科技有限公司", {"上海市浦东新区世纪大道 100 号", "200120 上海"}};
  letter.dated = absl::CivilDay(2026, 10, 20);
  letter.open_until = absl::CivilDay(2026, 11, 20);
  letter.starts_on = absl::CivilDay(2026, 12, 1);
  letter.promised_until = absl::CivilDay(2027, 11, 30);
  letter.prices = {{.model_glob = "qwen3.5-122b*", .token_class = TokenClass::kInput, .price_micro_per_m = 260'000},
                   {.model_glob = "qwen3.5-122b*", .token_class = TokenClass::kCachedInput, .price_micro_per_m = 3'625},
                   {.model_glob = "qwen3.5-122b*", .token_class = TokenClass::kOutput, .price_micro_per_m = 2'080'000},
                   {.model_glob = "*", .token_class = TokenClass::kRequest, .price_micro_per_m = 0}};
  letter.minimum_micro_per_month = 500'000'000;
  letter.tax = "Prices are net of VAT; reverse charge applies.";
  letter.conditions = {"Invoices are monthly and payable within 14 days.",
                       "Charged is what was delivered; a request that fails before its first token is free."};
  return letter;
}

std::string Text(const PromiseLetter& letter) {
  const absl::StatusOr<document::Rendering> pdf = PromiseLetterPdf(letter);
  EXPECT_TRUE(pdf.ok()) << pdf.status();
  return pdf.ok() ? document::PdfText(pdf->bytes) : "";
}

TEST(PromiseLetter, SaysWhoPromisesWhatToWhomUntilWhen) {
  const absl::StatusOr<document::Rendering> pdf = PromiseLetterPdf(Letter());
  ASSERT_TRUE(pdf.ok()) << pdf.status();
  document::KeepForEyes("promise_letter.pdf", pdf->bytes);
  EXPECT_THAT(pdf->warnings, IsEmpty());
  EXPECT_EQ(pdf->pages, 1);
  const auto lines = document::PdfLines(pdf->bytes)[0];
  for (const char* line : {
           "Price promise",
           "Quote Q-2026-0007 · 2026-10-20",
           "Haus der Maschinen GmbH 上海示例科技有限公司",
           "Lindenstraße 12, 10969 Berlin 上海市浦东新区世纪大道 100 号",
           "Open for acceptance until 2026-11-20 Plan starts on 2026-12-01",
           "Prices promised until 2027-11-30 Minimum a month EUR 500.00",
           "Model Class EUR per million",
           "qwen3.5-122b* Input tokens 0.26",
           "qwen3.5-122b* Cached input tokens 0.003625",
           "qwen3.5-122b* Output tokens 2.08",
           "every model Requests 0.00",
           "Each month at least EUR 500.00 is charged, whether it was used or not.",
           "Prices are net of VAT; reverse charge applies.",
           "Invoices are monthly and payable within 14 days.",
       }) {
    EXPECT_THAT(lines, Contains(line));
  }
  const std::string flowing = absl::StrJoin(lines, " ");
  EXPECT_THAT(flowing, HasSubstr("From 2026-12-01 until 2027-11-30, both days included, none of them will rise."));
  EXPECT_THAT(flowing, HasSubstr("This offer is open until the end of 2026-11-20. By accepting quote Q-2026-0007 the "
                                 "buyer subscribes to the plan partners, version 3 from 2026-12-01"));
  EXPECT_THAT(flowing, HasSubstr("Place, date, signature for Haus der Maschinen GmbH"));
}

TEST(PromiseLetter, HtmlSaysTheSame) {
  const absl::StatusOr<document::Rendering> html = PromiseLetterHtml(Letter());
  ASSERT_TRUE(html.ok()) << html.status();
  document::KeepForEyes("promise_letter.html", html->bytes);
  const std::string text = document::HtmlText(html->bytes);
  for (const document::PdfWord& word : document::PdfWords(PromiseLetterPdf(Letter())->bytes)) {
    if (word.text == "Page") continue;  // the printer's
    EXPECT_THAT(text, HasSubstr(word.text));
  }
}

TEST(PromiseLetter, ShowsContextsAndTiersWhereThereAreSome) {
  EXPECT_THAT(Text(Letter()), Not(HasSubstr("Context")));
  EXPECT_THAT(Text(Letter()), Not(HasSubstr("calendar month")));
  PromiseLetter letter = Letter();
  letter.prices[0].context_to = 200'000;
  letter.prices[2].mode = TierMode::kGraduated;
  letter.prices[2].tier_to = 1'000'000'000;
  letter.prices.push_back({.model_glob = "qwen3.5-122b*",
                           .token_class = TokenClass::kOutput,
                           .mode = TierMode::kGraduated,
                           .tier_from = 1'000'000'000,
                           .price_micro_per_m = 1'800'000});
  letter.prices.push_back({.model_glob = "small*",
                           .token_class = TokenClass::kOutput,
                           .mode = TierMode::kPackage,
                           .package_size = 5'000'000,
                           .price_micro_per_m = 200'000});
  const std::string graduated = Text(letter);
  EXPECT_THAT(graduated, HasSubstr("Model Class Context, tokens Of a month's quantity EUR per million"));
  EXPECT_THAT(graduated, HasSubstr("qwen3.5-122b* Input tokens 0 to below 200,000 all 0.26"));
  EXPECT_THAT(graduated, HasSubstr("qwen3.5-122b* Output tokens all the part 0 to below 1,000,000,000 2.08"));
  EXPECT_THAT(graduated, HasSubstr("qwen3.5-122b* Output tokens all the part from 1,000,000,000 1.80"));
  EXPECT_THAT(graduated, HasSubstr("small* Output tokens all packages of 5,000,000 0.20"));
  EXPECT_THAT(graduated, HasSubstr("each part of a month's quantity has the price of the band"));
  EXPECT_THAT(graduated, HasSubstr("those of a month that were begun are charged whole"));
  letter.prices[2].mode = TierMode::kVolume;
  const std::string volume = Text(letter);
  EXPECT_THAT(volume, HasSubstr("all, when it is 0 to below 1,000,000,000 2.08"));
  EXPECT_THAT(volume, HasSubstr("the whole of a month's quantity has the price of the band"));
}

TEST(PromiseLetter, ADraftIsMarked) {
  EXPECT_THAT(Text(Letter()), Not(HasSubstr("DRAFT")));
  PromiseLetter letter = Letter();
  letter.draft = true;
  EXPECT_THAT(Text(letter), HasSubstr("DRAFT"));
}

TEST(PromiseLetter, OfManyPricesKeepsEveryOne) {
  PromiseLetter letter = Letter();
  letter.prices.clear();
  for (int i = 0; i < 150; ++i) {
    letter.prices.push_back({.model_glob = absl::StrCat("model-", i),
                             .token_class = TokenClass::kOutput,
                             .price_micro_per_m = i * 1'000 + 1});
  }
  const std::string text = Text(letter);
  for (int i = 0; i < 150; ++i) {
    EXPECT_THAT(text,
                HasSubstr(absl::StrCat("\nmodel-", i, " Output tokens 0.", absl::Dec(i, absl::kZeroPad3), "001\n")));
  }
}

TEST(PromiseLetter, TheSameLetterGivesTheSameFile) {
  EXPECT_TRUE(PromiseLetterPdf(Letter())->bytes == PromiseLetterPdf(Letter())->bytes);
}

TEST(PromiseLetter, WhatContradictsItselfIsRefused) {
  struct Case {
    const char* says;
    void (*break_it)(PromiseLetter*);
  };
  const Case cases[] = {
      {"names its quote, plan and currency", [](PromiseLetter* l) { l->quote.clear(); }},
      {"names seller and buyer", [](PromiseLetter* l) { l->buyer.name.clear(); }},
      {"has at least one price", [](PromiseLetter* l) { l->prices.clear(); }},
      {"the offer of 2026-10-20 ends on 2026-10-19, before it is made",
       [](PromiseLetter* l) { l->open_until = absl::CivilDay(2026, 10, 19); }},
      {"the prices are promised until 2026-11-30, before the offer ends (2026-11-20) or the plan starts (2026-12-01)",
       [](PromiseLetter* l) { l->promised_until = absl::CivilDay(2026, 11, 30); }},
      {"are not negative", [](PromiseLetter* l) { l->minimum_micro_per_month = -1; }},
      {"a price of `qwen3.5-122b*`: expected a model and an amount that is not negative",
       [](PromiseLetter* l) { l->prices[0].price_micro_per_m = -1; }},
      {"a tier from 5 to 5 is empty", [](PromiseLetter* l) { l->prices[0].tier_from = 5, l->prices[0].tier_to = 5; }},
      {"a context from 9 to 4 is empty",
       [](PromiseLetter* l) { l->prices[0].context_from = 9, l->prices[0].context_to = 4; }},
  };
  for (const Case& c : cases) {
    PromiseLetter letter = Letter();
    c.break_it(&letter);
    const absl::Status status = PromiseLetterDocument(letter).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
}

}  // namespace
}  // namespace gantry::billing
