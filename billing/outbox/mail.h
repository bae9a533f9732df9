// A mail as the lines of RFC 5322: UTF-8 text, its subject in encoded words (RFC 2047), its body in base64. Whatever a
// caller puts into it, no header can end early and no other can begin.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace gantry::billing {

struct Mail {
  std::string from;        // CheckMailAddress holds
  std::string to;          // likewise
  std::string subject;     // UTF-8; control characters become blanks, at most 200 bytes are shown
  std::string body;        // UTF-8
  std::string message_id;  // hex digits: the same for every try of one message
  int64_t time_us = 0;
};

// With CRLF at each line's end, none of them longer than 998 characters. Invalid UTF-8 is replaced by U+FFFD.
std::string ComposeMail(const Mail& mail);

// "=?utf-8?B?…?=" once or more, folded; plain printable ASCII stays as it is.
std::string EncodedHeader(absl::string_view text);

}  // namespace gantry::billing
