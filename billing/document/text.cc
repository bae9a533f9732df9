#include "billing/document/text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/document/clean.h"
#include "engine/base/status_macros.h"

namespace gantry::document {
namespace {

constexpr const char* kGap = "  ";
constexpr size_t kHeadWidth = 14;  // heads are broken to this, unless the cells below are wider

// Lines of at most `width` cells, broken at blanks; a longer word stays whole.
std::vector<std::string> Wrap(const std::string& text, size_t width) {
  std::vector<std::string> lines;
  for (absl::string_view paragraph : absl::StrSplit(text, '\n')) {
    std::string line;
    for (absl::string_view word : absl::StrSplit(paragraph, ' ', absl::SkipEmpty())) {
      if (!line.empty() && DisplayWidth(line) + 1 + DisplayWidth(word) > width) {
        lines.push_back(line);
        line.clear();
      }
      absl::StrAppend(&line, line.empty() ? "" : " ", word);
    }
    lines.push_back(line);
  }
  return lines;
}

std::string Padded(const std::string& text, size_t width, Align align) {
  const size_t left_over = width - std::min(width, DisplayWidth(text));
  const size_t before = align == Align::kRight ? left_over : align == Align::kCenter ? left_over / 2 : 0;
  return absl::StrCat(std::string(before, ' '), text, std::string(left_over - before, ' '));
}

class Writer {
 public:
  explicit Writer(size_t width) : width_(width) {}

  std::string Clean(const std::string& text) { return CleanText(text, &replaced_); }
  void Line(std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out_, line, "\n");
  }
  void Lines(const std::string& text, const std::string& indent = "") {
    for (const std::string& line : Wrap(Clean(text), width_ - indent.size())) Line(indent + line);
  }
  void Blank() {
    if (!out_.empty()) out_ += "\n";
  }

  void operator()(const Heading& heading) {
    Blank();
    const std::string text = Clean(heading.text);
    Line(text);
    if (heading.level == 1) Line(std::string(DisplayWidth(text), '-'));
  }
  void operator()(const Paragraph& paragraph) {
    Blank();
    Lines(paragraph.text);
  }
  void operator()(const KeyValues& facts) {
    Blank();
    size_t label_width = 0;
    for (const KeyValues::Pair& pair : facts.pairs)
      label_width = std::max(label_width, DisplayWidth(Clean(pair.label)));
    for (const KeyValues::Pair& pair : facts.pairs) {
      const size_t room = width_ - std::min(width_ / 2, label_width + 2);
      std::string label = Padded(Clean(pair.label), label_width, Align::kLeft);
      for (const std::string& line : Wrap(Clean(pair.value), room)) {
        Line(absl::StrCat(label, kGap, line));
        label.assign(label_width, ' ');
      }
    }
  }
  void operator()(const Parties& parties) {
    for (const Parties::Party& party : parties.parties) {
      Blank();
      Lines(party.role + ":");
      for (const std::string& line : party.lines) Lines(line, kGap);
    }
  }
  void operator()(const Table& table);
  void operator()(const Note& note) {
    Blank();
    if (!note.title.empty()) Lines(absl::StrCat("** ", note.title, " **"));
    if (!note.text.empty()) Lines(note.text);
  }
  void operator()(const Signatures& signatures) {
    for (const std::string& signer : signatures.signers) {
      Blank();
      Blank();
      Line(std::string(40, '_'));
      Lines(signer);
    }
  }
  void operator()(const Spacer&) { Blank(); }

  std::string& out() { return out_; }
  size_t replaced() const { return replaced_; }

 private:
  size_t width_;
  std::string out_;
  size_t replaced_ = 0;
};

void Writer::operator()(const Table& table) {
  Blank();
  const size_t columns = table.columns.size();
  std::vector<size_t> widths(columns, 0);
  for (const Row& row : table.rows) {
    for (size_t c = 0; c < columns; c = SpanEnd(row, c)) {
      if (SpanEnd(row, c) == c + 1) widths[c] = std::max(widths[c], DisplayWidth(Clean(row.cells[c])));
    }
  }
  std::vector<std::vector<std::string>> heads;
  size_t head_lines = 1;
  for (size_t c = 0; c < columns; ++c) {
    heads.push_back(Wrap(Clean(table.columns[c].head), std::max(widths[c], kHeadWidth)));
    for (const std::string& line : heads[c]) widths[c] = std::max(widths[c], DisplayWidth(line));
    head_lines = std::max(head_lines, heads[c].size());
  }
  size_t total = 0;
  for (const size_t width : widths) total += width + (total == 0 ? 0 : 2);
  for (size_t line = 0; line < head_lines; ++line) {
    std::string text;
    for (size_t c = 0; c < columns; ++c) {
      // Short heads stand at the foot.
      const size_t missing = head_lines - heads[c].size();
      absl::StrAppend(&text, c == 0 ? "" : kGap,
                      Padded(line < missing ? "" : heads[c][line - missing], widths[c], table.columns[c].align));
    }
    Line(text);
  }
  Line(std::string(total, '-'));
  for (const Row& row : table.rows) {
    if (row.kind == RowKind::kTotal) Line(std::string(total, '-'));
    std::string text;
    for (size_t c = 0; c < columns;) {
      const size_t end = SpanEnd(row, c);
      size_t width = widths[c];
      for (size_t next = c + 1; next < end; ++next) width += 2 + widths[next];
      absl::StrAppend(&text, c == 0 ? "" : kGap, Padded(Clean(row.cells[c]), width, AlignOf(table, row, c)));
      c = end;
    }
    if (row.kind == RowKind::kHighlight) absl::StrAppend(&text, " <");
    Line(text);
  }
}

}  // namespace

absl::StatusOr<Rendering> RenderText(const Document& document, size_t width) {
  GANTRY_RETURN_IF_ERROR(CheckDocument(document));
  Writer writer(std::max<size_t>(width, 40));
  if (!document.issuer.empty()) {
    writer.Lines(document.issuer);
    for (const std::string& line : document.issuer_lines) writer.Lines(line);
    writer.Blank();
  }
  writer.Lines(document.mark.empty() ? document.title : absl::StrCat(document.title, " [", document.mark, "]"));
  if (!document.subtitle.empty()) writer.Lines(document.subtitle);
  for (const Block& block : document.blocks) std::visit(writer, block);
  Rendering rendering;
  rendering.bytes = std::move(writer.out());
  if (writer.replaced() > 0) rendering.warnings.push_back(ReplacedWarning(writer.replaced()));
  return rendering;
}

}  // namespace gantry::document
