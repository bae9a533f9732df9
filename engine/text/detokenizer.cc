#include "engine/text/detokenizer.h"

namespace gantry::engine::text {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// How far `s` starts like a well-formed character: length of the longest prefix that could begin one, and the full
// length.
struct Lead {
  size_t well_formed;
  size_t wanted;  // 0: no character starts like this
};

Lead Examine(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(0);
  if (c < 0x80) return {1, 1};
  const size_t wanted = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  if (wanted == 0) return {1, 0};
  size_t i = 1;
  for (; i < wanted && i < s.size(); ++i) {
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1) {
      if (c == 0xE0) low = 0xA0;
      if (c == 0xED) high = 0x9F;
      if (c == 0xF0) low = 0x90;
      if (c == 0xF4) high = 0x8F;
    }
    if (byte(i) < low || byte(i) > high) break;
  }
  return {i, wanted};
}

}  // namespace

std::string Detokenizer::Push(TokenId id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  const absl::string_view bytes = tokenizer_->TokenBytes(id);
  held_.append(bytes.data(), bytes.size());
  return Take(/*at_end=*/false);
}

std::string Detokenizer::Flush() {
  return Take(/*at_end=*/true);
}

std::string Detokenizer::Take(bool at_end) {
  std::string out;
  size_t i = 0;
  while (i < held_.size()) {
    const absl::string_view rest = absl::string_view(held_).substr(i);
    const Lead lead = Examine(rest);
    if (lead.well_formed == lead.wanted) {
      out.append(rest.data(), lead.wanted);
    } else if (lead.wanted != 0 && lead.well_formed == rest.size() && !at_end) {
      break;  // may still become a character
    } else {
      out.append(kReplacement.data(), kReplacement.size());
    }
    i += lead.well_formed;
  }
  held_.erase(0, i);
  return out;
}

}  // namespace gantry::engine::text
