#include "billing/document/document.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::document {
namespace {

// Sums what a description holds, and refuses the first thing that is out of bounds.
class Checker {
 public:
  absl::Status Text(const std::string& text) {
    bytes_ += text.size();
    if (text.size() > kTextBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("a text of ", text.size(), " bytes; at most ", kTextBytesMax, " fit a document"));
    }
    if (bytes_ > kDocumentBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("more than ", kDocumentBytesMax, " bytes of text: split the document"));
    }
    return absl::OkStatus();
  }
  // What stands in a part of the page that is never split.
  absl::Status Line(const std::string& text) {
    if (text.size() > kLineBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("a line of ", text.size(), " bytes; at most ", kLineBytesMax,
                                                     " fit a title, a letterhead or the head of a column"));
    }
    return Text(text);
  }
  absl::Status Texts(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) GANTRY_RETURN_IF_ERROR(Text(text));
    return absl::OkStatus();
  }

  absl::Status operator()(const Heading& heading) {
    GANTRY_RETURN_IF_ERROR(Count("heading level", heading.level, 1, 2));
    return Text(heading.text);
  }
  absl::Status operator()(const Paragraph& paragraph) { return Text(paragraph.text); }
  absl::Status operator()(const KeyValues& facts) {
    GANTRY_RETURN_IF_ERROR(Count("pairs beside each other", facts.columns, 1, 2));
    GANTRY_RETURN_IF_ERROR(Cells(2 * facts.pairs.size()));
    for (const KeyValues::Pair& pair : facts.pairs) {
      GANTRY_RETURN_IF_ERROR(Text(pair.label));
      GANTRY_RETURN_IF_ERROR(Text(pair.value));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const Parties& parties) {
    GANTRY_RETURN_IF_ERROR(Count("parties", parties.parties.size(), 1, 3));
    for (const Parties::Party& party : parties.parties) {
      GANTRY_RETURN_IF_ERROR(Cells(1 + party.lines.size()));
      GANTRY_RETURN_IF_ERROR(Text(party.role));
      GANTRY_RETURN_IF_ERROR(Texts(party.lines));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const Table& table) {
    GANTRY_RETURN_IF_ERROR(Count("columns", table.columns.size(), 1, kColumnsMax));
    for (const Column& column : table.columns) GANTRY_RETURN_IF_ERROR(Line(column.head));
    GANTRY_RETURN_IF_ERROR(Cells(table.columns.size() * table.rows.size()));
    for (const Row& row : table.rows) {
      if (row.cells.size() != table.columns.size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("a row of ", row.cells.size(), " cells in a table of ", table.columns.size(), " columns"));
      }
      GANTRY_RETURN_IF_ERROR(Texts(row.cells));
    }
    return absl::OkStatus();
  }
  absl::Status operator()(const Note& note) {
    GANTRY_RETURN_IF_ERROR(Text(note.title));
    return Text(note.text);
  }
  absl::Status operator()(const Signatures& signatures) {
    GANTRY_RETURN_IF_ERROR(Count("signers", signatures.signers.size(), 1, 3));
    return Texts(signatures.signers);
  }
  absl::Status operator()(const Spacer&) { return absl::OkStatus(); }

 private:
  static absl::Status Count(const char* what, size_t found, size_t min, size_t max) {
    if (found >= min && found <= max) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", found, ", expected ", min, " to ", max));
  }
  absl::Status Cells(size_t added) {
    cells_ += added;
    if (cells_ <= kCellsMax) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("more than ", kCellsMax, " cells: split the document"));
  }

  size_t bytes_ = 0, cells_ = 0;
};

}  // namespace

size_t SpanEnd(const Row& row, size_t column) {
  const bool runs_on = row.kind == RowKind::kGroup || row.kind == RowKind::kSubtotal || row.kind == RowKind::kTotal;
  size_t end = column + 1;
  while (runs_on && end < row.cells.size() && row.cells[end].empty()) ++end;
  return end;
}

Align AlignOf(const Table& table, const Row& row, size_t column) {
  if (row.kind == RowKind::kGroup) return Align::kLeft;
  const size_t end = SpanEnd(row, column);
  return end > column + 1 && end < row.cells.size() ? Align::kRight : table.columns[column].align;
}

absl::Status CheckDocument(const Document& document) {
  if (document.title.empty()) return absl::InvalidArgumentError("a document without a title");
  if (document.blocks.size() > kBlocksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a document of ", document.blocks.size(), " blocks; at most ", kBlocksMax));
  }
  if (document.mark.size() > kMarkBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a mark of ", document.mark.size(), " bytes; at most ", kMarkBytesMax, " stand beside a title"));
  }
  Checker checker;
  for (const std::string* line : {&document.title, &document.subtitle, &document.issuer}) {
    GANTRY_RETURN_IF_ERROR(checker.Line(*line));
  }
  size_t issuer_bytes = 0;
  for (const std::string& line : document.issuer_lines) {
    issuer_bytes += line.size();
    GANTRY_RETURN_IF_ERROR(checker.Line(line));
  }
  if (document.issuer_lines.size() > kIssuerLinesMax || issuer_bytes > kIssuerBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a letterhead of ", document.issuer_lines.size(), " lines and ",
                                                   issuer_bytes, " bytes; at most ", kIssuerLinesMax, " and ",
                                                   kIssuerBytesMax, " fit"));
  }
  GANTRY_RETURN_IF_ERROR(checker.Text(document.footer));
  GANTRY_RETURN_IF_ERROR(checker.Text(document.language));
  for (size_t i = 0; i < document.blocks.size(); ++i) {
    GANTRY_RETURN_IF_ERROR(Annotate(std::visit(checker, document.blocks[i]), absl::StrCat("block ", i + 1)));
  }
  return absl::OkStatus();
}

}  // namespace gantry::document
