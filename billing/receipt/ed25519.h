// Ed25519 (RFC 8032) of OpenSSL as values. Thread-safe.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "services/common/secret.h"

namespace gantry::billing {

inline constexpr size_t kEd25519SeedBytes = 32;
inline constexpr size_t kEd25519PublicKeyBytes = 32;
inline constexpr size_t kEd25519SignatureBytes = 64;

// REQUIRES: a seed of 32 bytes.
std::string Ed25519PublicKey(const Secret& seed);
// Deterministic: the same seed and message give the same 64 bytes.
std::string Ed25519Sign(const Secret& seed, absl::string_view message);
// False also for a key or signature of the wrong length.
bool Ed25519Verify(absl::string_view public_key, absl::string_view message, absl::string_view signature);

}  // namespace gantry::billing
