#include "services/common/digest.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <memory>

#include "engine/base/check.h"

namespace gantry {

std::string Sha256(absl::string_view bytes) {
  // Fetched once: looking the algorithm up costs more than hashing a row.
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  thread_local const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::string digest(kSha256Bytes, '\0');
  const bool done = EVP_DigestInit_ex2(context.get(), algorithm, nullptr) == 1 &&
                    EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) == 1 &&
                    EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr) == 1;
  GANTRY_CHECK(done, "SHA-256 is available");
  return digest;
}

std::string HmacSha256(const Secret& key, absl::string_view message) {
  const absl::string_view bytes = key.Reveal();  // the key of the HMAC
  std::string digest(kSha256Bytes, '\0');
  unsigned int length = 0;
  const auto* made = HMAC(EVP_sha256(), bytes.data(), static_cast<int>(bytes.size()),
                          reinterpret_cast<const unsigned char*>(message.data()), message.size(),
                          reinterpret_cast<unsigned char*>(digest.data()), &length);
  GANTRY_CHECK(made != nullptr && length == kSha256Bytes, "HMAC-SHA-256 is available");
  return digest;
}

}  // namespace gantry
