#include "engine/format/config_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"

namespace gantry::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<ConfigObject> Read(const std::string& text) {
  const std::string path = absl::StrCat(testing::TempDir(), "/", getpid(), "_gantry_config.json");
  std::ofstream(path) << text;
  auto config = ConfigObject::ReadFile(path);
  unlink(path.c_str());
  return config;
}

TEST(ConfigJsonTest, ValuesAreReadByKeyAndType) {
  const ConfigObject config =
      Read(R"({"n":3,"x":0.5,"yes":true,"s":"text","l":["a","b"],"ids":[1,2],"id":7,"none":null,"o":{"n":4}})").value();
  EXPECT_EQ(config.Int("n", 0, 10).value(), 3);
  EXPECT_EQ(config.IntOr("absent", 9, 0, 10).value(), 9);
  EXPECT_EQ(config.IntOr("none", 9, 0, 10).value(), 9);
  EXPECT_EQ(config.NumberOr("x", 1, 0, 1).value(), 0.5);
  EXPECT_EQ(config.BoolOr("yes", false).value(), true);
  EXPECT_EQ(config.StringOr("s", "").value(), "text");
  EXPECT_THAT(config.Strings("l").value(), ElementsAre("a", "b"));
  EXPECT_THAT(config.IntOrInts("ids", 0, 10).value(), ElementsAre(1, 2));
  EXPECT_THAT(config.IntOrInts("id", 0, 10).value(), ElementsAre(7));
  EXPECT_THAT(config.IntOrInts("none", 0, 10).value(), IsEmpty());
  EXPECT_EQ(config.Object("o").value().Int("n", 0, 10).value(), 4);
}

TEST(ConfigJsonTest, WrongValuesAreRefusedNamingKeyExpectedAndFound) {
  const ConfigObject config =
      Read(R"({"n":"3","big":18446744073709551615,"f":1.5,"l":["a",1],"ids":[1,-1],"o":[],"long":")" +
           std::string(500, 'x') + R"(","in":{"n":0}})")
          .value();
  const struct {
    const char* what;
    std::function<absl::Status()> read;
    const char* message;
  } rows[] = {
      {"absent", [&] { return config.Int("hidden_size", 1, 9).status(); }, "key `hidden_size` is missing"},
      {"text for a number", [&] { return config.Int("n", 1, 9).status(); },
       "`n`: expected an integer in [1, 9], found \"3\""},
      {"beyond 64 bits", [&] { return config.Int("big", INT64_MIN, INT64_MAX).status(); },
       "found 18446744073709551615"},
      {"fraction", [&] { return config.Int("f", 1, 9).status(); }, "found 1.5"},
      {"number out of range", [&] { return config.NumberOr("f", 0, 0, 1).status(); },
       "`f`: expected a number in [0, 1], found 1.5"},
      {"number for a flag", [&] { return config.BoolOr("f", false).status(); }, "expected true or false, found 1.5"},
      {"number for text", [&] { return config.String("f").status(); }, "expected a string, found 1.5"},
      {"mixed list", [&] { return config.Strings("l").status(); }, "`l`: expected a list of strings, found 1"},
      {"negative id", [&] { return config.IntOrInts("ids", 0, 9).status(); },
       "expected integers in [0, 9], found [1,-1]"},
      {"list for an object", [&] { return config.Object("o").status(); }, "`o`: expected an object, found []"},
      {"long values are cut", [&] { return config.Int("long", 0, 1).status(); }, "xxx..."},
      {"nested keys name their object", [&] { return config.Object("in")->Int("n", 1, 9).status(); },
       "gantry_config.json: in: `n`: expected"},
  };
  for (const auto& row : rows) {
    const absl::Status status = row.read();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr("gantry_config.json: ")) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.what;
    EXPECT_LT(status.message().size(), 300u) << row.what;
  }
}

TEST(ConfigJsonTest, FilesThatAreNoJsonObjectAreRefused) {
  const struct {
    const char* what;
    std::string text;
    const char* message;
  } rows[] = {
      {"no JSON", "{\"a\": }", "expected a JSON object, found an error at byte 7"},
      {"cut off", "{\"a\": 1", "expected a JSON object, found an error at byte 8"},
      {"number beyond float64", "{\"a\": 1e999}", "expected a JSON object, found a number out of range"},
      {"list", "[1]", "expected a JSON object, found array"},
      {"key twice", R"({"a":1,"a":2})", "expected each key once, found `a` twice"},
      {"too deep", "{\"a\":" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}",
       "nested at most 16 levels"},
      {"too large", std::string((16 << 20) + 1, ' '), "at most 16777216 are accepted"},
  };
  for (const auto& row : rows) {
    const auto config = Read(row.text);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(row.message)) << row.what;
  }
}

}  // namespace
}  // namespace gantry::engine
