#include "billing/document/html.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "billing/document/clean.h"
#include "engine/base/status_macros.h"

namespace gantry::document {
namespace {

// The looks of style.h, for a screen and for A4.
constexpr const char* kStyle = R"css(
:root { --ink:#1c2129; --grey:#667080; --accent:#17406e; --hair:#d6dbe3; --tint:#f4f6f9; --good:#176e3d; --bad:#ad2121; --warning:#9e6105; }
* { box-sizing:border-box; }
body { margin:0; background:#e9ecf0; color:var(--ink); font:14px/1.46 "Open Sans","WenQuanYi Micro Hei","Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",Arial,sans-serif; font-variant-numeric:tabular-nums; }
main { max-width:210mm; margin:8mm auto; padding:18mm 20mm; background:#fff; box-shadow:0 1px 6px rgba(0,0,0,.15); overflow-wrap:anywhere; }
.letterhead { display:flex; justify-content:space-between; gap:24px; padding-bottom:8px; border-bottom:1.3px solid var(--accent); margin-bottom:28px; }
.issuer { font-weight:700; font-size:16px; }
.address { color:var(--grey); font-size:11.5px; text-align:right; }
.titles { display:flex; justify-content:space-between; align-items:flex-start; gap:24px; }
h1 { font-size:31px; line-height:1.25; font-weight:600; color:var(--accent); margin:0; }
.mark { flex:none; color:var(--bad); border:1.3px solid var(--bad); padding:3px 11px; font-weight:600; margin-top:6px; }
.subtitle { color:var(--grey); font-size:15.5px; margin:0 0 22px; }
h2 { font-size:18.5px; font-weight:600; color:var(--accent); margin:28px 0 8px; break-after:avoid; }
h3 { font-size:15px; font-weight:600; margin:19px 0 5px; break-after:avoid; }
p { margin:13px 0; white-space:pre-line; }
dl { display:grid; grid-template-columns:max-content 1fr; gap:2px 18px; margin:13px 0; }
dl.two { grid-template-columns:max-content 1fr max-content 1fr; }
dt { color:var(--grey); font-size:11.5px; padding-top:2.5px; }
dd { margin:0; white-space:pre-line; }
.parties { display:flex; gap:36px; margin:13px 0 20px; }
.parties > div { flex:1; }
.role, .signer { color:var(--grey); font-size:11.5px; }
.parties strong { font-weight:700; }
table { width:100%; border-collapse:collapse; font-size:12.9px; margin:16px 0 20px; }
thead { display:table-header-group; }
th { color:var(--accent); font-size:11.7px; font-weight:600; text-align:left; vertical-align:bottom; padding:4px 9px; border-bottom:1.3px solid var(--accent); }
td { padding:4px 9px; border-bottom:1px solid var(--hair); vertical-align:top; white-space:pre-line; }
tr { break-inside:avoid; }
th.r, td.r { text-align:right; }
td.r { white-space:nowrap; }
th.c, td.c { text-align:center; }
tr.highlight td { font-weight:700; background:var(--tint); }
tr.group td { font-weight:700; padding-top:12px; }
tr.subtotal td { font-weight:700; }
tr.total td { font-weight:700; background:var(--tint); border-top:2px solid var(--accent); border-bottom:0; }
.note { background:var(--tint); border-left:4px solid var(--tone); padding:10px 14px; margin:16px 0; break-inside:avoid; }
.note b { display:block; color:var(--tone); font-size:17px; margin-bottom:3px; }
.note div { white-space:pre-line; }
.neutral { --tone:var(--accent); } .good { --tone:var(--good); } .bad { --tone:var(--bad); } .warning { --tone:var(--warning); }
.signatures { display:flex; gap:48px; margin-top:70px; break-inside:avoid; }
.signer { flex:1; border-top:1px solid var(--ink); padding-top:3px; }
.spacer { height:26px; }
footer { border-top:1px solid var(--hair); margin-top:32px; padding-top:6px; color:var(--grey); font-size:11px; }
@page { size:A4; margin:18mm 20mm 20mm; @bottom-right { content:"Page " counter(page) " of " counter(pages); font:10px "Open Sans",Arial,sans-serif; color:#667080; } }
@media print { body { background:#fff; font-size:9.3pt; } main { max-width:none; margin:0; padding:0; box-shadow:none; } }
)css";

class Writer {
 public:
  // `text` as HTML, fit for an element's content and a quoted attribute.
  std::string Escape(absl::string_view text) {
    std::string out;
    for (const char c : CleanText(text, &replaced_)) {
      switch (c) {
        case '&':
          out += "&amp;";
          break;
        case '<':
          out += "&lt;";
          break;
        case '>':
          out += "&gt;";
          break;
        case '"':
          out += "&quot;";
          break;
        case '\'':
          out += "&#39;";
          break;
        default:
          out += c;
      }
    }
    return out;
  }
  // <tag attributes>text</tag>; tag and attributes are ours.
  void Element(absl::string_view tag, absl::string_view attributes, absl::string_view text) {
    absl::StrAppend(&html_, "<", tag, attributes.empty() ? "" : " ", attributes, ">", Escape(text), "</", tag, ">\n");
  }
  void Raw(absl::string_view html) { absl::StrAppend(&html_, html); }

  void operator()(const Heading& heading) { Element(heading.level == 1 ? "h2" : "h3", "", heading.text); }
  void operator()(const Paragraph& paragraph) { Element("p", "", paragraph.text); }
  void operator()(const KeyValues& facts) {
    Raw(facts.columns == 2 ? "<dl class=\"two\">\n" : "<dl>\n");
    for (const KeyValues::Pair& pair : facts.pairs) {
      Element("dt", "", pair.label);
      Element("dd", "", pair.value);
    }
    Raw("</dl>\n");
  }
  void operator()(const Parties& parties) {
    Raw("<div class=\"parties\">\n");
    for (const Parties::Party& party : parties.parties) {
      Raw("<div>\n");
      Element("div", "class=\"role\"", party.role);
      for (size_t i = 0; i < party.lines.size(); ++i) {
        Raw("<div>");
        Element(i == 0 ? "strong" : "span", "", party.lines[i]);
        Raw("</div>\n");
      }
      Raw("</div>\n");
    }
    Raw("</div>\n");
  }
  void operator()(const Table& table);
  void operator()(const Note& note) {
    const char* tone = note.tone == Tone::kGood      ? "good"
                       : note.tone == Tone::kBad     ? "bad"
                       : note.tone == Tone::kWarning ? "warning"
                                                     : "neutral";
    absl::StrAppend(&html_, "<div class=\"note ", tone, "\">");
    if (!note.title.empty()) Element("b", "", note.title);
    if (!note.text.empty()) Element("div", "", note.text);
    Raw("</div>\n");
  }
  void operator()(const Signatures& signatures) {
    Raw("<div class=\"signatures\">\n");
    for (const std::string& signer : signatures.signers) Element("div", "class=\"signer\"", signer);
    Raw("</div>\n");
  }
  void operator()(const Spacer&) { Raw("<div class=\"spacer\"></div>\n"); }

  std::string& html() { return html_; }
  size_t replaced() const { return replaced_; }

 private:
  static const char* Class(Align align) {
    return align == Align::kRight ? "class=\"r\"" : align == Align::kCenter ? "class=\"c\"" : "";
  }

  std::string html_;
  size_t replaced_ = 0;
};

void Writer::operator()(const Table& table) {
  Raw("<table>\n<thead><tr>\n");
  for (const Column& column : table.columns) Element("th", Class(column.align), column.head);
  Raw("</tr></thead>\n<tbody>\n");
  for (const Row& row : table.rows) {
    switch (row.kind) {
      case RowKind::kBody:
        Raw("<tr>\n");
        break;
      case RowKind::kHighlight:
        Raw("<tr class=\"highlight\">\n");
        break;
      case RowKind::kGroup:
        Raw("<tr class=\"group\">\n");
        break;
      case RowKind::kSubtotal:
        Raw("<tr class=\"subtotal\">\n");
        break;
      case RowKind::kTotal:
        Raw("<tr class=\"total\">\n");
        break;
    }
    for (size_t c = 0; c < row.cells.size();) {
      const size_t end = SpanEnd(row, c);
      std::string attributes = Class(AlignOf(table, row, c));
      if (end > c + 1) absl::StrAppend(&attributes, attributes.empty() ? "" : " ", "colspan=\"", end - c, "\"");
      Element("td", attributes, row.cells[c]);
      c = end;
    }
    Raw("</tr>\n");
  }
  Raw("</tbody>\n</table>\n");
}

}  // namespace

absl::StatusOr<Rendering> RenderHtml(const Document& document) {
  GANTRY_RETURN_IF_ERROR(CheckDocument(document));
  Writer writer;
  writer.Raw(absl::StrCat("<!DOCTYPE html>\n<html lang=\"", writer.Escape(document.language),
                          "\">\n<head>\n<meta charset=\"utf-8\">\n"
                          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
                          "'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width\">\n"));
  writer.Element("title", "",
                 document.subtitle.empty() ? document.title : absl::StrCat(document.title, " ", document.subtitle));
  writer.Raw(absl::StrCat("<style>", kStyle, "</style>\n</head>\n<body>\n<main>\n"));
  if (!document.issuer.empty()) {
    writer.Raw("<div class=\"letterhead\">\n");
    writer.Element("div", "class=\"issuer\"", document.issuer);
    writer.Raw("<div class=\"address\">\n");
    for (const std::string& line : document.issuer_lines) writer.Element("div", "", line);
    writer.Raw("</div>\n</div>\n");
  }
  writer.Raw("<div class=\"titles\">\n");
  writer.Element("h1", "", document.title);
  if (!document.mark.empty()) writer.Element("div", "class=\"mark\"", document.mark);
  writer.Raw("</div>\n");
  writer.Element("div", "class=\"subtitle\"", document.subtitle);
  for (const Block& block : document.blocks) std::visit(writer, block);
  writer.Element("footer", "", document.footer.empty() ? document.issuer : document.footer);
  writer.Raw("</main>\n</body>\n</html>\n");
  Rendering rendering;
  rendering.bytes = std::move(writer.html());
  if (writer.replaced() > 0) rendering.warnings.push_back(ReplacedWarning(writer.replaced()));
  return rendering;
}

}  // namespace gantry::document
