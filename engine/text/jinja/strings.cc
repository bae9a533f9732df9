#include "engine/text/jinja/strings.h"

#include <utf8proc.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text::jinja {
namespace {

// str.isspace of one character.
bool IsSpace(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20);
  if (c == 0x85) return true;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

bool IsLetter(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

}  // namespace

size_t CodePointCount(const std::string& utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::vector<size_t> CodePointOffsets(const std::string& utf8) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < utf8.size(); ++i) {
    if ((utf8[i] & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(utf8.size());
  return offsets;
}

Text Strip(const Text& text, const std::string* characters, bool left, bool right) {
  const std::string& s = text.bytes();
  std::u32string wanted;
  if (characters != nullptr) {
    for (size_t i = 0; i < characters->size();) wanted.push_back(NextCodePoint(*characters, &i));
  }
  const auto goes = [&](char32_t c) {
    return characters == nullptr ? IsSpace(c) : wanted.find(c) != std::u32string::npos;
  };
  size_t begin = 0, end = s.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!goes(NextCodePoint(s, &next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t start = end - 1;
    while (start > begin && (s[start] & 0xC0) == 0x80) --start;
    size_t at = start;
    if (!goes(NextCodePoint(s, &at))) break;
    end = start;
  }
  return text.Substring(begin, end);
}

std::vector<Text> Split(const Text& text, const std::string* separator, int64_t most, bool from_right) {
  const std::string& s = text.bytes();
  // Every place where a cut is possible: [first, second) of the separator.
  std::vector<std::pair<size_t, size_t>> cuts;
  size_t begin = 0, end = s.size();
  if (separator != nullptr) {
    for (size_t at = s.find(*separator); at != std::string::npos; at = s.find(*separator, at + separator->size())) {
      cuts.emplace_back(at, at + separator->size());
    }
  } else {
    const Text inner = Strip(text, nullptr, true, true);
    if (inner.empty()) return {};
    begin = s.find(inner.bytes());
    end = begin + inner.size();
    for (size_t i = begin; i < end;) {
      size_t next = i;
      if (!IsSpace(NextCodePoint(s, &next))) {
        i = next;
        continue;
      }
      size_t run = next;
      while (run < end) {
        size_t after = run;
        if (!IsSpace(NextCodePoint(s, &after))) break;
        run = after;
      }
      cuts.emplace_back(i, run);
      i = run;
    }
  }
  if (most >= 0 && static_cast<int64_t>(cuts.size()) > most) {
    if (from_right) {
      cuts.erase(cuts.begin(), cuts.end() - most);
    } else {
      cuts.resize(most);
    }
    // Without a separator only the outer blanks next to a made cut go.
    if (separator == nullptr) (from_right ? begin : end) = from_right ? 0 : s.size();
    if (separator == nullptr && from_right) {
      begin = 0;
    }
  }
  std::vector<Text> parts;
  for (const auto& [first, second] : cuts) {
    parts.push_back(text.Substring(begin, first));
    begin = second;
  }
  parts.push_back(text.Substring(begin, end));
  return parts;
}

std::vector<Text> SplitLines(const Text& text, bool keep_ends) {
  std::vector<Text> lines;
  const std::string& s = text.bytes();
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    size_t next = i;
    const char32_t c = NextCodePoint(s, &next);
    const bool breaks = (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) {
      i = next;
      continue;
    }
    if (c == '\r' && next < s.size() && s[next] == '\n') ++next;
    lines.push_back(text.Substring(begin, keep_ends ? next : i));
    begin = i = next;
  }
  if (begin < s.size()) lines.push_back(text.Substring(begin, s.size()));
  return lines;
}

absl::StatusOr<Text> Replace(const Text& text, const Text& from, const Text& to, int64_t count, size_t bytes_max) {
  Text out;
  const std::string& s = text.bytes();
  size_t done = 0;
  const auto step = [&](size_t upto) {
    out.Append(text.Substring(done, upto));
    done = upto;
  };
  if (from.empty()) {
    // Python puts the new text before every character and at the end.
    for (const size_t offset : CodePointOffsets(s)) {
      step(offset);
      if (count == 0) break;
      if (count > 0) --count;
      out.Append(to);
      if (out.size() > bytes_max) return absl::ResourceExhaustedError("replace: the text is too long");
    }
    step(s.size());
    return out;
  }
  for (size_t at = s.find(from.bytes()); at != std::string::npos && count != 0; at = s.find(from.bytes(), done)) {
    step(at);
    out.Append(to);
    done = at + from.size();
    if (count > 0) --count;
    if (out.size() > bytes_max) return absl::ResourceExhaustedError("replace: the text is too long");
  }
  step(s.size());
  return out;
}

Text ChangeCase(const Text& text, Case to) {
  const std::string& s = text.bytes();
  Text out;
  bool word_start = true;
  for (size_t i = 0; i < s.size();) {
    const size_t begin = i;
    const auto c = static_cast<utf8proc_int32_t>(NextCodePoint(s, &i));
    const bool upper = to == Case::kUpper || ((to == Case::kTitle || to == Case::kCapitalize) && word_start);
    std::string changed;
    AppendUtf8(static_cast<char32_t>(upper ? utf8proc_toupper(c) : utf8proc_tolower(c)), &changed);
    out.Append(changed, text.trusted(begin));
    word_start = to == Case::kTitle ? !IsLetter(static_cast<char32_t>(c)) : false;
  }
  return out;
}

}  // namespace gantry::engine::text::jinja
