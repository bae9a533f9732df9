#include "billing/document/columns.h"

#include <algorithm>

#include "engine/base/check.h"

namespace gantry::document {
namespace {

// The cap c with sum(min(width, c)) = available, over `widths` whose sum is larger: the widest give way first.
double Cap(std::vector<double> widths, double available) {
  std::sort(widths.begin(), widths.end());
  double left = available;
  for (size_t i = 0; i < widths.size(); ++i) {
    const double share = left / static_cast<double>(widths.size() - i);
    if (widths[i] > share) return std::max(share, 1.0);
    left -= widths[i];
  }
  return widths.empty() ? available : widths.back();
}

double SumOf(const std::vector<ColumnWish>& wishes, bool figures, double width_max) {
  double sum = 0;
  for (const ColumnWish& wish : wishes) {
    if (wish.figures == figures) sum += std::min(wish.natural, width_max);
  }
  return sum;
}

}  // namespace

bool FiguresFit(const std::vector<ColumnWish>& wishes, double available, double words_min) {
  return SumOf(wishes, true, available) + SumOf(wishes, false, words_min) <= available;
}

std::vector<double> ColumnWidths(const std::vector<ColumnWish>& wishes, double available, double words_min) {
  GANTRY_CHECK(!wishes.empty() && available > 0, "a table has columns and room");
  const bool keep_figures = FiguresFit(wishes, available, words_min);
  std::vector<double> yielding;
  double fixed = 0;
  for (const ColumnWish& wish : wishes) {
    if (wish.figures && keep_figures) {
      fixed += wish.natural;
    } else {
      yielding.push_back(wish.natural);
    }
  }
  double sum = fixed;
  for (const double width : yielding) sum += width;
  const double cap = sum > available ? Cap(yielding, available - fixed) : available;
  const double left_over = std::max(0.0, available - sum);
  double shares = 0;
  for (const ColumnWish& wish : wishes) shares += wish.figures ? 1 : 2;
  std::vector<double> widths;
  for (const ColumnWish& wish : wishes) {
    const double width = wish.figures && keep_figures ? wish.natural : std::min(wish.natural, cap);
    widths.push_back(width + left_over * (wish.figures ? 1 : 2) / shares);
  }
  return widths;
}

}  // namespace gantry::document
