// What becomes of a body that is well formed; what is refused is in gateway/refusal_test.cc.
#include "gateway/api/openai_request.h"

#include "absl/strings/str_cat.h"
#include "gateway/api/refusal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::gateway {
namespace {

using ::testing::ElementsAre;

CompletionRequest Parse(const std::string& body) {
  auto parsed = ParseChatRequest(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) ADD_FAILURE() << error->message;
  auto* request = std::get_if<CompletionRequest>(&parsed);
  return request == nullptr ? CompletionRequest() : std::move(*request);
}
CompletionRequest With(const std::string& members) {
  return Parse(absl::StrCat(R"({"model":"m","messages":[{"role":"user","content":"a"}],)", members, "}"));
}

TEST(OpenAiRequestTest, MessagesBecomeWhatTemplatesWant) {
  const CompletionRequest request = Parse(R"({"model":"m","messages":[
      {"role":"developer","content":"be brief"},
      {"role":"user","content":[{"type":"text","text":"one "},{"type":"text","text":"two"}]},
      {"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function",
         "function":{"name":"f","arguments":"{\"b\":1,\"a\":2}"}}]},
      {"role":"tool","tool_call_id":"c1","content":"42"}]})");
  ASSERT_EQ(request.messages.size(), 4U);
  EXPECT_EQ(request.messages[0]["role"], "system");
  EXPECT_EQ(request.messages[1]["content"], "one two");
  EXPECT_EQ(request.messages[2]["tool_calls"][0]["function"]["arguments"].dump(), R"({"b":1,"a":2})");
  EXPECT_EQ(request.messages[3]["tool_call_id"], "c1");
}

TEST(OpenAiRequestTest, DefaultsAndSynonyms) {
  const CompletionRequest silent = With(R"("user":"somebody","metadata":{},"unheard_of":[1,{"a":2}])");
  EXPECT_EQ(silent.n, 1);
  EXPECT_FALSE(silent.stream);
  EXPECT_FALSE(silent.max_tokens.has_value());
  EXPECT_FALSE(silent.temperature.has_value());
  EXPECT_EQ(With(R"("max_tokens":5,"max_completion_tokens":7)").max_tokens, 7);
  EXPECT_EQ(With(R"("max_tokens":16.0)").max_tokens, 16) << "an integer to JavaScript";
  EXPECT_EQ(With(R"("max_tokens":null,"temperature":null,"stop":null)").max_tokens, std::nullopt);
  EXPECT_THAT(With(R"("stop":"x")").stop, ElementsAre("x"));
  EXPECT_THAT(With(R"("stop":["x","y"])").stop, ElementsAre("x", "y"));
  EXPECT_EQ(With(R"("seed":-1)").seed, UINT64_MAX);
  EXPECT_EQ(With(R"("top_k":-1)").top_k, 0) << "off, as vLLM writes it";
  EXPECT_TRUE(With(R"("stream":true,"stream_options":{"include_usage":true})").include_usage);
}

TEST(OpenAiRequestTest, ThinkingIsAskedForInEitherWay) {
  EXPECT_EQ(With(R"("reasoning_effort":"none")").variables["enable_thinking"], false);
  EXPECT_EQ(With(R"("reasoning_effort":"high")").variables["enable_thinking"], true);
  EXPECT_EQ(With(R"("chat_template_kwargs":{"enable_thinking":false,"messages":[]},"reasoning_effort":"high")")
                .variables.dump(),
            R"({"enable_thinking":false})")
      << "what the gateway itself decides stays decided";
}

TEST(OpenAiRequestTest, ToolsAreUsedUnlessTheyAreNotAllowed) {
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  EXPECT_TRUE(With(tools).parse_tools);
  EXPECT_TRUE(With(tools + R"(,"tool_choice":"auto")").parse_tools);
  const CompletionRequest none = With(tools + R"(,"tool_choice":"none")");
  EXPECT_FALSE(none.parse_tools);
  EXPECT_TRUE(none.tools.is_null());
}

TEST(JsonReaderTest, BoundsAreCheckedBeforeAnythingIsBuilt) {
  const auto refused = [](const std::string& body, const JsonLimits& limits) {
    auto parsed = ParseJsonObject(body, limits);
    auto* error = std::get_if<ApiError>(&parsed);
    return error == nullptr ? "" : error->code;
  };
  EXPECT_EQ(refused(R"({"a":[[1]]})", {.depth = 3}), "");
  EXPECT_EQ(refused(R"({"a":[[1]]})", {.depth = 2}), "invalid_json");
  EXPECT_EQ(refused(R"({"a":[1,2,3]})", {.values = 4}), "invalid_json");
  EXPECT_EQ(refused(R"({"a":"[[[[,,,,::::"})", {.depth = 1, .values = 4}), "") << "inside a string nothing counts";
  EXPECT_EQ(refused(R"({"a":"\"[[[["})", {.depth = 1}), "");
  EXPECT_EQ(refused(R"({"a":1,"b":2,"c":3})", {.members_per_object = 2}), "invalid_json");
}

TEST(ApiErrorTest, TheErrorObjectIsAlwaysValidJson) {
  ApiError error = InvalidRequest("bad \"quote\", \xff byte, \x01 control\n", "messages[0]", "");
  EXPECT_EQ(ErrorJson(error),
            R"({"error":{"message":"bad \"quote\", )"
            "\xEF\xBF\xBD"
            R"( byte, \u0001 control\n","type":"invalid_request_error","param":"messages[0]","code":null}})");
}

TEST(RefusalTest, ResetTimesArePrintedAsOpenAiPrintsThem) {
  const auto reset = [](absl::Duration duration) {
    HttpHeaders headers;
    AddLimitHeaders({.requests_limit = 1, .requests_used = 5, .requests_reset = duration}, &headers);
    EXPECT_EQ(headers[1].second, "0") << "never below zero";
    return headers[2].second;
  };
  EXPECT_EQ(reset(absl::Milliseconds(120)), "120ms");
  EXPECT_EQ(reset(absl::Seconds(1)), "1s");
  EXPECT_EQ(reset(absl::Seconds(6.5)), "6.5s");
  EXPECT_EQ(reset(absl::Seconds(360)), "6m0s");
  EXPECT_EQ(reset(absl::ZeroDuration()), "0ms");
}

}  // namespace
}  // namespace gantry::gateway
