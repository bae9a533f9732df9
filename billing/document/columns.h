// How wide the columns of a table become.
#pragma once

#include <vector>

namespace gantry::document {

struct ColumnWish {
  double natural = 0;    // widest text in one line
  bool figures = false;  // not to be broken while there is room
};

// Widths that add up to `available`. What is left over goes to columns of words, twice as much to each as to a column
// of figures. When there is too little, columns of words give way, the widest first; when even the figures do not fit
// beside words of `words_min`, the widest columns of all give way. REQUIRES: wishes not empty, available > 0.
std::vector<double> ColumnWidths(const std::vector<ColumnWish>& wishes, double available, double words_min);

// Whether ColumnWidths would break no figures.
bool FiguresFit(const std::vector<ColumnWish>& wishes, double available, double words_min);

}  // namespace gantry::document
