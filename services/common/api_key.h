// API keys as tenants hold them: gk_<env>_<id>_<secret><check>.
//
//   env     "live" or "test"; "user" for the token of a user, which is no API key but built alike
//   id      12 base32 characters, public: names the key in lists and logs
//   secret  32 base32 characters, 160 random bits, shown once and never stored
//   check   6 base32 characters over everything before: a mistyped key is told apart without any look-up
//
// Stored is HMAC-SHA-256(pepper, secret) alone; pepper is 32 random bytes beside the database.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/secret.h"

namespace gantry {

struct ApiKey {
  std::string public_id;  // <id>
  Secret secret;          // <secret>
};

struct NewApiKey {
  std::string public_id;
  Secret secret;
  Secret text;  // the whole key: show it once
};

NewApiKey MakeApiKey(absl::string_view environment);

// INVALID_ARGUMENT when the form or the check does not fit; the message never repeats the key.
absl::StatusOr<ApiKey> ParseApiKey(absl::string_view text);

inline constexpr absl::string_view kUserTokenEnvironment = "user";
absl::StatusOr<ApiKey> ParseUserToken(absl::string_view text);

// 32 bytes. REQUIRES: pepper has 32 bytes.
std::string HmacOfSecret(const Secret& pepper, const Secret& secret);

}  // namespace gantry
