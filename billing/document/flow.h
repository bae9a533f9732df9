// Strips of content that follow each other down the pages, and where pages break.
#pragma once

#include <vector>

#include "billing/document/layout.h"

namespace gantry::document {

// A horizontal piece of a page that is never split. What it holds is placed relative to its upper edge and the
// content's left edge.
struct Strip {
  double height = 0;
  double gap_before = 0;        // left out at the top of a page
  bool keep_with_next = false;  // no page break after it, unless such a chain is longer than a page
  int head = -1;                // index of the table head that continues above it on a new page; -1: none
  std::vector<PlacedBox> boxes;
  std::vector<PlacedLine> lines;
};

struct PageFrame {
  double left = 0;
  double first_top = 0, top = 0;  // of the first page and of all others
  double bottom = 0;
};

// `heads`: what Strip::head points to; a head on the page where its table begins is a strip of its own. Strips higher
// than a page overflow it: callers split by lines.
std::vector<Page> BreakIntoPages(const std::vector<Strip>& strips, const std::vector<Strip>& heads,
                                 const PageFrame& frame);

}  // namespace gantry::document
