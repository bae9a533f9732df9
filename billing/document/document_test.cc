// What goes into a description comes out on paper: every text once, figures under each other, nothing of it markup.
#include "billing/document/document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/document/document_test_util.h"
#include "billing/document/figures.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"
#include "billing/document/text.h"

namespace gantry::document {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int64_t kAugust2026 = 1'785'542'400'000'000;

// Every kind of block, Latin and Chinese.
Document Sample() {
  Document document;
  document.title = "Invoice";
  document.subtitle = "No. H-2026-000017";
  document.mark = "DRAFT";
  document.issuer = "Haus der Maschinen GmbH · 机器之家";
  document.issuer_lines = {"Lindenstraße 12, 10969 Berlin", "VAT DE123456789"};
  document.footer = "IBAN DE02 1203 0000 0000 2020 51";
  document.created_us = kAugust2026;
  document.blocks = {
      Parties{{{"Seller", {"Haus der Maschinen GmbH", "10969 Berlin"}},
               {"Buyer", {"上海示例科技有限公司", "上海市浦东新区世纪大道 100 号"}}}},
      KeyValues{{{"Period", "2026-07"}, {"Requests", "1,234"}, {"Due", "2026-08-15"}}, 2},
      Table{{{"Model"}, {"Quantity", Align::kRight}, {"Net EUR", Align::kRight}},
            {{{"Input", "", ""}, RowKind::kGroup},
             {{"通义千问 Qwen3.5-122B", "123,456,789", "98.77"}},
             {{"office-float", "5", "0.01"}, RowKind::kHighlight},
             {{"Net", "", "98.78"}, RowKind::kSubtotal},
             {{"Total EUR", "", "98.78"}, RowKind::kTotal}}},
      Heading{"Terms", 1},
      Heading{"Payment", 2},
      Paragraph{"Payable within 14 days. 本发票金额以欧元计。"},
      Note{"Do not buy", "Own hardware costs more.", Tone::kBad},
      Spacer{},
      Signatures{{"For the seller", "For the buyer"}},
  };
  return document;
}

Rendering Pdf(const Document& document) {
  absl::StatusOr<Rendering> rendering = RenderPdf(document);
  EXPECT_TRUE(rendering.ok()) << rendering.status();
  return rendering.ok() ? *rendering : Rendering();
}

Rendering Html(const Document& document) {
  absl::StatusOr<Rendering> rendering = RenderHtml(document);
  EXPECT_TRUE(rendering.ok()) << rendering.status();
  return rendering.ok() ? *rendering : Rendering();
}

Document Numbered(int rows) {
  Document document;
  document.title = "Statement";
  Table table{{{"Entry"}, {"Amount", Align::kRight}}, {}};
  for (int i = 1; i <= rows; ++i) table.rows.push_back({{absl::StrCat("entry", i), Figure(i * 137, 2, 2)}});
  table.rows.push_back({{"Total", "1.00"}, RowKind::kTotal});
  document.blocks.push_back(table);
  return document;
}

TEST(DocumentPdf, TextComesOutAsItWentIn) {
  const Rendering pdf = Pdf(Sample());
  KeepForEyes("document_sample.pdf", pdf.bytes);
  EXPECT_THAT(pdf.warnings, IsEmpty()) << "./dev deps installs the fonts";
  EXPECT_EQ(pdf.pages, 1);
  EXPECT_THAT(PdfLines(pdf.bytes),
              ElementsAre(ElementsAre(
                  "Haus der Maschinen GmbH · 机器之家 Lindenstraße 12, 10969 Berlin", "VAT DE123456789",
                  "Invoice DRAFT", "No. H-2026-000017", "Seller Buyer", "Haus der Maschinen GmbH 上海示例科技有限公司",
                  "10969 Berlin 上海市浦东新区世纪大道 100 号", "Period 2026-07 Requests 1,234", "Due 2026-08-15",
                  "Model Quantity Net EUR", "Input", "通义千问 Qwen3.5-122B 123,456,789 98.77", "office-float 5 0.01",
                  "Net 98.78", "Total EUR 98.78", "Terms", "Payment", "Payable within 14 days. 本发票金额以欧元计。",
                  "Do not buy", "Own hardware costs more.", "For the seller For the buyer",
                  "IBAN DE02 1203 0000 0000 2020 51 Page 1 of 1")));
}

TEST(DocumentPdf, TwoHundredRowsEachOnceUnderARepeatedHead) {
  const Rendering pdf = Pdf(Numbered(200));
  const auto pages = PdfLines(pdf.bytes);
  ASSERT_EQ(pdf.pages, 6);
  ASSERT_EQ(pages.size(), 6u);
  int next = 1;
  for (size_t page = 0; page < pages.size(); ++page) {
    EXPECT_THAT(pages[page], Contains("Entry Amount").Times(1)) << "page " << page + 1;
    EXPECT_EQ(pages[page].back(), absl::StrCat("Page ", page + 1, " of 6"));
    for (const std::string& line : pages[page]) {
      if (!absl::StartsWith(line, "entry")) continue;
      EXPECT_EQ(line, absl::StrCat("entry", next, " ", Figure(next * 137, 2, 2)));
      ++next;
    }
  }
  EXPECT_EQ(next, 201);
}

// Wherever the page ends.
TEST(DocumentPdf, NeitherHeadNorTotalStandsAloneOnAPage) {
  for (int rows = 30; rows <= 90; ++rows) {
    const auto pages = PdfLines(Pdf(Numbered(rows)).bytes);
    for (const auto& page : pages) {
      int entries = 0, heads = 0, totals = 0;
      for (const std::string& line : page) {
        entries += absl::StartsWith(line, "entry");
        heads += line == "Entry Amount";
        totals += line == "Total 1.00";
      }
      EXPECT_EQ(heads, 1) << rows << " rows";
      EXPECT_GE(entries, totals == 1 ? 1 : 2) << rows << " rows";
    }
  }
}

TEST(DocumentPdf, NothingIsDrawnIntoTheMargins) {
  Document document = Sample();
  document.blocks.push_back(Paragraph{std::string(3'000, 'x')});
  document.blocks.push_back(Table{{{"Name"}, {"Text"}, {"Figure", Align::kRight}},
                                  {{{std::string(4'000, 'n'), std::string(900, 't'), "1.00"}}}});
  const Rendering pdf = Pdf(document);
  EXPECT_GT(pdf.pages, 2) << "a row longer than a page is split";
  size_t letters = 0;
  for (const PdfWord& word : PdfWords(pdf.bytes)) {
    EXPECT_GE(word.x_min, 56) << word.text;
    EXPECT_LE(word.x_max, 595.3 - 56) << word.text;
    EXPECT_LE(word.y_max, 842 - 25) << word.text;
    for (const char c : word.text) letters += c == 'n' && word.text.find_first_not_of('n') == std::string::npos;
  }
  EXPECT_EQ(letters, 4'000u);
}

TEST(DocumentPdf, AFooterHasThreeLinesAndSaysWhenThatIsTooFew) {
  Document document = Numbered(60);
  document.subtitle = std::string(250, 's');
  document.footer = "first\nsecond\nthird";
  const Rendering pdf = Pdf(document);
  EXPECT_THAT(pdf.warnings, IsEmpty());
  for (const auto& page : PdfLines(pdf.bytes)) {
    EXPECT_THAT(page, Contains(HasSubstr("first Page")));
    EXPECT_THAT(page, Contains("second"));
    EXPECT_EQ(page.back(), "third");
  }
  for (const PdfWord& word : PdfWords(pdf.bytes)) EXPECT_LE(word.y_max, 842 - 11) << word.text;
  document.footer += "\nfourth";
  EXPECT_THAT(Pdf(document).warnings, ElementsAre("the footer has 4 lines, of which 3 have room"));
}

// The longest that the bounds allow stays on its page.
TEST(DocumentPdf, TheLargestLetterheadAndTableHeadFit) {
  Document document;
  document.title = document.issuer = document.subtitle = std::string(256, 'W');
  document.issuer_lines.assign(8, std::string(128, 'W'));
  document.blocks = {Table{std::vector<Column>(12, Column{std::string(256, 'W'), Align::kRight}),
                           {Row{std::vector<std::string>(12, "1,234.56")}}}};
  for (const PdfWord& word : PdfWords(Pdf(document).bytes)) {
    EXPECT_GE(word.x_min, 56) << word.text;
    EXPECT_LE(word.x_max, 595.3 - 56) << word.text;
    EXPECT_LE(word.y_max, 842 - 11) << word.text;  // the footer's third line
  }
}

TEST(DocumentPdf, ALongNameIsBrokenWithoutAHyphen) {
  Document document;
  document.title = "Names";
  const std::string name = std::string(150, 'W') + std::string(150, 'n');
  document.blocks = {Paragraph{name}};
  std::string together;
  for (const PdfWord& word : PdfWords(Pdf(document).bytes)) {
    if (word.text != "Names") together += word.text;
  }
  EXPECT_EQ(together, name + "Page1of1");
}

TEST(DocumentPdf, FiguresEndUnderEachOther) {
  std::vector<double> ends;
  for (const PdfWord& word : PdfWords(Pdf(Numbered(12)).bytes)) {
    if (word.text.find_first_not_of("0123456789.") == std::string::npos && absl::StrContains(word.text, ".")) {
      ends.push_back(word.x_max);
    }
  }
  ASSERT_EQ(ends.size(), 13u);
  for (const double end : ends) EXPECT_NEAR(end, ends.front(), 0.1);
}

TEST(DocumentPdf, TheSameDescriptionGivesTheSameBytes) {
  const std::string once = Pdf(Sample()).bytes;
  std::string beside[2];
  std::thread first([&] { beside[0] = Pdf(Sample()).bytes; });
  std::thread second([&] { beside[1] = Pdf(Sample()).bytes; });
  first.join();
  second.join();
  EXPECT_TRUE(beside[0] == once);
  EXPECT_TRUE(beside[1] == once);
  EXPECT_TRUE(Html(Sample()).bytes == Html(Sample()).bytes);
}

TEST(DocumentPdf, ItsDateIsThatOfTheFacts) {
  Document document = Sample();
  // Cairo 1.16 leaves out the "D:" that should begin a date; readers take both.
  const std::string pdf = Pdf(document).bytes;
  EXPECT_TRUE(absl::StrContains(pdf, "/CreationDate (20260801000000Z") ||
              absl::StrContains(pdf, "/CreationDate (D:20260801000000Z"));
  document.created_us = 0;
  EXPECT_FALSE(absl::StrContains(Pdf(document).bytes, "/CreationDate")) << "the time of drawing";
}

TEST(DocumentPdf, CharactersWithoutAFontAreReported) {
  Document document = Sample();
  document.blocks.push_back(Paragraph{"a private character: \xF4\x80\x80\x80, twice \xF4\x80\x80\x80"});
  EXPECT_THAT(Pdf(document).warnings,
              ElementsAre(HasSubstr("2 characters have no font on this machine and are drawn as boxes: U+100000;")));
}

// In a process of its own, whose fontconfig knows Latin fonts only.
TEST(DocumentPdfDeathTest, AMachineWithoutChineseFontsSaysSo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const std::string config = absl::StrCat(testing::TempDir(), "/gantry_latin_fonts.conf");
        std::ofstream(config) << "<fontconfig><dir>/usr/share/fonts/truetype/open-sans</dir></fontconfig>";
        setenv("FONTCONFIG_FILE", config.c_str(), 1);
        const absl::StatusOr<Rendering> pdf = RenderPdf(Sample());
        for (const std::string& warning : pdf->warnings) fprintf(stderr, "%s\n", warning.c_str());
        exit(0);
      },
      ::testing::ExitedWithCode(0), "40 characters have no font.*U\\+4E0A.*fonts-wqy-microhei");
}

TEST(DocumentPdf, WhatIsNotTextIsReplacedAndReported) {
  Document document;
  document.title = "a\x01z";
  document.blocks.push_back(
      Paragraph{"\xFF"
                "end\u202Eturned\tblank"});
  const Rendering pdf = Pdf(document), html = Html(document);
  EXPECT_THAT(pdf.warnings, Contains(HasSubstr("bytes or characters that cannot be shown")));
  EXPECT_THAT(PdfText(pdf.bytes), HasSubstr("\uFFFDend\uFFFDturned blank"));
  EXPECT_THAT(html.warnings, ElementsAre(HasSubstr("bytes or characters that cannot be shown")));
  EXPECT_THAT(HtmlText(html.bytes), HasSubstr("\uFFFDend\uFFFDturned blank"));
}

TEST(DocumentHtml, NoTextIsMarkup) {
  const std::string evil = "</style><script>alert('x')</script>\" onload=\"&amp;<img src=x>";
  Document document = Sample();
  document.title = document.subtitle = document.issuer = document.footer = document.language = evil;
  document.mark = "<script src=x>";
  document.issuer_lines = {evil};
  document.blocks = {
      Heading{evil},
      Paragraph{evil},
      KeyValues{{{evil, evil}}},
      Parties{{{evil, {evil, evil}}}},
      Table{{{evil}}, {{{evil}}, {{evil}, RowKind::kTotal}}},
      Note{evil, evil},
      Signatures{{evil}},
  };
  const std::string html = Html(document).bytes;
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, Not(HasSubstr("\" onload")));
  size_t found = 0;
  const std::string text = HtmlText(html);
  for (size_t at = text.find(evil); at != std::string::npos; at = text.find(evil, at + 1)) ++found;
  // Issuer, its line, title and subtitle; the blocks in order; the footer.
  EXPECT_EQ(found, 4u + 1 + 1 + 2 + 3 + 3 + 2 + 1 + 1);
  EXPECT_THAT(text, HasSubstr("<script src=x>"));
}

TEST(DocumentHtml, SaysWhatThePdfSays) {
  const std::string html = Html(Sample()).bytes;
  KeepForEyes("document_sample.html", html);
  const std::string text = HtmlText(html);
  for (const PdfWord& word : PdfWords(Pdf(Sample()).bytes)) {
    if (word.text == "Page" || word.text == "of" || word.text == "1") continue;  // the printer's
    EXPECT_THAT(text, HasSubstr(word.text));
  }
  EXPECT_THAT(html, Not(HasSubstr("http://")));
  EXPECT_THAT(html, Not(HasSubstr("https://")));
}

TEST(DocumentText, TablesAlignWideCharactersToo) {
  Document document;
  document.title = "Preise";
  document.blocks = {Heading{"模型"},
                     Table{{{"Model"}, {"Net EUR", Align::kRight}},
                           {{{"Latin", ""}, RowKind::kGroup},
                            {{"qwen", "98.77"}},
                            {{"通义千问", "1,000.01"}, RowKind::kHighlight},
                            {{"Total", "1,098.78"}, RowKind::kTotal}}},
                     Paragraph{"one two three four five six seven eight nine ten"}, Note{"No", "\x1b[31mred"}};
  const absl::StatusOr<Rendering> text = RenderText(document, 40);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->bytes,
            "Preise\n"
            "\n模型\n----\n"
            "\nModel      Net EUR\n"
            "------------------\n"
            "Latin\n"
            "qwen         98.77\n"
            "通义千问  1,000.01 <\n"
            "------------------\n"
            "Total     1,098.78\n"
            "\none two three four five six seven eight\nnine ten\n"
            "\n** No **\n\uFFFD[31mred\n");
  EXPECT_THAT(text->warnings, ElementsAre(HasSubstr("1 bytes or characters that cannot be shown")));
}

TEST(DocumentPdf, AShortTableStaysOnOnePage) {
  for (int lines = 25; lines < 60; ++lines) {
    Document document = Numbered(8);
    document.blocks.insert(document.blocks.begin(), KeyValues{std::vector<KeyValues::Pair>(lines, {"fact", "value"})});
    for (const auto& page : PdfLines(Pdf(document).bytes)) {
      int rows = 0;
      for (const std::string& line : page) rows += absl::StartsWith(line, "entry");
      EXPECT_TRUE(rows == 0 || rows == 8) << lines << " lines before it";
    }
  }
}

TEST(DocumentBounds, WhatDoesNotFitIsRefusedByName) {
  struct Case {
    const char* says;
    void (*break_it)(Document*);
  };
  const Case cases[] = {
      {"a document without a title", [](Document* d) { d->title.clear(); }},
      {"a mark of 17 bytes; at most 16 stand beside a title", [](Document* d) { d->mark = std::string(17, 'm'); }},
      {"a line of 257 bytes; at most 256", [](Document* d) { d->title = std::string(257, 't'); }},
      {"a letterhead of 9 lines and 36 bytes; at most 8 and 1024 fit",
       [](Document* d) { d->issuer_lines.assign(9, "line"); }},
      {"a letterhead of 8 lines and 1600 bytes", [](Document* d) { d->issuer_lines.assign(8, std::string(200, 'x')); }},
      {"block 1: a line of 300 bytes",
       [](Document* d) {
         d->blocks[0] = Table{{{std::string(300, 'h')}}, {}};
       }},
      {"block 1: a text of 16385 bytes", [](Document* d) { d->blocks[0] = Paragraph{std::string(16'385, 'x')}; }},
      {"block 2: heading level: 3, expected 1 to 2",
       [](Document* d) {
         d->blocks[1] = Heading{"x", 3};
       }},
      {"block 1: a row of 1 cells in a table of 2 columns",
       [](Document* d) {
         d->blocks[0] = Table{{{"a"}, {"b"}}, {{{"x"}}}};
       }},
      {"block 1: columns: 0, expected 1 to 12", [](Document* d) { d->blocks[0] = Table{}; }},
      {"block 1: columns: 13",
       [](Document* d) {
         d->blocks[0] = Table{std::vector<Column>(13, Column{"x"}), {}};
       }},
      {"block 1: parties: 4, expected 1 to 3",
       [](Document* d) { d->blocks[0] = Parties{std::vector<Parties::Party>(4)}; }},
      {"block 1: more than 100000 cells",
       [](Document* d) {
         d->blocks[0] = Table{{{"a"}}, std::vector<Row>(100'001, Row{{"x"}})};
       }},
      {"a document of 2001 blocks", [](Document* d) { d->blocks.assign(2'001, Spacer{}); }},
      {"more than 8388608 bytes of text",
       [](Document* d) { d->blocks.assign(600, Paragraph{std::string(16'000, 'x')}); }},
  };
  for (const Case& c : cases) {
    Document document = Sample();
    c.break_it(&document);
    for (const absl::Status& status :
         {RenderPdf(document).status(), RenderHtml(document).status(), RenderText(document).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.says;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    }
  }
}

}  // namespace
}  // namespace gantry::document
