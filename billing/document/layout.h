// A document broken into pages: what stands where, before anything is drawn. The PDF renderer draws it.
#pragma once

#include <string>
#include <vector>

#include "billing/document/document.h"
#include "billing/document/style.h"
#include "billing/document/typeset.h"

namespace gantry::document {

// One line of a text. Coordinates are points from the page's upper left corner.
struct PlacedLine {
  Text text;
  int line = 0;
  double x = 0, baseline = 0;
  style::Colour colour;
};

struct PlacedBox {
  double x = 0, y = 0, width = 0, height = 0;
  style::Colour colour;
  bool outline = false;  // a frame instead of a filled box
};

struct Page {
  std::vector<PlacedBox> boxes;  // under the text
  std::vector<PlacedLine> lines;
};

struct Layout {
  std::vector<Page> pages;            // complete: running heads, footers and "Page n of m" included; at least one
  std::vector<std::string> warnings;  // texts that found no room
};

// REQUIRES: CheckDocument(document).
Layout LayOut(const Document& document, Typesetter* typesetter);

}  // namespace gantry::document
