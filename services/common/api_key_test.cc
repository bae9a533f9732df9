#include "services/common/api_key.h"

#include <gtest/gtest.h>

#include <set>

namespace gantry {
namespace {

TEST(ApiKeyTest, NewKeyParsesBackToItsParts) {
  const NewApiKey key = MakeApiKey("live");
  const std::string text(key.text.Reveal());
  EXPECT_EQ(text.size(), 3u + 5 + 13 + 38);
  const auto parsed = ParseApiKey(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->public_id, key.public_id);
  EXPECT_TRUE(parsed->secret.Equals(key.secret.Reveal()));
}

TEST(ApiKeyTest, AnyChangedCharacterIsNoticed) {
  const std::string text(MakeApiKey("test").text.Reveal());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = changed[i] == '7' ? '8' : '7';
    const auto parsed = ParseApiKey(changed);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_EQ(parsed.status().message().find(changed), absl::string_view::npos);
  }
  for (const char* other : {"", "gk_live", "sk-abc", "gk_live_x_y", "gk_live_000000000000_"})
    EXPECT_FALSE(ParseApiKey(other).ok()) << other;
  EXPECT_FALSE(ParseApiKey(text + "0").ok());
  EXPECT_FALSE(ParseApiKey(std::string(1 << 20, '_')).ok());
}

TEST(ApiKeyTest, KeysAreDistinctAndHmacDependsOnPepperAndSecret) {
  std::set<std::string> texts;
  for (int i = 0; i < 1000; ++i) texts.insert(std::string(MakeApiKey("live").text.Reveal()));
  EXPECT_EQ(texts.size(), 1000u);
  const Secret pepper(std::string(32, 'p')), other(std::string(32, 'q'));
  const Secret a("secret-a"), b("secret-b");
  EXPECT_EQ(HmacOfSecret(pepper, a), HmacOfSecret(pepper, a));
  EXPECT_NE(HmacOfSecret(pepper, a), HmacOfSecret(pepper, b));
  EXPECT_NE(HmacOfSecret(pepper, a), HmacOfSecret(other, a));
}

// RFC 4231, test case 6's construction needs a longer key; case 2 does not fit 32 bytes: this one is computed with
// `printf 'secret' | openssl dgst -sha256 -mac HMAC -macopt hexkey:<32 bytes of 70>`.
TEST(ApiKeyTest, HmacIsHmacSha256) {
  const std::string digest = HmacOfSecret(Secret(std::string(32, 'p')), Secret("secret"));
  std::string hex;
  for (const char c : digest) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex.push_back(kDigits[static_cast<unsigned char>(c) >> 4]);
    hex.push_back(kDigits[static_cast<unsigned char>(c) & 15]);
  }
  EXPECT_EQ(hex, "9e59988ccb0fa672c1d9cfa4460a47ccef56cb8275a0fa369b0a1a467f133545");
}

}  // namespace
}  // namespace gantry
