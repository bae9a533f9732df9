#include "billing/receipt/canonical_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

TEST(CanonicalJson, WritesStringsAsRfc8785Does) {
  // The string of RFC 8785, section 3.2.2, and every character that has a short escape.
  std::string written = CanonicalObject().Add("s", "\u20ac$\x0f\nA'B\"\\\\\"/").Finish();
  EXPECT_EQ(written, "{\"s\":\"\u20ac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
  written = CanonicalObject().Add("s", "\b\t\n\f\r\x01\x1f\x7f").Finish();
  EXPECT_EQ(written, "{\"s\":\"\\b\\t\\n\\f\\r\\u0001\\u001f\x7f\"}");
}

TEST(CanonicalJson, WritesIntegersOf53Bits) {
  EXPECT_EQ(
      CanonicalObject().Add("a", int64_t{0}).Add("b", kCanonicalIntegerMax).Add("c", -kCanonicalIntegerMax).Finish(),
      "{\"a\":0,\"b\":9007199254740991,\"c\":-9007199254740991}");
  EXPECT_EQ(CanonicalObject().Finish(), "{}");
}

TEST(CanonicalJson, ReadsBackWhatItWrites) {
  const std::string inner = CanonicalObject().Add("x", int64_t{-5}).Finish();
  const std::string text =
      CanonicalObject().AddJson("array", "[\"a\",[],{},1]").AddJson("object", inner).Add("text", "\u00e9\n\"").Finish();
  absl::StatusOr<nlohmann::json> value = ParseCanonicalObject(text);
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(Canonical(*value), text);
  EXPECT_EQ((*value)["object"]["x"], -5);
}

TEST(CanonicalJson, RefusesEveryOtherSpelling) {
  const struct {
    const char* text;
    const char* says;
  } cases[] = {
      {"", "json: expected an object"},
      {"[]", "json: expected an object"},
      {"\"a\"", "json: expected an object"},
      {"\xef\xbb\xbf{}", "json: expected an object"},
      {" {}", "json: expected an object"},
      {"{} ", "canonical: byte 3"},
      {"{ }", "canonical: byte 2"},
      {"{}\n", "canonical: byte 3 is a control character"},
      {"{\"a\":1,\"b\":2}x", "json: not valid at byte 14"},
      {"{\"b\":1,\"a\":2}", "canonical: byte 3"},
      {"{\"a\":1,\"a\":2}", "json: holds `a` twice"},
      {"{\"\u00e9\":1}", "json: holds a name beyond ASCII"},
      {"{\"a\":1.0}", "json: holds a number that is not an integer"},
      {"{\"a\":1e2}", "json: holds a number that is not an integer"},
      {"{\"a\":-0}", "canonical: byte 6"},
      {"{\"a\":01}", "json: not valid"},
      {"{\"a\":9007199254740992}", "json: holds an integer beyond 53 bits"},
      {"{\"a\":-9007199254740992}", "json: holds an integer beyond 53 bits"},
      {"{\"a\":99999999999999999999999}", "json: holds a number that is not an integer"},
      {"{\"a\":true}", "json: holds true or false"},
      {"{\"a\":null}", "json: holds null"},
      {"{\"a\":\"\\u0041\"}", "canonical: byte 7"},
      {"{\"a\":\"\\/\"}", "canonical: byte 7"},
      {"{\"a\":\"\\u000A\"}", "canonical: byte 8"},
      {"{\"a\":\"\\u00e9\"}", "canonical: byte 7"},
      {"{\"a\":\"\\ud800\"}", "json: not valid"},
      {"{\"a\":\"\xc0\xaf\"}", "json: not valid"},
      {"{\"a\":\"\x80\"}", "json: not valid"},
      {"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}", "json: holds more than 8 levels"},
      {"{\"a\":1", "json: not valid at byte 7"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(std::string(ParseCanonicalObject(c.text).status().message()), HasSubstr(c.says)) << c.text;
  }
  EXPECT_THAT(std::string(ParseCanonicalObject(absl::string_view("{}\0x", 4)).status().message()),
              HasSubstr("canonical: byte 3 is a control character"));
}

}  // namespace
}  // namespace gantry::billing
