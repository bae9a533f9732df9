// UTF-8 checks and Unicode normalisation form C.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine::text {

// Byte offset of the first malformed sequence (overlong forms, surrogates and code points above U+10FFFF included), or
// npos.
size_t FindInvalidUtf8(absl::string_view text);

// INVALID_ARGUMENT naming the byte offset.
absl::Status CheckUtf8(absl::string_view text);

// Decodes the character at text[i] and advances i. REQUIRES: valid UTF-8.
char32_t NextCodePoint(absl::string_view text, size_t* i);
void AppendUtf8(char32_t code_point, std::string* out);

// NFC in O(n log n), also for long runs of combining marks. REQUIRES: valid UTF-8.
std::string Nfc(absl::string_view text);

}  // namespace gantry::engine::text
