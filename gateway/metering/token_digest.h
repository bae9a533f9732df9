// SHA-256(nonce ‖ token ids, each as four bytes, the lowest first): what a receipt says about a request's tokens (R12).
// The nonce is the tenant's alone; without it the digest says nothing. Not thread-safe.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gantry::gateway {

inline constexpr size_t kReceiptNonceBytes = 32;

class TokenDigest {
 public:
  explicit TokenDigest(absl::string_view nonce);
  // Copies nothing, allocates nothing.
  void Add(absl::Span<const uint32_t> ids);
  // 32 bytes. Once.
  std::string Finish();

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

}  // namespace gantry::gateway
