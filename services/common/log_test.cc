#include "services/common/log.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace gantry {
namespace {

constexpr int64_t kTime = 1'700'000'000'123'456;

TEST(LogTest, ALineIsJsonWithTypedFields) {
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, kTime, LogLevel::kInfo, "router", "worker attached",
                          {{"worker", "ab"}, {"epoch", uint64_t{3}}, {"left", -1}, {"share", 0.5}, {"good", true}}),
            "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"level\":\"info\",\"process\":\"router\",\"event\":\"worker "
            "attached\",\"worker\":\"ab\",\"epoch\":3,\"left\":-1,\"share\":0.5,\"good\":true}");
}

TEST(LogTest, WhateverTheTextTheLineParsesAndIsOne) {
  for (const std::string& text :
       {std::string("quote \" backslash \\ newline \n tab \t nul \0 del \x7f", 46),
        std::string("\xff\xfe bad utf-8 \xc3"), std::string("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"),
        std::string("\xed\xa0\x80\xf4\x90\x80\x80"), std::string(20'000, 'x')}) {
    std::string line = FormatLogLine(LogFormat::kJson, kTime, LogLevel::kError, "p", text, {{"text", text}});
    EXPECT_EQ(line.find('\n'), std::string::npos);
    EXPECT_LT(line.size(), 60'000u);
    EXPECT_FALSE(nlohmann::json::parse(line, nullptr, false).is_discarded()) << line.substr(0, 200);
  }
}

TEST(LogTest, NumbersThatJsonLacksAreNull) {
  std::string line = FormatLogLine(LogFormat::kJson, kTime, LogLevel::kInfo, "p", "e",
                                   {{"x", std::numeric_limits<double>::infinity()}});
  EXPECT_THAT(line, ::testing::HasSubstr("\"x\":null"));
}

TEST(LogTest, TheHumanFormQuotesOnlyWhatNeedsIt) {
  std::string line = FormatLogLine(LogFormat::kHuman, kTime, LogLevel::kWarning, "router", "worker gone",
                                   {{"worker", "ab"}, {"reason", "its stream ended"}, {"escape", "\x1b[2J"}});
  EXPECT_THAT(line, ::testing::EndsWith(
                        "warning router: worker gone worker=ab reason=\"its stream ended\" escape=\"\\u001b[2J\""));
}

TEST(LogTest, LevelsAreReadByName) {
  LogLevel level = LogLevel::kInfo;
  EXPECT_TRUE(ParseLogLevel("error", &level).ok());
  EXPECT_EQ(level, LogLevel::kError);
  EXPECT_FALSE(ParseLogLevel("loud", &level).ok());
}

}  // namespace
}  // namespace gantry
