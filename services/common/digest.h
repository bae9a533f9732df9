// SHA-256 and HMAC-SHA-256 of OpenSSL as values. Thread-safe.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "services/common/secret.h"

namespace gantry {

inline constexpr size_t kSha256Bytes = 32;

std::string Sha256(absl::string_view bytes);
std::string HmacSha256(const Secret& key, absl::string_view message);

}  // namespace gantry
