// What a reader sees of a rendered document: text taken out of the PDF by poppler's tools (`./dev deps`), and out of
// HTML.
#pragma once

#include <string>
#include <vector>

namespace gantry::document {

// Pages in order; the words of a line with single blanks between, empty lines left out. Adds a test failure and returns
// nothing when the file cannot be read.
std::vector<std::vector<std::string>> PdfLines(const std::string& pdf);
// All pages in one, lines joined by '\n'.
std::string PdfText(const std::string& pdf);

struct PdfWord {
  int page = 0;  // from 1
  double x_min = 0, x_max = 0, y_min = 0, y_max = 0;
  std::string text;
};
std::vector<PdfWord> PdfWords(const std::string& pdf);

// Elements' text in order, entities decoded, tags, style and head left out; one line a block element.
std::string HtmlText(const std::string& html);

// Leaves the file in $GANTRY_TEST_DOCUMENTS, when that is set, to be looked at.
void KeepForEyes(const std::string& name, const std::string& bytes);

}  // namespace gantry::document
