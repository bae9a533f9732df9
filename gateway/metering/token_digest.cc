#include "gateway/metering/token_digest.h"

#include <bit>

#include "engine/base/check.h"

namespace gantry::gateway {

TokenDigest::TokenDigest(absl::string_view nonce) : context_(EVP_MD_CTX_new()) {
  GANTRY_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1, "out of memory");
  EVP_DigestUpdate(context_.get(), nonce.data(), nonce.size());
}

void TokenDigest::Add(absl::Span<const uint32_t> ids) {
  static_assert(std::endian::native == std::endian::little);
  EVP_DigestUpdate(context_.get(), ids.data(), ids.size() * sizeof(uint32_t));
}

std::string TokenDigest::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_.get(), digest, &size);
  return std::string(reinterpret_cast<const char*>(digest), size);
}

}  // namespace gantry::gateway
