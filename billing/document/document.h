// A business document as data: what an invoice, a statement of account, a price promise or a cost report says, in
// blocks. Three renderers (pdf.h, html.h, text.h) draw the same description, so that they cannot show different
// figures.
//
// All text is plain and final: figures are formatted from integers by the caller (figures.h), nothing is markup,
// nothing is computed here. '\n' begins a new line. Any bytes may stand in a text: what is not UTF-8 and characters
// that have no business on paper are drawn as U+FFFD and reported (clean.h).
//
//   Document document;
//   document.title = "Invoice";
//   document.blocks.push_back(KeyValues{.pairs = {{"Number", "H-2026-000017"}}});
//   document.blocks.push_back(Table{.columns = {{"Model"}, {"Amount", Align::kRight}},
//                                   .rows = {{{"qwen", "12.00"}}, {{"Total EUR", "12.00"}, RowKind::kTotal}}});
//   GANTRY_ASSIGN_OR_RETURN(const Rendering pdf, RenderPdf(document));
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"

namespace gantry::document {

// Bounds; a description beyond them is refused, not cut.
inline constexpr size_t kBlocksMax = 2'000;
inline constexpr size_t kColumnsMax = 12;
inline constexpr size_t kCellsMax = 100'000;                           // of all tables
inline constexpr size_t kTextBytesMax = 16 * 1024;                     // one text
inline constexpr size_t kIssuerLinesMax = 8, kIssuerBytesMax = 1'024;  // of the lines together
inline constexpr size_t kLineBytesMax = 256;  // title, subtitle, issuer and its lines, the head of a column
inline constexpr size_t kMarkBytesMax = 16;
inline constexpr size_t kDocumentBytesMax = 8 * 1024 * 1024;

enum class Align { kLeft, kRight, kCenter };

struct Heading {
  std::string text;
  int level = 1;  // 1 or 2
};

struct Paragraph {
  std::string text;
};

// Facts: label and value.
struct KeyValues {
  struct Pair {
    std::string label, value;
  };
  std::vector<Pair> pairs;
  int columns = 1;  // 1 or 2 pairs beside each other, filled row by row
};

// Who the document is between, beside each other: the role small, the first line stronger.
struct Parties {
  struct Party {
    std::string role;
    std::vector<std::string> lines;
  };
  std::vector<Party> parties;  // 1 to 3
};

struct Column {
  std::string head;
  Align align = Align::kLeft;  // of head and cells; figures stand right and are never broken while there is room
};

enum class RowKind {
  kBody,
  kHighlight,  // one among its like that matters: the case at hand
  kGroup,      // begins a part of the table
  kSubtotal,
  kTotal,
};

// As many cells as the table has columns. In groups and totals a text runs on over the empty cells to its right; the
// label of a total then stands beside its figure.
struct Row {
  std::vector<std::string> cells;
  RowKind kind = RowKind::kBody;
};

// Heads are repeated on every page that the table reaches. Only tables longer than a third of a page are split, and
// only such rows.
struct Table {
  std::vector<Column> columns;
  std::vector<Row> rows;
};

// Where texts run on (see Row): the column after the one that the text at `column` reaches, and how it is aligned.
size_t SpanEnd(const Row& row, size_t column);
Align AlignOf(const Table& table, const Row& row, size_t column);

enum class Tone { kNeutral, kGood, kBad, kWarning };

// Set apart from the text: a verdict, a warning, terms.
struct Note {
  std::string title;  // may be empty
  std::string text;   // may be empty
  Tone tone = Tone::kNeutral;
};

// Places to sign, beside each other; each says who signs.
struct Signatures {
  std::vector<std::string> signers;  // 1 to 3
};

struct Spacer {};

using Block = std::variant<Heading, Paragraph, KeyValues, Parties, Table, Note, Signatures, Spacer>;

struct Document {
  std::string title;                      // "Invoice"; must not be empty
  std::string subtitle;                   // under it: number, period
  std::string mark;                       // "DRAFT": set off beside the title, on every page; may be empty
  std::string issuer;                     // whose paper it is: first page and every footer; may be empty
  std::vector<std::string> issuer_lines;  // address and registration, first page
  std::string footer;                     // small, every page; what is longer than three lines is cut and warned of
  std::string language = "en";            // BCP 47: chooses between forms of the same Chinese character
  int64_t created_us = 0;                 // of the facts, not of the drawing; 0: none. The PDF carries it
  std::vector<Block> blocks;
};

// What a renderer gives back.
struct Rendering {
  std::string bytes;
  int pages = 0;                      // PDF only
  std::vector<std::string> warnings;  // what the reader of the paper will miss; empty when all is well
};

// INVALID_ARGUMENT naming the block and the bound. Every renderer asks this first.
absl::Status CheckDocument(const Document& document);

}  // namespace gantry::document
