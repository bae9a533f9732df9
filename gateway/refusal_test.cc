// What is refused, with which error object, and that it costs nothing.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/testing/gateway_fixture.h"
#include "gmock/gmock.h"

namespace gantry::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RefusalTest : public GatewayFixture {
 protected:
  void SetUp() override { StartGateway(); }
  // Nothing was charged, recorded or even asked of the router.
  void ExpectNothingHappened() {
    EXPECT_THAT(billing_.records(), IsEmpty());
    EXPECT_EQ(billing_.charged_micro(party_), 0);
    EXPECT_THAT(router_.events(), IsEmpty());
  }
  // A key that the gateway knows already.
  std::string NewKey(const FakeKeyOptions& options) {
    std::string key = billing_.AddKey(party_, options);
    const absl::Time limit = absl::Now() + absl::Seconds(5);
    while (Ask(port(), "GET", "/v1/models", key).Error() == "401 invalid_request_error null invalid_api_key" &&
           absl::Now() < limit) {
    }
    return key;
  }
};

struct BadBody {
  std::string name;
  std::string body;
  std::string error;  // status type param code
};

std::string With(const std::string& members) {
  return absl::StrCat(R"({"model":"demo","messages":[{"role":"user","content":"Hi"}],)", members, "}");
}
std::string Messages(const std::string& messages) {
  return absl::StrCat(R"({"model":"demo","messages":)", messages, "}");
}

TEST_F(RefusalTest, BadChatBodies) {
  const std::string deep =
      absl::StrCat(R"({"model":"demo","messages":)", std::string(100, '['), std::string(100, ']'), "}");
  const std::vector<BadBody> rows = {
      {"nothing", " ", "400 invalid_request_error null invalid_json"},
      {"half an object", R"({"model":"demo")", "400 invalid_request_error null invalid_json"},
      {"not an object", "[1,2]", "400 invalid_request_error null invalid_type"},
      {"trailing words", R"({"model":"demo"} and)", "400 invalid_request_error null invalid_json"},
      {"NaN", With(R"("temperature":NaN)"), "400 invalid_request_error null invalid_json"},
      {"invalid UTF-8", Messages("[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]"),
       "400 invalid_request_error null invalid_utf8"},
      {"a lone surrogate", Messages(R"([{"role":"user","content":"\ud800"}])"),
       "400 invalid_request_error null invalid_json"},
      {"10 MB of [", std::string(10'000'000, '['), "400 invalid_request_error null invalid_json"},
      {"too deep", deep, "400 invalid_request_error null invalid_json"},
      {"no model", R"({"messages":[{"role":"user","content":"Hi"}]})",
       "400 invalid_request_error model missing_required_parameter"},
      {"model of a wrong type", R"({"model":7,"messages":[{"role":"user","content":"Hi"}]})",
       "400 invalid_request_error model invalid_type"},
      {"unknown model", R"({"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]})",
       "404 invalid_request_error model model_not_found"},
      {"no messages", R"({"model":"demo"})", "400 invalid_request_error messages missing_required_parameter"},
      {"empty messages", Messages("[]"), "400 invalid_request_error messages empty_array"},
      {"messages that are none", Messages(R"("Hi")"), "400 invalid_request_error messages invalid_type"},
      {"a message that is none", Messages("[7]"), "400 invalid_request_error messages[0] invalid_type"},
      {"no role", Messages(R"([{"content":"Hi"}])"),
       "400 invalid_request_error messages[0].role missing_required_parameter"},
      {"unknown role", Messages(R"([{"role":"king","content":"Hi"}])"),
       "400 invalid_request_error messages[0].role invalid_value"},
      {"no content", Messages(R"([{"role":"user"}])"),
       "400 invalid_request_error messages[0].content missing_required_parameter"},
      {"content of a wrong type", Messages(R"([{"role":"user","content":5}])"),
       "400 invalid_request_error messages[0].content invalid_type"},
      {"an image",
       Messages(R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}]}])"),
       "400 invalid_request_error messages[0].content[0].type unsupported_value"},
      {"negative max_tokens", With(R"("max_tokens":-1)"),
       "400 invalid_request_error max_tokens integer_below_min_value"},
      {"max_tokens of zero", With(R"("max_tokens":0)"), "400 invalid_request_error max_tokens integer_below_min_value"},
      {"max_tokens past the context", With(R"("max_tokens":100000)"),
       "400 invalid_request_error max_tokens context_length_exceeded"},
      {"max_tokens past everything", With(R"("max_tokens":99999999999999999999)"),
       "400 invalid_request_error max_tokens integer_above_max_value"},
      {"max_tokens in words", With(R"("max_tokens":"ten")"), "400 invalid_request_error max_tokens invalid_type"},
      {"half a token", With(R"("max_tokens":1.5)"), "400 invalid_request_error max_tokens invalid_type"},
      {"a prompt past the context",
       Messages(absl::StrCat(R"([{"role":"user","content":")", std::string(12'000, 'x'), R"( y z"}])")),
       "400 invalid_request_error messages context_length_exceeded"},
      {"a prompt far past the context",
       Messages(absl::StrCat(R"([{"role":"user","content":")", std::string(4'000'000, 'x'), R"("}])")),
       "400 invalid_request_error messages context_length_exceeded"},
      {"hot", With(R"("temperature":2.5)"), "400 invalid_request_error temperature decimal_above_max_value"},
      {"a list of temperatures", With(R"("temperature":[1])"), "400 invalid_request_error temperature invalid_type"},
      {"stream in words", With(R"("stream":"yes")"), "400 invalid_request_error stream invalid_type"},
      {"options without a stream", With(R"("stream_options":{"include_usage":true})"),
       "400 invalid_request_error stream_options invalid_value"},
      {"too many choices", With(R"("n":1000)"), "400 invalid_request_error n integer_above_max_value"},
      {"an empty stop", With(R"("stop":[""])"), "400 invalid_request_error stop[0] invalid_value"},
      {"bias of a token that is none", With(R"("logit_bias":{"4000000":1})"),
       "400 invalid_request_error logit_bias invalid_value"},
      {"top_logprobs alone", With(R"("top_logprobs":3)"), "400 invalid_request_error top_logprobs invalid_value"},
      {"a schema", With(R"("response_format":{"type":"json_object"})"),
       "400 invalid_request_error response_format.type unsupported_value"},
      {"a tool without a name", With(R"("tools":[{"type":"function","function":{}}])"),
       "400 invalid_request_error tools[0].function.name missing_required_parameter"},
      {"old functions", With(R"("functions":[])"), "400 invalid_request_error functions unsupported_parameter"},
  };
  for (const BadBody& row : rows) {
    EXPECT_EQ(Post("/v1/chat/completions", row.body).Error(), row.error) << row.name;
  }
  ExpectNothingHappened();
  EXPECT_EQ(Post("/v1/chat/completions", ChatBody()).status, 200) << "the server stays usable";
}

TEST_F(RefusalTest, BadCompletionBodies) {
  const std::vector<BadBody> rows = {
      {"no prompt", R"({"model":"demo"})", "400 invalid_request_error prompt missing_required_parameter"},
      {"an empty prompt", R"({"model":"demo","prompt":""})", "400 invalid_request_error prompt invalid_value"},
      {"a prompt of a wrong type", R"({"model":"demo","prompt":7})", "400 invalid_request_error prompt invalid_type"},
      {"no prompts", R"({"model":"demo","prompt":[]})", "400 invalid_request_error prompt empty_array"},
      {"ids that are none", R"({"model":"demo","prompt":[1,-2]})", "400 invalid_request_error prompt[1] invalid_value"},
      {"ids outside the vocabulary", R"({"model":"demo","prompt":[1,2000000]})",
       "400 invalid_request_error prompt invalid_value"},
      {"too many prompts", R"({"model":"demo","prompt":["1","2","3","4","5","6","7","8","9"]})",
       "400 invalid_request_error prompt array_above_max_length"},
      {"echo", R"({"model":"demo","prompt":"a","echo":true})", "400 invalid_request_error echo unsupported_value"},
      {"a suffix", R"({"model":"demo","prompt":"a","suffix":"b"})",
       "400 invalid_request_error suffix unsupported_parameter"},
  };
  for (const BadBody& row : rows) EXPECT_EQ(Post("/v1/completions", row.body).Error(), row.error) << row.name;
  ExpectNothingHappened();
}

TEST_F(RefusalTest, KeysThatAreNone) {
  std::string mistyped = key_;
  mistyped[20] = mistyped[20] == 'a' ? 'b' : 'a';
  const std::string stranger = std::string(MakeApiKey("live").text.Reveal());
  for (const std::string& key : {std::string(), std::string("nonsense"), mistyped, stranger}) {
    const HttpAnswer answer = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody());
    EXPECT_EQ(answer.Error(), "401 invalid_request_error null invalid_api_key");
    EXPECT_EQ(answer.Header("www-authenticate"), "Bearer");
    EXPECT_EQ(Ask(port(), "GET", "/v1/models", key).status, 401);
  }
  // Who has no key learns nothing: not which models there are, not whether the body is well formed.
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions", "", "{").status, 401);
  ExpectNothingHappened();
}

TEST_F(RefusalTest, RoutesAndMethods) {
  EXPECT_EQ(Ask(port(), "GET", "/v1/nothing", key_).Error(), "404 invalid_request_error null unknown_url");
  const HttpAnswer get = Ask(port(), "GET", "/v1/chat/completions", key_);
  EXPECT_EQ(get.Error(), "405 invalid_request_error null method_not_allowed");
  EXPECT_EQ(get.Header("allow"), "POST");
  EXPECT_EQ(Ask(port(), "GET", "/v1/models/none", key_).Error(), "404 invalid_request_error model model_not_found");
  HttpClient client(port());
  client.Send(absl::StrCat("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer ", key_,
                           "\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}"));
  EXPECT_EQ(client.Read().Error(), "415 invalid_request_error null unsupported_content_type");
  // Internal services are no part of the public listener.
  EXPECT_EQ(Ask(port(), "POST", "/gantry.v1.Process/Status", key_).status, 404);
  ExpectNothingHappened();
}

TEST_F(RefusalTest, WhatAKeyMayNot) {
  const std::string body = ChatBody();
  const auto ask = [&](const FakeKeyOptions& options) {
    return Ask(port(), "POST", "/v1/chat/completions", NewKey(options), body).Error();
  };
  EXPECT_EQ(ask({.models = {"large-*"}}), "404 invalid_request_error model model_not_found");
  EXPECT_EQ(ask({.scopes = {"embeddings"}}), "403 invalid_request_error null insufficient_scope");
  EXPECT_EQ(ask({.cidrs = {"10.0.0.0/8"}}), "403 invalid_request_error null ip_not_authorized");
  EXPECT_EQ(ask({.cidrs = {"not an address"}}), "403 invalid_request_error null ip_not_authorized");
  // Expired an hour ago: the same answer as for a key that is none.
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions",
                billing_.AddKey(party_, {.expires_us = absl::ToUnixMicros(absl::Now() - absl::Hours(1))}), body)
                .Error(),
            "401 invalid_request_error null invalid_api_key");
  ExpectNothingHappened();
}

TEST_F(RefusalTest, ASuspendedAccount) {
  billing_.SetStatus(party_, v1::PARTY_STATUS_SUSPENDED);
  const absl::Time limit = absl::Now() + absl::Seconds(1);
  HttpAnswer answer;
  do {
    answer = Ask(port(), "GET", "/v1/models", key_);
  } while (answer.status == 200 && absl::Now() < limit);
  EXPECT_EQ(answer.Error(), "403 invalid_request_error null account_inactive");
}

// ---- limits ----

TEST_F(RefusalTest, RequestsPerMinute) {
  const std::string key = NewKey({.requests_per_minute = 2});
  for (const char* remaining : {"1", "0"}) {
    const HttpAnswer answer = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody());
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.Header("x-ratelimit-limit-requests"), "2");
    EXPECT_EQ(answer.Header("x-ratelimit-remaining-requests"), remaining);
    EXPECT_NE(answer.Header("x-ratelimit-reset-requests"), "");
  }
  const HttpAnswer refused = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody());
  EXPECT_EQ(refused.Error(), "429 requests null rate_limit_exceeded");
  EXPECT_EQ(refused.Header("x-ratelimit-remaining-requests"), "0");
  const int wait = std::atoi(refused.Header("retry-after").c_str());
  EXPECT_GT(wait, 50);
  EXPECT_LE(wait, 60);
  EXPECT_THAT(refused.body, HasSubstr("limit 2, used 2"));
  EXPECT_EQ(billing_.WaitForRecords(2).size(), 2U);
}

TEST_F(RefusalTest, TokensPerMinute) {
  const std::string key = NewKey({.tokens_per_minute = 300});
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions", key, ChatBody(R"("max_tokens":250)")).status, 200);
  // What was held and not used has been given back: the next one fits, one that is too large does not.
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions", key, ChatBody(R"("max_tokens":200)")).status, 200);
  const HttpAnswer refused = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody(R"("n":3,"max_tokens":200)"));
  EXPECT_EQ(refused.Error(), "429 tokens null rate_limit_exceeded");
  EXPECT_EQ(refused.Header("x-ratelimit-limit-tokens"), "300");
  EXPECT_EQ(refused.Header("retry-after"), "") << "waiting does not help what is larger than the window";
  EXPECT_EQ(refused.Header("x-should-retry"), "false");
}

TEST_F(RefusalTest, ConcurrentRequests) {
  const std::string key = NewKey({.concurrency = 1});
  router_.Play({.texts = {"word "}, .endless = true, .interval = absl::Milliseconds(5)});
  HttpClient first(port());
  first.Request("POST", "/v1/chat/completions", key, ChatBody(R"("stream":true)"));
  ASSERT_TRUE(first.ReadUntil("word"));
  const HttpAnswer refused = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody());
  EXPECT_EQ(refused.Error(), "429 requests null rate_limit_exceeded");
  EXPECT_EQ(refused.Header("retry-after"), "1");
  first.Close();
  ASSERT_TRUE(router_.WaitForEvent("cancel CLIENT_GONE"));
  router_.Play({});
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  int status = 0;
  while (status != 200 && absl::Now() < limit) {
    status = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody()).status;
  }
  EXPECT_EQ(status, 200);
}

TEST_F(RefusalTest, ABudgetThatIsSpent) {
  // The first hold of 256 output tokens costs 205 micro-units and more.
  const std::string key = NewKey({.budget_micro = 100});
  const HttpAnswer refused = Ask(port(), "POST", "/v1/chat/completions", key, ChatBody());
  EXPECT_EQ(refused.Error(), "429 insufficient_quota null insufficient_quota");
  EXPECT_THAT(refused.body, HasSubstr("the budget of this key is spent: left 100"));
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions", key, ChatBody(R"("max_tokens":20)")).status, 200);
}

TEST_F(RefusalTest, MoneyThatIsGoneAndBillingThatIsAwayAreToldApart) {
  const Id16 poor = billing_.AddTenant("poor", 50);
  const std::string key = billing_.AddKey(poor);
  const auto ask = [&](const std::string& more) {
    return Ask(port(), "POST", "/v1/chat/completions", key, ChatBody(more));
  };
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (ask(R"("max_tokens":1)").status != 200 && absl::Now() < limit) {
  }
  const HttpAnswer gone = ask(R"("max_tokens":200)");
  EXPECT_EQ(gone.Error(), "429 insufficient_quota null insufficient_quota");
  EXPECT_EQ(gone.Header("x-should-retry"), "false");
  EXPECT_EQ(ask(R"("max_tokens":20)").status, 200) << "what is left can be spent";

  billing_.Leave();
  const HttpAnswer away = ask(R"("max_tokens":200)");
  EXPECT_EQ(away.Error(), "503 server_error null service_unavailable");
  EXPECT_NE(away.Header("retry-after"), "");
  billing_.Return();
}

TEST_F(RefusalTest, AModelWithoutWorkerIsUnavailableNotUnknown) {
  router_.set_model_away(true);
  const HttpAnswer answer = Post("/v1/chat/completions", ChatBody(R"("stream":true)"));
  EXPECT_EQ(answer.Error(), "503 server_error null service_unavailable");
  EXPECT_NE(answer.Header("retry-after"), "");
  for (const v1::UsageRecord& record : billing_.WaitForRecords(1)) {
    EXPECT_EQ(record.outcome(), v1::USAGE_OUTCOME_FAILED);
    EXPECT_EQ(record.output_tokens(), 0U);
    EXPECT_EQ(record.prompt_tokens(), 0U);
  }
  EXPECT_EQ(billing_.charged_micro(party_), 0);
}

TEST_F(RefusalTest, AFullQueueIsSaidToBeOne) {
  router_.Play({.refusal = absl::ResourceExhaustedError("queue full")});
  EXPECT_EQ(Post("/v1/chat/completions", ChatBody()).Error(), "503 server_error null server_is_overloaded");
  router_.Play({.refusal = absl::InvalidArgumentError("sampling.top_k: expected less")});
  EXPECT_EQ(Post("/v1/chat/completions", ChatBody()).Error(), "400 invalid_request_error null invalid_value");
  EXPECT_EQ(billing_.charged_micro(party_), 0);
}

// ---- the transport's own refusals ----

TEST_F(RefusalTest, TransportErrorsHaveTheSameShape) {
  HttpClient large(port());
  large.Send(absl::StrCat("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer ", key_,
                          "\r\ncontent-length: 999999999\r\n\r\n"));
  EXPECT_EQ(large.Read().Error(), "413 invalid_request_error null request_too_large");
  HttpClient header(port());
  header.Send(absl::StrCat("GET /v1/models HTTP/1.1\r\nx: ", std::string(20'000, 'x'), "\r\n\r\n"));
  EXPECT_EQ(header.Read().Error(), "431 invalid_request_error null headers_too_large");
  HttpClient nonsense(port());
  nonsense.Send("\x16\x03\x01 this is no HTTP\r\n\r\n");
  EXPECT_EQ(nonsense.Read().Error(), "400 invalid_request_error null invalid_http");
  EXPECT_EQ(Ask(port(), "GET", "/healthz", "").status, 200);
}

}  // namespace
}  // namespace gantry::gateway
