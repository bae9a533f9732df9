#include "billing/outbox/mail.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/outbox/target.h"
#include "engine/base/check.h"
#include "engine/text/unicode.h"

namespace gantry::billing {
namespace {

constexpr size_t kSubjectLimit = 200;     // bytes
constexpr size_t kBase64Line = 76;        // RFC 2045
constexpr size_t kEncodedWordBytes = 42;  // 56 characters of base64 and 12 around them: below 75 (RFC 2047)

std::string ValidUtf8(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bad = engine::text::FindInvalidUtf8(text);
    if (bad == std::string::npos) {
      out.append(text.data(), text.size());
      break;
    }
    out.append(text.data(), bad);
    out.append("\xef\xbf\xbd");
    text.remove_prefix(bad + 1);
  }
  return out;
}

// The most of `text` that fits `limit` bytes and ends with a whole character.
absl::string_view WholeCharacters(absl::string_view text, size_t limit) {
  size_t size = std::min(limit, text.size());
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  return text.substr(0, size);
}

bool IsControl(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

}  // namespace

std::string EncodedHeader(absl::string_view text) {
  std::string line = ValidUtf8(text);
  for (char& c : line) {
    if (IsControl(c)) c = ' ';
  }
  absl::string_view rest = WholeCharacters(line, kSubjectLimit);
  // "=?" at a word's beginning would be read as an encoded word.
  const bool plain = rest.size() <= 60 && rest.find("=?") == absl::string_view::npos &&
                     std::all_of(rest.begin(), rest.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (plain) return std::string(rest);
  std::string out;
  while (!rest.empty()) {
    const absl::string_view piece = WholeCharacters(rest, kEncodedWordBytes);
    absl::StrAppend(&out, out.empty() ? "" : "\r\n ", "=?utf-8?B?", absl::Base64Escape(piece), "?=");
    rest.remove_prefix(piece.size());
  }
  return out;
}

std::string ComposeMail(const Mail& mail) {
  GANTRY_CHECK(CheckMailAddress(mail.from).ok() && CheckMailAddress(mail.to).ok(), "mail addresses were checked");
  const bool is_hex = std::all_of(mail.message_id.begin(), mail.message_id.end(),
                                  [](unsigned char c) { return absl::ascii_isxdigit(c); });
  GANTRY_CHECK(is_hex, "a message id is hex");
  std::string out = absl::StrCat(
      "From: Gantry <", mail.from, ">\r\nTo: <", mail.to, ">\r\nSubject: ", EncodedHeader(mail.subject), "\r\nDate: ",
      absl::FormatTime("%a, %d %b %Y %H:%M:%S +0000", absl::FromUnixMicros(mail.time_us), absl::UTCTimeZone()),
      "\r\nMessage-ID: <", mail.message_id, mail.from.substr(mail.from.find('@')),
      ">\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
      "Content-Transfer-Encoding: base64\r\n\r\n");
  const std::string body = absl::Base64Escape(ValidUtf8(mail.body));
  for (size_t i = 0; i < body.size(); i += kBase64Line) absl::StrAppend(&out, body.substr(i, kBase64Line), "\r\n");
  return out;
}

}  // namespace gantry::billing
