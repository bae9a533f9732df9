#include "billing/document/layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/document/columns.h"
#include "billing/document/flow.h"

namespace gantry::document {
namespace {

using style::Colour;
using style::Type;

constexpr double kWidth = style::kContentWidth;
constexpr double kColumnGap = 12;
constexpr double kBlockGap = 9;
constexpr double kCellPadding = 2.6;  // above and below
constexpr double kRule = 0.5, kStrongRule = 0.9;
constexpr double kWordsWidthMin = 58;
constexpr double kHeadUnbroken = 60;
constexpr double kTableScaleMin = 0.74;  // 6.4 points
constexpr double kTableScaleStep = 0.06;
constexpr double kNotePadding = 9, kNoteBar = 3;
constexpr double kSignatureRoom = 44;

// Rows longer than this may be split.
constexpr double kKeepTogetherMax = (style::kPageHeight - style::kMarginTop - style::kMarginBottom) / 3;

// From the upper edge of a line to the foot of its letters: capitals (0.71 of the size in the first family) stand in
// the middle, whatever fonts the line falls back to.
double Baseline(const Type& type, double scale = 1) {
  return scale * (type.leading / 2 + 0.36 * type.size);
}

// A text in its place within a row of such.
struct Cell {
  Text text;
  Type type;
  double x = 0, width = 0;
  Align align = Align::kLeft;
};

double Offset(const Cell& cell, int line) {
  const double left_over = cell.width - cell.text->line_width(line);
  return cell.align == Align::kRight ? left_over : cell.align == Align::kCenter ? left_over / 2 : 0;
}

class Composer {
 public:
  explicit Composer(Typesetter* typesetter) : typesetter_(typesetter) {}

  void Letterhead(const Document& document);
  void operator()(const Heading& heading);
  void operator()(const Paragraph& paragraph);
  void operator()(const KeyValues& facts);
  void operator()(const Parties& parties);
  void operator()(const Table& table);
  void operator()(const Note& note);
  void operator()(const Signatures& signatures);
  void operator()(const Spacer&) { Gap(2 * kBlockGap); }

  const std::vector<Strip>& strips() const { return strips_; }
  const std::vector<Strip>& heads() const { return heads_; }

 private:
  struct RowStyle {
    double leading = 0;
    double scale = 1;
    double above = 0, below = 0;  // padding
    bool keep_with_next = false;
    int head = -1;
  };

  // Between what stands and what comes: the largest of the distances asked for.
  void Gap(double gap) { gap_ = std::max(gap_, gap); }
  Strip& AddStrip(double height, bool keep_with_next) {
    Strip& strip = strips_.emplace_back();
    strip.height = height;
    strip.gap_before = gap_;
    strip.keep_with_next = keep_with_next;
    gap_ = 0;
    return strip;
  }
  Text Wrapped(const std::string& text, const Type& type, double width, double scale = 1) {
    Text set = typesetter_->Set(text, type, scale);
    if (set->width() > width) set->Wrap(width);
    return set;
  }
  // Strips for the lines of cells beside each other; returns the index of the first.
  size_t AddRow(const std::vector<Cell>& cells, const RowStyle& row);
  // Lines of one text under each other, in the whole width.
  void AddText(const std::string& text, const Type& type, bool keep_with_next);

  // What is no longer than a third of a page, from strip `first` on, is not broken.
  void KeepShortTogether(size_t first);

  struct Grid;
  void AddTableRow(const Table& table, const Grid& grid, size_t index);

  Typesetter* typesetter_;
  std::vector<Strip> strips_, heads_;
  double gap_ = 0;
};

size_t Composer::AddRow(const std::vector<Cell>& cells, const RowStyle& row) {
  int lines = 1;
  for (const Cell& cell : cells) lines = std::max(lines, cell.text->lines());
  const bool together = lines * row.leading <= kKeepTogetherMax;
  const size_t first = strips_.size();
  for (int line = 0; line < lines; ++line) {
    const double above = line == 0 ? row.above : 0, below = line + 1 == lines ? row.below : 0;
    // Of a row that may be split, two lines stay at either end.
    const bool inside = line + 1 < lines && (together || line == 0 || line + 2 == lines);
    Strip& strip = AddStrip(above + row.leading + below, inside || (line + 1 == lines && row.keep_with_next));
    strip.head = row.head;
    for (const Cell& cell : cells) {
      if (line >= cell.text->lines()) continue;
      // Types of different size in one row stand on one line.
      strip.lines.push_back({cell.text, line, cell.x + Offset(cell, line),
                             above + row.leading / 2 + 0.36 * row.scale * cell.type.size, cell.type.colour});
    }
  }
  return first;
}

void Composer::KeepShortTogether(size_t first) {
  double height = 0;
  for (size_t i = first; i < strips_.size(); ++i) height += strips_[i].height;
  if (height > kKeepTogetherMax) return;
  for (size_t i = first; i + 1 < strips_.size(); ++i) strips_[i].keep_with_next = true;
}

void Composer::AddText(const std::string& text, const Type& type, bool keep_with_next) {
  AddRow({{Wrapped(text, type, kWidth), type, 0, kWidth}}, {.leading = type.leading, .keep_with_next = keep_with_next});
}

void Composer::Letterhead(const Document& document) {
  if (!document.issuer.empty()) {
    // Name left, address right: of the same block, so its height is that of the higher one.
    const Text name = Wrapped(document.issuer, style::kIssuer, 0.5 * kWidth);
    const Text address = Wrapped(absl::StrJoin(document.issuer_lines, "\n"), style::kIssuerLine, 0.45 * kWidth);
    const double height = std::max(name->lines() * style::kIssuer.leading,
                                   document.issuer_lines.empty() ? 0 : address->lines() * style::kIssuerLine.leading);
    Strip& strip = AddStrip(height + 8, true);
    for (int line = 0; line < name->lines(); ++line) {
      strip.lines.push_back(
          {name, line, 0, line * style::kIssuer.leading + Baseline(style::kIssuer), style::kIssuer.colour});
    }
    for (int line = 0; line < address->lines() && !document.issuer_lines.empty(); ++line) {
      strip.lines.push_back({address, line, kWidth - address->line_width(line),
                             line * style::kIssuerLine.leading + Baseline(style::kIssuerLine),
                             style::kIssuerLine.colour});
    }
    strip.boxes.push_back({0, height + 7, kWidth, kStrongRule, style::kAccent});
    Gap(22);
  }
  const Text title = Wrapped(document.title, style::kTitle, 0.75 * kWidth);
  const size_t first =
      AddRow({{title, style::kTitle, 0, kWidth}}, {.leading = style::kTitle.leading, .keep_with_next = true});
  if (!document.mark.empty()) {
    Type type = style::kBodyStrong;
    type.colour = style::kBad;
    const Text mark = typesetter_->Set(document.mark, type);
    mark->Shorten(0.22 * kWidth);
    const double width = mark->line_width(0) + 16, height = 19, y = (style::kTitle.leading - height) / 2;
    Strip& strip = strips_[first];
    strip.boxes.push_back({kWidth - width, y, width, height, style::kBad, /*outline=*/true});
    strip.lines.push_back({mark, 0, kWidth - width + 8, y + height / 2 + 0.36 * type.size, type.colour});
  }
  if (!document.subtitle.empty()) AddText(document.subtitle, style::kSubtitle, true);
  Gap(16);
}

void Composer::operator()(const Heading& heading) {
  const bool first_level = heading.level == 1;
  Gap(first_level ? 20 : 13);
  AddText(heading.text, first_level ? style::kHeading1 : style::kHeading2, true);
  Gap(first_level ? 5 : 3);
}

void Composer::operator()(const Paragraph& paragraph) {
  Gap(kBlockGap);
  const Text text = Wrapped(paragraph.text, style::kBody, kWidth);
  // Long ones break, with two lines at least on either side.
  const int lines = text->lines();
  for (int line = 0; line < lines; ++line) {
    Strip& strip = AddStrip(style::kBody.leading, line + 1 < lines && (line == 0 || line + 2 == lines));
    strip.lines.push_back({text, line, 0, Baseline(style::kBody), style::kBody.colour});
  }
  Gap(kBlockGap);
}

void Composer::operator()(const KeyValues& facts) {
  Gap(kBlockGap);
  const double column = (kWidth - (facts.columns - 1) * 2 * kColumnGap) / facts.columns;
  double label_width = 0;
  std::vector<Text> labels;
  for (const KeyValues::Pair& pair : facts.pairs) {
    labels.push_back(typesetter_->Set(pair.label, style::kLabel));
    label_width = std::max(label_width, labels.back()->width());
  }
  label_width = std::min(label_width, 0.42 * column);
  const double value_x = label_width + kColumnGap;
  for (size_t i = 0; i < facts.pairs.size(); i += facts.columns) {
    std::vector<Cell> cells;
    for (size_t j = i; j < std::min(facts.pairs.size(), i + facts.columns); ++j) {
      const double x = static_cast<double>(j - i) * (column + 2 * kColumnGap);
      if (labels[j]->width() > label_width) labels[j]->Wrap(label_width);
      cells.push_back({labels[j], style::kLabel, x, label_width});
      cells.push_back(
          {Wrapped(facts.pairs[j].value, style::kBody, column - value_x), style::kBody, x + value_x, column - value_x});
    }
    AddRow(cells, {.leading = style::kBody.leading, .below = 1, .keep_with_next = i == 0 && facts.pairs.size() > 1});
  }
  Gap(kBlockGap);
}

void Composer::operator()(const Parties& parties) {
  Gap(kBlockGap);
  const double count = static_cast<double>(parties.parties.size());
  const double width = (kWidth - (count - 1) * 2 * kColumnGap) / count;
  size_t rows = 0;
  for (const Parties::Party& party : parties.parties) rows = std::max(rows, 1 + party.lines.size());
  for (size_t row = 0; row < rows; ++row) {
    std::vector<Cell> cells;
    for (size_t i = 0; i < parties.parties.size(); ++i) {
      const Parties::Party& party = parties.parties[i];
      if (row > party.lines.size()) continue;
      const Type& type = row == 0 ? style::kLabel : row == 1 ? style::kBodyStrong : style::kBody;
      const std::string& text = row == 0 ? party.role : party.lines[row - 1];
      cells.push_back({Wrapped(text, type, width), type, static_cast<double>(i) * (width + 2 * kColumnGap), width});
    }
    AddRow(cells, {.leading = style::kBody.leading, .keep_with_next = row + 1 < rows && row < 6});
  }
  Gap(14);
}

// The geometry of a table.
struct Composer::Grid {
  double scale = 1;
  std::vector<double> x, width;
  std::vector<std::vector<Text>> cells;  // by row and column; null where empty or run over
  int head = -1;
};

const Type& TypeOf(const Row& row) {
  return row.kind == RowKind::kBody ? style::kCell : style::kCellStrong;
}

void Composer::operator()(const Table& table) {
  Gap(kBlockGap + 2);
  const size_t columns = table.columns.size();
  const double available = kWidth - static_cast<double>(columns - 1) * kColumnGap;
  Grid grid;
  std::vector<Text> heads;
  std::vector<ColumnWish> wishes;
  for (grid.scale = 1;; grid.scale -= kTableScaleStep) {
    heads.clear();
    wishes.assign(columns, {});
    grid.cells.assign(table.rows.size(), std::vector<Text>(columns));
    for (size_t c = 0; c < columns; ++c) {
      heads.push_back(typesetter_->Set(table.columns[c].head, style::kCellHead, grid.scale));
      wishes[c] = {.natural = 0, .figures = table.columns[c].align == Align::kRight};
    }
    for (size_t r = 0; r < table.rows.size(); ++r) {
      const Row& row = table.rows[r];
      for (size_t c = 0; c < columns; c = SpanEnd(row, c)) {
        if (row.cells[c].empty()) continue;
        grid.cells[r][c] = typesetter_->Set(row.cells[c], TypeOf(row), grid.scale);
        if (SpanEnd(row, c) == c + 1) wishes[c].natural = std::max(wishes[c].natural, grid.cells[r][c]->width());
      }
    }
    // A head may be broken between its words: where room is scarce, it asks for half of its width.
    double roomy = 0;
    for (size_t c = 0; c < columns; ++c) roomy += std::max(wishes[c].natural, heads[c]->width());
    for (size_t c = 0; c < columns; ++c) {
      const double width = heads[c]->width();
      const bool broken = roomy > available && width > kHeadUnbroken * grid.scale;
      wishes[c].natural = std::max(wishes[c].natural, broken ? width / 2 + 6 : width);
    }
    if (FiguresFit(wishes, available, kWordsWidthMin) || grid.scale - kTableScaleStep < kTableScaleMin) break;
  }
  grid.width = ColumnWidths(wishes, available, kWordsWidthMin);
  double x = 0;
  for (const double width : grid.width) {
    grid.x.push_back(x);
    x += width + kColumnGap;
  }

  std::vector<Cell> cells;
  for (size_t c = 0; c < columns; ++c) {
    if (heads[c]->width() > grid.width[c]) heads[c]->Wrap(grid.width[c]);
    cells.push_back({heads[c], style::kCellHead, grid.x[c], grid.width[c], table.columns[c].align});
  }
  // One strip, so that it can be repeated.
  const double leading = grid.scale * style::kCellHead.leading;
  int lines = 1;
  for (const Text& head : heads) lines = std::max(lines, head->lines());
  Strip head;
  head.height = lines * leading + 2 * kCellPadding + kStrongRule;
  for (const Cell& cell : cells) {
    for (int line = 0; line < cell.text->lines(); ++line) {
      // Short heads stand at the foot.
      const double y = kCellPadding + (lines - cell.text->lines() + line) * leading;
      head.lines.push_back({cell.text, line, cell.x + Offset(cell, line), y + Baseline(style::kCellHead, grid.scale),
                            style::kCellHead.colour});
    }
  }
  head.boxes.push_back({0, head.height - kStrongRule, kWidth, kStrongRule, style::kAccent});
  grid.head = static_cast<int>(heads_.size());
  heads_.push_back(head);
  const size_t first = strips_.size();
  Strip& begin = AddStrip(head.height, !table.rows.empty());
  begin.boxes = head.boxes;
  begin.lines = head.lines;
  for (size_t r = 0; r < table.rows.size(); ++r) AddTableRow(table, grid, r);
  KeepShortTogether(first);
  Gap(kBlockGap + 4);
}

void Composer::AddTableRow(const Table& table, const Grid& grid, size_t index) {
  const Row& row = table.rows[index];
  const Type& type = TypeOf(row);
  std::vector<Cell> cells;
  for (size_t c = 0; c < row.cells.size(); c = SpanEnd(row, c)) {
    const Text& text = grid.cells[index][c];
    if (text == nullptr) continue;
    const size_t end = SpanEnd(row, c);
    const double width = grid.x[end - 1] + grid.width[end - 1] - grid.x[c];
    if (text->width() > width) text->Wrap(width);
    cells.push_back({text, type, grid.x[c], width, AlignOf(table, row, c)});
  }
  // A head never stands with one row alone, nor a total without a row; a group's title stands with its first row.
  const bool last = index + 1 == table.rows.size();
  const bool next_is_total =
      !last && (table.rows[index + 1].kind == RowKind::kSubtotal || table.rows[index + 1].kind == RowKind::kTotal);
  RowStyle style{.leading = grid.scale * type.leading,
                 .scale = grid.scale,
                 .above = kCellPadding,
                 .below = kCellPadding + kRule,
                 .keep_with_next = !last && (index == 0 || next_is_total || row.kind == RowKind::kGroup),
                 .head = grid.head};
  if (row.kind == RowKind::kGroup) style.above += 5;
  const size_t first = AddRow(cells, style);
  const bool tinted = row.kind == RowKind::kHighlight || row.kind == RowKind::kTotal;
  for (size_t i = first; i < strips_.size() && tinted; ++i) {
    strips_[i].boxes.push_back({-4, 0, kWidth + 8, strips_[i].height, style::kTint});
  }
  if (row.kind == RowKind::kTotal) strips_[first].boxes.push_back({-4, 0, kWidth + 8, kStrongRule, style::kAccent});
  Strip& bottom = strips_.back();
  if (row.kind != RowKind::kTotal) bottom.boxes.push_back({0, bottom.height - kRule, kWidth, kRule, style::kHair});
}

void Composer::operator()(const Note& note) {
  Gap(kBlockGap + 2);
  const Colour bar = note.tone == Tone::kGood      ? style::kGood
                     : note.tone == Tone::kBad     ? style::kBad
                     : note.tone == Tone::kWarning ? style::kWarning
                                                   : style::kAccent;
  Type title = style::kNoteTitle;
  title.colour = bar;
  const double x = kNoteBar + kNotePadding, width = kWidth - x - kNotePadding;
  const size_t first = strips_.size();
  AddStrip(kNotePadding - 2, true);
  if (!note.title.empty()) {
    AddRow({{Wrapped(note.title, title, width), title, x, width}},
           {.leading = title.leading, .below = note.text.empty() ? 0.0 : 2, .keep_with_next = true});
  }
  if (!note.text.empty()) {
    AddRow({{Wrapped(note.text, style::kBody, width), style::kBody, x, width}},
           {.leading = style::kBody.leading, .keep_with_next = true});
  }
  AddStrip(kNotePadding - 2, false);
  for (size_t i = first; i < strips_.size(); ++i) {
    strips_[i].boxes.push_back({0, 0, kWidth, strips_[i].height, style::kTint});
    strips_[i].boxes.push_back({0, 0, kNoteBar, strips_[i].height, bar});
  }
  Gap(kBlockGap + 2);
}

void Composer::operator()(const Signatures& signatures) {
  Gap(kBlockGap);
  const double count = static_cast<double>(signatures.signers.size());
  const double width = (kWidth - (count - 1) * 3 * kColumnGap) / count;
  Strip& room = AddStrip(kSignatureRoom, true);
  std::vector<Cell> cells;
  for (size_t i = 0; i < signatures.signers.size(); ++i) {
    const double x = static_cast<double>(i) * (width + 3 * kColumnGap);
    room.boxes.push_back({x, kSignatureRoom - kRule, width, kRule, style::kInk});
    cells.push_back({Wrapped(signatures.signers[i], style::kLabel, width), style::kLabel, x, width});
  }
  AddRow(cells, {.leading = style::kLabel.leading, .above = 2});
  Gap(kBlockGap);
}

// What stands outside the content: the running head of later pages, the foot of all.
class Margins {
 public:
  Margins(const Document& document, Typesetter* typesetter) : document_(document), typesetter_(typesetter) {}

  void Add(Layout* layout) {
    const Text footer = typesetter_->Set(document_.footer.empty() ? document_.issuer : document_.footer, style::kSmall);
    if (footer->width() > kFooterWidth) footer->Wrap(kFooterWidth);
    if (footer->lines() > kFooterLinesMax) {
      layout->warnings.push_back(
          absl::StrCat("the footer has ", footer->lines(), " lines, of which ", kFooterLinesMax, " have room"));
    }
    for (size_t i = 0; i < layout->pages.size(); ++i) {
      Page& page = layout->pages[i];
      if (i > 0) RunningHead(&page);
      page.boxes.push_back({kLeft, kFoot - 13, kWidth, kRule, style::kHair});
      for (int line = 0; line < std::min(footer->lines(), kFooterLinesMax); ++line) {
        page.lines.push_back({footer, line, kLeft, kFoot + line * style::kSmall.leading, style::kSmall.colour});
      }
      AtRight(&page, absl::StrCat("Page ", i + 1, " of ", layout->pages.size()), style::kSmall, kFoot);
    }
  }

 private:
  static constexpr double kLeft = style::kMarginSide, kRight = style::kPageWidth - style::kMarginSide;
  static constexpr double kFoot = style::kPageHeight - style::kFooterBaseline;
  static constexpr double kFooterWidth = 0.8 * kWidth;
  static constexpr int kFooterLinesMax = 3;

  void AtRight(Page* page, const std::string& text, const Type& type, double baseline) {
    const Text set = typesetter_->Set(text, type);
    page->lines.push_back({set, 0, kRight - set->line_width(0), baseline, type.colour});
  }

  void RunningHead(Page* page) {
    constexpr double kBaseline = style::kMarginTop + 6;
    const Text running = typesetter_->Set(
        document_.subtitle.empty() ? document_.title : absl::StrCat(document_.title, " · ", document_.subtitle),
        style::kSmall);
    // In full it stands on the first page.
    running->Shorten(0.7 * kWidth);
    page->lines.push_back({running, 0, kLeft, kBaseline, style::kSmall.colour});
    Type mark = style::kSmall;
    mark.weight = 700;
    mark.colour = style::kBad;
    if (!document_.mark.empty()) AtRight(page, document_.mark, mark, kBaseline);
    page->boxes.push_back({kLeft, style::kMarginTop + 12, kWidth, kRule, style::kHair});
  }

  const Document& document_;
  Typesetter* typesetter_;
};

}  // namespace

Layout LayOut(const Document& document, Typesetter* typesetter) {
  Composer composer(typesetter);
  composer.Letterhead(document);
  for (const Block& block : document.blocks) std::visit(composer, block);
  const PageFrame frame{.left = style::kMarginSide,
                        .first_top = style::kMarginTop,
                        .top = style::kMarginTop + style::kRunningHead,
                        .bottom = style::kPageHeight - style::kMarginBottom};
  Layout layout;
  layout.pages = BreakIntoPages(composer.strips(), composer.heads(), frame);
  Margins(document, typesetter).Add(&layout);
  return layout;
}

}  // namespace gantry::document
