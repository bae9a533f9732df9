#include "billing/document/flow.h"

namespace gantry::document {
namespace {

// Sums of many heights are compared with a page's: what is smaller than a thousandth of a point is no difference.
constexpr double kSlack = 1e-3;

class Breaker {
 public:
  Breaker(const std::vector<Strip>& heads, const PageFrame& frame) : heads_(heads), frame_(frame) { NewPage(); }

  // A chain of strips that belong together.
  void Add(const Strip* chain, size_t length) {
    double height = 0;
    for (size_t i = 0; i < length; ++i) height += chain[i].height + (i > 0 ? chain[i].gap_before : 0);
    const bool fits_a_page = height + HeadHeight(chain[0]) <= frame_.bottom - frame_.top + kSlack;
    if (!empty_ && fits_a_page && y_ + chain[0].gap_before + height > frame_.bottom + kSlack) NewPage();
    for (size_t i = 0; i < length; ++i) {
      if (!empty_ && y_ + chain[i].gap_before + chain[i].height > frame_.bottom + kSlack) NewPage();
      if (empty_ && chain[i].head >= 0) Place(heads_[chain[i].head]);
      if (!empty_) y_ += chain[i].gap_before;
      Place(chain[i]);
    }
  }

  std::vector<Page> Take() { return std::move(pages_); }

 private:
  double HeadHeight(const Strip& strip) const { return strip.head < 0 ? 0 : heads_[strip.head].height; }

  void NewPage() {
    y_ = pages_.empty() ? frame_.first_top : frame_.top;
    pages_.emplace_back();
    empty_ = true;
  }

  void Place(const Strip& strip) {
    Page& page = pages_.back();
    for (PlacedBox box : strip.boxes) {
      box.x += frame_.left;
      box.y += y_;
      page.boxes.push_back(box);
    }
    for (PlacedLine line : strip.lines) {
      line.x += frame_.left;
      line.baseline += y_;
      page.lines.push_back(line);
    }
    y_ += strip.height;
    empty_ = false;
  }

  const std::vector<Strip>& heads_;
  const PageFrame frame_;
  std::vector<Page> pages_;
  double y_ = 0;
  bool empty_ = true;
};

}  // namespace

std::vector<Page> BreakIntoPages(const std::vector<Strip>& strips, const std::vector<Strip>& heads,
                                 const PageFrame& frame) {
  Breaker breaker(heads, frame);
  for (size_t begin = 0; begin < strips.size();) {
    size_t end = begin + 1;
    while (end < strips.size() && strips[end - 1].keep_with_next) ++end;
    breaker.Add(&strips[begin], end - begin);
    begin = end;
  }
  return breaker.Take();
}

}  // namespace gantry::document
