#include "engine/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace gantry::engine::text {

size_t FindInvalidUtf8(absl::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  const size_t n = text.size();
  for (size_t i = 0; i < n;) {
    const unsigned char c = s[i];
    if (c < 0x80) {
      ++i;
      continue;
    }
    const int more = c >= 0xC2 && c <= 0xDF ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
    if (more == 0 || i + more >= n) return i;
    for (int k = 1; k <= more; ++k) {
      if ((s[i + k] & 0xC0) != 0x80) return i;
    }
    // Overlong forms, surrogates, beyond U+10FFFF.
    if ((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] > 0x9F) || (c == 0xF0 && s[i + 1] < 0x90) ||
        (c == 0xF4 && s[i + 1] > 0x8F)) {
      return i;
    }
    i += more + 1;
  }
  return absl::string_view::npos;
}

absl::Status CheckUtf8(absl::string_view text) {
  const size_t at = FindInvalidUtf8(text);
  if (at == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", at));
}

char32_t NextCodePoint(absl::string_view text, size_t* i) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data()) + *i;
  if (s[0] < 0x80) {
    *i += 1;
    return s[0];
  }
  if (s[0] < 0xE0) {
    *i += 2;
    return static_cast<char32_t>((s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu));
  }
  if (s[0] < 0xF0) {
    *i += 3;
    return static_cast<char32_t>((s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu));
  }
  *i += 4;
  return static_cast<char32_t>((s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu));
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

std::string Nfc(absl::string_view text) {
  // Nothing below U+0300 (UTF-8 lead byte 0xCC) composes or is decomposed by NFC.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; }))
    return std::string(text);

  std::vector<utf8proc_int32_t> decomposed;
  decomposed.reserve(text.size());
  utf8proc_int32_t buffer[32];
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<utf8proc_int32_t>(NextCodePoint(text, &i));
    int boundary = 0;
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
    const utf8proc_ssize_t n = utf8proc_decompose_char(c, buffer, 32, options, &boundary);
    if (n < 0 || n > 32) {
      decomposed.push_back(c);
    } else {
      decomposed.insert(decomposed.end(), buffer, buffer + n);
    }
  }
  // Canonical order: runs of combining marks sorted by class, stably. The library's own sort is quadratic in a run's
  // length.
  const auto combining_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t i = 0; i < decomposed.size();) {
    if (combining_class(decomposed[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < decomposed.size() && combining_class(decomposed[end]) != 0) ++end;
    std::stable_sort(decomposed.begin() + i, decomposed.begin() + end,
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
  const utf8proc_ssize_t composed =
      utf8proc_normalize_utf32(decomposed.data(), static_cast<utf8proc_ssize_t>(decomposed.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < composed; ++i) AppendUtf8(static_cast<char32_t>(decomposed[i]), &out);
  return out;
}

}  // namespace gantry::engine::text
