#include "billing/document/document_test_util.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace gantry::document {
namespace {

// Standard output of `pdftotext OPTIONS FILE -`.
std::string RunPdfToText(const std::string& pdf, const std::string& options) {
  char path[] = "/tmp/gantry_document_XXXXXX";
  const int fd = mkstemp(path);
  EXPECT_GE(fd, 0);
  close(fd);
  std::ofstream(path, std::ios::binary) << pdf;
  FILE* pipe = popen(absl::StrCat("pdftotext ", options, " ", path, " -").c_str(), "r");
  std::string out;
  char buffer[4096];
  for (size_t got; pipe != nullptr && (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, got);
  EXPECT_TRUE(pipe != nullptr && pclose(pipe) == 0) << "pdftotext failed; ./dev deps installs it (poppler-utils)";
  unlink(path);
  return out;
}

std::string DecodeEntities(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#39;", "'"}, {"&apos;", "'"}});
}

double Attribute(absl::string_view tag, absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(tag, absl::MaxSplits(absl::StrCat(name, "=\""), 1));
  double value = 0;
  EXPECT_TRUE(parts.size() == 2 && absl::SimpleAtod(parts[1].substr(0, parts[1].find('"')), &value)) << tag;
  return value;
}

}  // namespace

std::vector<std::vector<std::string>> PdfLines(const std::string& pdf) {
  std::vector<std::vector<std::string>> pages;
  for (absl::string_view page : absl::StrSplit(RunPdfToText(pdf, "-layout"), '\f')) {
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(page, '\n')) {
      const std::string words = absl::StrJoin(absl::StrSplit(line, ' ', absl::SkipEmpty()), " ");
      if (!words.empty()) lines.push_back(words);
    }
    pages.push_back(lines);
  }
  // Each page ends with a form feed.
  if (!pages.empty() && pages.back().empty()) pages.pop_back();
  return pages;
}

std::string PdfText(const std::string& pdf) {
  std::string text;
  for (const auto& page : PdfLines(pdf)) absl::StrAppend(&text, absl::StrJoin(page, "\n"), "\n");
  return text;
}

std::vector<PdfWord> PdfWords(const std::string& pdf) {
  std::vector<PdfWord> words;
  int page = 0;
  for (absl::string_view line : absl::StrSplit(RunPdfToText(pdf, "-bbox"), '\n')) {
    if (absl::StrContains(line, "<page ")) ++page;
    // <word xMin="56.7" yMin="60.9" xMax="80.1" yMax="70.2">text</word>
    if (!absl::StrContains(line, "<word ")) continue;
    const size_t begin = line.find('>') + 1, end = line.rfind("</word>");
    words.push_back({page, Attribute(line, "xMin"), Attribute(line, "xMax"), Attribute(line, "yMin"),
                     Attribute(line, "yMax"), DecodeEntities(std::string(line.substr(begin, end - begin)))});
  }
  return words;
}

std::string HtmlText(const std::string& html) {
  const size_t body = html.find("<body>");
  EXPECT_NE(body, std::string::npos);
  std::string text;
  for (size_t i = body; i < html.size();) {
    if (html[i] == '<') {
      const size_t end = html.find('>', i);
      EXPECT_NE(end, std::string::npos);
      if (end == std::string::npos) break;
      i = end + 1;
    } else {
      const size_t end = std::min(html.find('<', i), html.size());
      absl::StrAppend(&text, html.substr(i, end - i));
      i = end;
    }
  }
  return DecodeEntities(text);
}

void KeepForEyes(const std::string& name, const std::string& bytes) {
  const char* directory = getenv("GANTRY_TEST_DOCUMENTS");
  if (directory == nullptr) return;
  std::filesystem::create_directories(directory);
  std::ofstream(absl::StrCat(directory, "/", name), std::ios::binary) << bytes;
}

}  // namespace gantry::document
