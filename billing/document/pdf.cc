#include "billing/document/pdf.h"

#include <cairo-pdf.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "billing/document/clean.h"
#include "billing/document/layout.h"
#include "engine/base/status_macros.h"

namespace gantry::document {
namespace {

cairo_status_t Append(void* out, const unsigned char* bytes, unsigned int size) {
  static_cast<std::string*>(out)->append(reinterpret_cast<const char*>(bytes), size);
  return CAIRO_STATUS_SUCCESS;
}

void SetColour(cairo_t* cairo, const style::Colour& colour) {
  cairo_set_source_rgb(cairo, colour.red, colour.green, colour.blue);
}

void Draw(const Page& page, cairo_t* cairo) {
  for (const PlacedBox& box : page.boxes) {
    SetColour(cairo, box.colour);
    cairo_rectangle(cairo, box.x, box.y, box.width, box.height);
    if (box.outline) {
      cairo_set_line_width(cairo, 0.9);
      cairo_stroke(cairo);
    } else {
      cairo_fill(cairo);
    }
  }
  for (const PlacedLine& line : page.lines) {
    SetColour(cairo, line.colour);
    line.text->ShowLine(cairo, line.line, line.x, line.baseline);
  }
}

void SetMetadata(const Document& document, cairo_surface_t* surface) {
  size_t replaced = 0;
  const auto set = [&](cairo_pdf_metadata_t what, const std::string& text) {
    cairo_pdf_surface_set_metadata(surface, what, CleanText(text, &replaced).c_str());
  };
  set(CAIRO_PDF_METADATA_TITLE,
      document.subtitle.empty() ? document.title : absl::StrCat(document.title, " ", document.subtitle));
  set(CAIRO_PDF_METADATA_AUTHOR, document.issuer);
  set(CAIRO_PDF_METADATA_CREATOR, "Gantry");
  // Cairo would write the time of the call.
  set(CAIRO_PDF_METADATA_CREATE_DATE,
      document.created_us == 0
          ? ""
          : absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixMicros(document.created_us), absl::UTCTimeZone()));
}

std::vector<std::string> Warnings(const Typesetter& typesetter) {
  std::vector<std::string> warnings;
  if (typesetter.unknown_glyphs() > 0) {
    std::string named;
    for (const char32_t c : typesetter.unknown_characters()) absl::StrAppendFormat(&named, " U+%04X", c);
    warnings.push_back(absl::StrCat(
        typesetter.unknown_glyphs(), " characters have no font on this machine and are drawn as boxes:", named,
        "; install a font that has them (on Debian and Ubuntu fonts-open-sans; for Chinese, Japanese and Korean "
        "fonts-wqy-microhei)"));
  }
  if (typesetter.replaced() > 0) warnings.push_back(ReplacedWarning(typesetter.replaced()));
  return warnings;
}

}  // namespace

absl::StatusOr<Rendering> RenderPdf(const Document& document) {
  GANTRY_RETURN_IF_ERROR(CheckDocument(document));
  Typesetter typesetter(document.language);
  const Layout layout = LayOut(document, &typesetter);
  Rendering rendering;
  rendering.pages = static_cast<int>(layout.pages.size());
  rendering.warnings = Warnings(typesetter);
  rendering.warnings.insert(rendering.warnings.end(), layout.warnings.begin(), layout.warnings.end());

  cairo_surface_t* surface =
      cairo_pdf_surface_create_for_stream(Append, &rendering.bytes, style::kPageWidth, style::kPageHeight);
  SetMetadata(document, surface);
  cairo_t* cairo = cairo_create(surface);
  for (const Page& page : layout.pages) {
    Draw(page, cairo);
    cairo_show_page(cairo);
  }
  cairo_status_t status = cairo_status(cairo);
  cairo_destroy(cairo);
  cairo_surface_finish(surface);
  if (status == CAIRO_STATUS_SUCCESS) status = cairo_surface_status(surface);
  cairo_surface_destroy(surface);
  if (status != CAIRO_STATUS_SUCCESS) {
    return absl::InternalError(absl::StrCat("drawing `", document.title, "`: ", cairo_status_to_string(status)));
  }
  return rendering;
}

}  // namespace gantry::document
