#include "billing/document/clean.h"

#include <utf8proc.h>

#include "absl/strings/str_cat.h"
#include "engine/text/unicode.h"

namespace gantry::document {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

bool Forbidden(char32_t c) {
  if (c < 0x20) return c != '\n';
  if (c >= 0x7F && c < 0xA0) return true;
  if (c >= 0x202A && c <= 0x202E) return true;  // embeddings and overrides of direction
  if (c >= 0x2066 && c <= 0x2069) return true;  // isolates
  if (c == 0x2028 || c == 0x2029) return true;
  return (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

}  // namespace

std::string CleanText(absl::string_view text, size_t* replaced) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const size_t invalid = engine::text::FindInvalidUtf8(text);
    const absl::string_view valid = text.substr(0, invalid);
    for (size_t i = 0; i < valid.size();) {
      char32_t c = engine::text::NextCodePoint(valid, &i);
      if (c == '\t') c = ' ';
      if (Forbidden(c)) {
        c = kReplacement;
        ++*replaced;
      }
      engine::text::AppendUtf8(c, &clean);
    }
    if (invalid == absl::string_view::npos) break;
    engine::text::AppendUtf8(kReplacement, &clean);
    ++*replaced;
    text.remove_prefix(invalid + 1);
  }
  return clean;
}

std::string ReplacedWarning(size_t replaced) {
  return absl::StrCat(replaced, " bytes or characters that cannot be shown are drawn as U+FFFD");
}

size_t DisplayWidth(absl::string_view text) {
  size_t width = 0;
  for (size_t i = 0; i < text.size();) {
    width +=
        static_cast<size_t>(utf8proc_charwidth(static_cast<utf8proc_int32_t>(engine::text::NextCodePoint(text, &i))));
  }
  return width;
}

}  // namespace gantry::document
