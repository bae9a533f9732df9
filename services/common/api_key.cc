#include "services/common/api_key.h"

#include <algorithm>
#include <initializer_list>

#include <openssl/evp.h>

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "services/common/digest.h"
#include "services/common/ids.h"

namespace gantry {
namespace {

// Crockford's base32 in lower case: no i, l, o, u, so that nothing reads like something else.
constexpr char kAlphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr size_t kIdLength = 12, kSecretLength = 32, kCheckLength = 6, kPepperBytes = 32;

std::string RandomText(size_t length) {
  std::string bytes(length, '\0');
  FillRandom(bytes.data(), bytes.size());
  for (char& c : bytes) c = kAlphabet[static_cast<unsigned char>(c) & 31];
  return bytes;
}

// The first 30 bits of SHA-256: against slips, not against forgers.
std::string Check(absl::string_view text) {
  unsigned char digest[32];
  EVP_Digest(text.data(), text.size(), digest, nullptr, EVP_sha256(), nullptr);
  std::string check;
  for (size_t i = 0; i < kCheckLength; ++i) check.push_back(kAlphabet[digest[i] & 31]);
  return check;
}

bool IsBase32(absl::string_view text) {
  return text.find_first_not_of(absl::string_view(kAlphabet, 32)) == absl::string_view::npos;
}

absl::StatusOr<ApiKey> Parse(absl::string_view text, std::initializer_list<absl::string_view> environments) {
  const absl::Status malformed = absl::InvalidArgumentError("malformed");
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('_', 4));
  if (parts.size() != 4 || parts[0] != "gk" ||
      std::find(environments.begin(), environments.end(), parts[1]) == environments.end() ||
      parts[2].size() != kIdLength || parts[3].size() != kSecretLength + kCheckLength || !IsBase32(parts[2]) ||
      !IsBase32(parts[3])) {
    return malformed;
  }
  if (Check(text.substr(0, text.size() - kCheckLength)) != text.substr(text.size() - kCheckLength)) return malformed;
  return ApiKey{std::string(parts[2]), Secret(std::string(parts[3].substr(0, kSecretLength)))};
}

}  // namespace

NewApiKey MakeApiKey(absl::string_view environment) {
  NewApiKey key;
  key.public_id = RandomText(kIdLength);
  const std::string secret = RandomText(kSecretLength);
  const std::string body = absl::StrCat("gk_", environment, "_", key.public_id, "_", secret);
  key.secret = Secret(secret);
  key.text = Secret(body + Check(body));
  return key;
}

absl::StatusOr<ApiKey> ParseApiKey(absl::string_view text) {
  absl::StatusOr<ApiKey> key = Parse(text, {"live", "test"});
  if (key.ok()) return key;
  return absl::InvalidArgumentError("the API key is malformed: expected gk_<env>_<id>_<secret>, copied completely");
}

absl::StatusOr<ApiKey> ParseUserToken(absl::string_view text) {
  absl::StatusOr<ApiKey> key = Parse(text, {kUserTokenEnvironment});
  if (key.ok()) return key;
  return absl::InvalidArgumentError("the token is malformed: expected gk_user_<id>_<secret>, copied completely");
}

std::string HmacOfSecret(const Secret& pepper, const Secret& secret) {
  GANTRY_CHECK(pepper.Reveal().size() == kPepperBytes, "a pepper has 32 bytes");  // its size alone
  return HmacSha256(pepper, secret.Reveal());                                     // into the HMAC, nowhere else
}

}  // namespace gantry
