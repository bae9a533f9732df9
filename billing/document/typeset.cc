#include "billing/document/typeset.h"

#include <fontconfig/fontconfig.h>

#include <algorithm>

#include "billing/document/clean.h"
#include "engine/base/check.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace gantry::document {
namespace {

constexpr size_t kUnknownNamed = 16;

// Reads fontconfig's configuration, once in the life of the process; Pango would do so later, on a thread of its own.
void LoadFonts() {
#ifdef __SANITIZE_ADDRESS__
  // It keeps patterns behind offsets instead of pointers, which the leak sanitizer cannot follow.
  __lsan::ScopedDisabler not_leaked;
#endif
  FcInit();
}

double Points(int pango_units) {
  return static_cast<double>(pango_units) / PANGO_SCALE;
}

}  // namespace

double SetText::line_width(int line) const {
  PangoRectangle logical;
  pango_layout_line_get_extents(pango_layout_get_line_readonly(layout_, line), nullptr, &logical);
  return Points(logical.width);
}

double SetText::width() const {
  double width = 0;
  for (int line = 0; line < lines(); ++line) width = std::max(width, line_width(line));
  return width;
}

void SetText::Wrap(double width) {
  pango_layout_set_wrap(layout_, PANGO_WRAP_WORD_CHAR);
  pango_layout_set_width(layout_, static_cast<int>(std::max(width, 1.0) * PANGO_SCALE));
}

void SetText::Shorten(double width) {
  pango_layout_set_single_paragraph_mode(layout_, TRUE);
  pango_layout_set_ellipsize(layout_, PANGO_ELLIPSIZE_END);
  pango_layout_set_width(layout_, static_cast<int>(std::max(width, 1.0) * PANGO_SCALE));
}

void SetText::ShowLine(cairo_t* cairo, int line, double x, double baseline) const {
  cairo_move_to(cairo, x, baseline);
  pango_cairo_show_layout_line(cairo, pango_layout_get_line_readonly(layout_, line));
}

Typesetter::Typesetter(const std::string& language) {
  LoadFonts();
  map_ = pango_cairo_font_map_new_for_font_type(CAIRO_FONT_TYPE_FT);
  GANTRY_CHECK(map_ != nullptr, "cairo is built with FreeType");
  context_ = pango_font_map_create_context(map_);
  // What is measured is what is drawn: outlines as designed, no grid of pixels.
  cairo_font_options_t* options = cairo_font_options_create();
  cairo_font_options_set_hint_style(options, CAIRO_HINT_STYLE_NONE);
  cairo_font_options_set_hint_metrics(options, CAIRO_HINT_METRICS_OFF);
  cairo_font_options_set_antialias(options, CAIRO_ANTIALIAS_GRAY);
  pango_cairo_context_set_font_options(context_, options);
  cairo_font_options_destroy(options);
  pango_context_set_round_glyph_positions(context_, FALSE);
  pango_context_set_language(context_, pango_language_from_string(language.c_str()));
  pango_context_set_base_dir(context_, PANGO_DIRECTION_LTR);
}

Typesetter::~Typesetter() {
  g_object_unref(context_);
  g_object_unref(map_);
}

Text Typesetter::Set(const std::string& text, const style::Type& type, double scale) {
  const std::string clean = CleanText(text, &replaced_);
  PangoLayout* layout = pango_layout_new(context_);
  PangoFontDescription* font = pango_font_description_new();
  pango_font_description_set_family_static(font, style::kFamilies);
  pango_font_description_set_weight(font, static_cast<PangoWeight>(type.weight));
  pango_font_description_set_absolute_size(font, type.size * scale * PANGO_SCALE);
  pango_layout_set_font_description(layout, font);
  pango_font_description_free(font);
  // Figures of one width stand under each other; ligatures are left out, so that a text found in the file is the text.
  PangoAttrList* attributes = pango_attr_list_new();
  pango_attr_list_insert(attributes, pango_attr_font_features_new("tnum=1, liga=0, clig=0"));
  // A name that is longer than its line is broken, not spelled otherwise.
  pango_attr_list_insert(attributes, pango_attr_insert_hyphens_new(FALSE));
  pango_layout_set_attributes(layout, attributes);
  pango_attr_list_unref(attributes);
  pango_layout_set_auto_dir(layout, TRUE);
  pango_layout_set_text(layout, clean.data(), static_cast<int>(clean.size()));
  CountUnknown(layout);
  return std::make_shared<SetText>(layout);
}

void Typesetter::CountUnknown(PangoLayout* layout) {
  if (pango_layout_get_unknown_glyphs_count(layout) == 0) return;
  for (GSList* line = pango_layout_get_lines_readonly(layout); line != nullptr; line = line->next) {
    for (GSList* run = static_cast<PangoLayoutLine*>(line->data)->runs; run != nullptr; run = run->next) {
      const PangoGlyphString* glyphs = static_cast<PangoLayoutRun*>(run->data)->glyphs;
      for (int i = 0; i < glyphs->num_glyphs; ++i) {
        const PangoGlyph glyph = glyphs->glyphs[i].glyph;
        if ((glyph & PANGO_GLYPH_UNKNOWN_FLAG) == 0) continue;
        ++unknown_glyphs_;
        if (unknown_characters_.size() < kUnknownNamed) {
          unknown_characters_.insert(static_cast<char32_t>(glyph & ~PANGO_GLYPH_UNKNOWN_FLAG));
        }
      }
    }
  }
}

}  // namespace gantry::document
