// Lines of text in the document's fonts: Pango behind a narrow face.
//
// A Typesetter has its own font map and may be used by one thread at a time; several may work beside each other.
#pragma once

#include <cairo.h>
#include <pango/pangocairo.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "billing/document/style.h"

namespace gantry::document {

// Text set in one type, broken into lines. Immutable once placed.
class SetText {
 public:
  explicit SetText(PangoLayout* layout) : layout_(layout) {}  // takes the reference
  ~SetText() { g_object_unref(layout_); }
  SetText(const SetText&) = delete;
  SetText& operator=(const SetText&) = delete;

  int lines() const { return pango_layout_get_line_count(layout_); }
  double line_width(int line) const;
  double width() const;  // of the longest line
  // Breaks the text anew so that no line is wider: between words, and inside one that is too long by itself.
  void Wrap(double width);
  // One line no wider than that: what does not fit gives way to an ellipsis.
  void Shorten(double width);
  void ShowLine(cairo_t* cairo, int line, double x, double baseline) const;

 private:
  PangoLayout* layout_;
};
using Text = std::shared_ptr<SetText>;

class Typesetter {
 public:
  explicit Typesetter(const std::string& language);
  ~Typesetter();
  Typesetter(const Typesetter&) = delete;
  Typesetter& operator=(const Typesetter&) = delete;

  // Broken only where the text has '\n'.
  Text Set(const std::string& text, const style::Type& type, double scale = 1);

  // Characters that no font has, drawn as boxes with their number; and that CleanText replaced.
  uint64_t unknown_glyphs() const { return unknown_glyphs_; }
  const std::set<char32_t>& unknown_characters() const { return unknown_characters_; }  // at most 16
  size_t replaced() const { return replaced_; }

 private:
  void CountUnknown(PangoLayout* layout);

  PangoFontMap* map_ = nullptr;
  PangoContext* context_ = nullptr;
  uint64_t unknown_glyphs_ = 0;
  std::set<char32_t> unknown_characters_;
  size_t replaced_ = 0;
};

}  // namespace gantry::document
