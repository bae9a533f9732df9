#include "billing/receipt/ed25519.h"

#include <openssl/evp.h>

#include <memory>

#include "engine/base/check.h"

namespace gantry::billing {
namespace {

using Key = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;
using Context = std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)>;

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

Key PrivateKey(const Secret& seed) {
  const absl::string_view bytes = seed.Reveal();  // into the signing key
  GANTRY_CHECK(bytes.size() == kEd25519SeedBytes, "an Ed25519 seed has 32 bytes");
  Key key(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, Bytes(bytes), bytes.size()), EVP_PKEY_free);
  GANTRY_CHECK(key != nullptr, "OpenSSL knows Ed25519");
  return key;
}

}  // namespace

std::string Ed25519PublicKey(const Secret& seed) {
  const Key key = PrivateKey(seed);
  std::string bytes(kEd25519PublicKeyBytes, '\0');
  size_t size = bytes.size();
  const int done = EVP_PKEY_get_raw_public_key(key.get(), reinterpret_cast<unsigned char*>(bytes.data()), &size);
  GANTRY_CHECK(done == 1 && size == bytes.size(), "an Ed25519 public key has 32 bytes");
  return bytes;
}

std::string Ed25519Sign(const Secret& seed, absl::string_view message) {
  const Key key = PrivateKey(seed);
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::string signature(kEd25519SignatureBytes, '\0');
  size_t size = signature.size();
  const bool done = EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
                    EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                                   Bytes(message), message.size()) == 1;
  GANTRY_CHECK(done && size == signature.size(), "Ed25519 signs whatever it is given");
  return signature;
}

bool Ed25519Verify(absl::string_view public_key, absl::string_view message, absl::string_view signature) {
  if (public_key.size() != kEd25519PublicKeyBytes || signature.size() != kEd25519SignatureBytes) return false;
  const Key key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(public_key), public_key.size()),
                EVP_PKEY_free);
  if (key == nullptr) return false;
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  return EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message), message.size()) == 1;
}

}  // namespace gantry::billing
