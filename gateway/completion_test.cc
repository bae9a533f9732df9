// Replies as tenants get them: shapes, streams, choices, stop strings, tool calls, usage.
#include <cstring>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/testing/gateway_fixture.h"
#include "gmock/gmock.h"

namespace gantry::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CompletionTest : public GatewayFixture {
 protected:
  void SetUp() override { StartGateway(); }
};

TEST_F(CompletionTest, ModelsAreListedToWhoMayUseThem) {
  HttpAnswer list = Ask(port(), "GET", "/v1/models", key_);
  EXPECT_EQ(list.status, 200);
  EXPECT_EQ(list.json()["object"], "list");
  EXPECT_EQ(list.json()["data"][0]["id"], "demo");
  EXPECT_EQ(list.json()["data"][0]["object"], "model");
  EXPECT_EQ(list.json()["data"][0]["created"], 1'700'000'000);
  EXPECT_EQ(Ask(port(), "GET", "/v1/models/demo", key_).json()["id"], "demo");
  EXPECT_EQ(Ask(port(), "GET", "/v1/models/d%65mo", key_).json()["id"], "demo");

  const std::string narrow = billing_.AddKey(party_, {.models = {"other-*"}});
  while (Ask(port(), "GET", "/v1/models", narrow).status == 401) {
  }
  EXPECT_TRUE(Ask(port(), "GET", "/v1/models", narrow).json()["data"].empty());
  EXPECT_EQ(Ask(port(), "GET", "/v1/models/demo", narrow).Error(), "404 invalid_request_error model model_not_found");
}

TEST_F(CompletionTest, HealthNeedsNoKey) {
  HttpAnswer health = Ask(port(), "GET", "/healthz", "");
  EXPECT_EQ(health.status, 200);
  EXPECT_EQ(health.body, R"({"status":"ok"})");
}

TEST_F(CompletionTest, AWholeChatReply) {
  router_.Play({.texts = {"Hello there."}, .cached_tokens = 4});
  HttpAnswer answer = Chat(ChatBody());
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json reply = answer.json();
  EXPECT_THAT(reply["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(reply["object"], "chat.completion");
  EXPECT_EQ(reply["model"], "demo");
  ASSERT_EQ(reply["choices"].size(), 1U);
  EXPECT_EQ(reply["choices"][0]["index"], 0);
  EXPECT_EQ(reply["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(reply["choices"][0]["message"]["content"], "Hello there.");
  EXPECT_EQ(reply["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(reply["choices"][0]["logprobs"].is_null());

  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(1);
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].outcome(), v1::USAGE_OUTCOME_COMPLETED);
  EXPECT_EQ(reply["usage"]["prompt_tokens"], records[0].prompt_tokens());
  EXPECT_EQ(reply["usage"]["completion_tokens"], records[0].output_tokens());
  EXPECT_EQ(reply["usage"]["total_tokens"], records[0].prompt_tokens() + records[0].output_tokens());
  EXPECT_EQ(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
  EXPECT_EQ(records[0].cached_tokens(), 4U);
  // The stop id is a generated token like the others.
  EXPECT_EQ(records[0].output_tokens(), router_.tokenizer().Encode("Hello there.", false)->size() + 1);
  ASSERT_EQ(records[0].sequences_size(), 1);
  EXPECT_EQ(records[0].sequences(0).finish_reason(), v1::FINISH_REASON_STOP);
  // The reply's request id is the usage record's.
  EXPECT_EQ(answer.Header("x-request-id"), absl::StrCat("req_", Id16::FromBytes(records[0].request_id())->ToHex()));
}

TEST_F(CompletionTest, EventsOfAStream) {
  router_.Play({.texts = {"Hello"}, .tokens_per_frame = 64});
  HttpAnswer answer = Chat(ChatBody(R"("stream":true,"stream_options":{"include_usage":true})"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.complete);
  EXPECT_EQ(answer.Header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(answer.Header("cache-control"), "no-cache");
  const std::vector<std::string> events = answer.Events();
  ASSERT_EQ(events.size(), 5U) << answer.body;
  const Json role = Json::parse(events[0]);
  EXPECT_EQ(role["object"], "chat.completion.chunk");
  EXPECT_EQ(role["choices"][0]["delta"].dump(), R"({"role":"assistant","content":""})");
  EXPECT_TRUE(role["usage"].is_null());
  const Json text = Json::parse(events[1]);
  EXPECT_EQ(text["choices"][0]["delta"].dump(), R"({"content":"Hello"})");
  EXPECT_TRUE(text["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(text["id"], role["id"]);
  const Json finish = Json::parse(events[2]);
  EXPECT_EQ(finish["choices"][0]["delta"].dump(), "{}");
  EXPECT_EQ(finish["choices"][0]["finish_reason"], "stop");
  const Json usage = Json::parse(events[3]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], billing_.WaitForRecords(1)[0].output_tokens());
  EXPECT_EQ(events[4], "[DONE]");
}

TEST_F(CompletionTest, WithoutTheOptionAStreamSaysNothingOfUsage) {
  HttpAnswer answer = Chat(ChatBody(R"("stream":true)"));
  EXPECT_THAT(answer.body, ::testing::Not(HasSubstr("usage")));
  EXPECT_EQ(answer.Events().back(), "[DONE]");
}

TEST_F(CompletionTest, StreamedTextIsTheWholeText) {
  const std::vector<std::string> texts = {
      "Plain words, and more of them.", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
      "日本語の文章と 😀 emoji 👩‍👩‍👧 and   spaces\n\n\tand tabs ",
      "<think>hidden\n</think>\n\nshown  ",
      R"(Sure.
<tool_call>
{"name":"f","arguments":{"a":1}}
</tool_call>)"};
  for (const std::string& text : texts) {
    for (const size_t frame : {1, 3, 100}) {
      router_.Play({.texts = {text}, .tokens_per_frame = frame});
      const HttpAnswer whole = Chat(ChatBody());
      const HttpAnswer streamed = Chat(ChatBody(R"("stream":true)"));
      EXPECT_EQ(TextOf(streamed), whole.json()["choices"][0]["message"]["content"].get<std::string>()) << text;
    }
  }
}

TEST_F(CompletionTest, ChoicesAreToldApart) {
  router_.Play(
      {.texts = {"First one.", "The second of them.", "3"}, .tokens_per_frame = 2, .device_ms = 8, .joules = 0.5});
  const HttpAnswer whole = Chat(ChatBody(R"("n":3)"));
  const HttpAnswer streamed = Chat(ChatBody(R"("n":3,"stream":true)"));
  ASSERT_EQ(whole.json()["choices"].size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(whole.json()["choices"][i]["index"], i);
    EXPECT_EQ(whole.json()["choices"][i]["message"]["content"].get<std::string>(), TextOf(streamed, i));
  }
  EXPECT_EQ(TextOf(streamed, 1), "The second of them.");
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(2);
  ASSERT_EQ(records[0].sequences_size(), 3);
  uint64_t sum = 0;
  for (const v1::SequenceUsage& sequence : records[0].sequences()) sum += sequence.output_tokens();
  EXPECT_EQ(sum, records[0].output_tokens());
  EXPECT_EQ(whole.json()["usage"]["completion_tokens"], sum);
  for (const v1::UsageRecord& record : records) {
    EXPECT_EQ(record.device_ms(), 3 * 8);
    EXPECT_EQ(record.joules(), 3 * 0.5);
  }
}

TEST_F(CompletionTest, AStopStringEndsTheReplyAndTheWork) {
  router_.Play({.texts = {"one two three four five six "}, .endless = true});
  for (const bool stream : {false, true}) {
    const HttpAnswer answer =
        Chat(ChatBody(absl::StrCat(R"("stop":["ee fo","never"],"stream":)", stream ? "true" : "false")));
    const std::string text =
        stream ? TextOf(answer) : answer.json()["choices"][0]["message"]["content"].get<std::string>();
    EXPECT_EQ(text, "one two thr");
    EXPECT_THAT(answer.body, HasSubstr(R"("finish_reason":"stop")"));
  }
  EXPECT_TRUE(router_.WaitForEvent("cancel STOP_STRING"));
  for (const v1::UsageRecord& record : billing_.WaitForRecords(2)) {
    EXPECT_EQ(record.outcome(), v1::USAGE_OUTCOME_STOPPED);
    // Up to the token that completed the stop string.
    EXPECT_LE(record.output_tokens(), router_.tokenizer().Encode("one two three fo", false)->size() + 1);
    EXPECT_GE(record.output_tokens(), router_.tokenizer().Encode("one two thr", false)->size());
  }
}

TEST_F(CompletionTest, AStopStringInOneChoiceLeavesTheOthersAlone) {
  router_.Play({.texts = {"a b STOP c d", "e f g h i j k l m n o p"}});
  const HttpAnswer answer = Chat(ChatBody(R"("n":2,"stop":"STOP")"));
  EXPECT_EQ(answer.json()["choices"][0]["message"]["content"], "a b ");
  EXPECT_EQ(answer.json()["choices"][1]["message"]["content"], "e f g h i j k l m n o p");
}

TEST_F(CompletionTest, MaxTokensEndsWithLength) {
  router_.Play({.texts = {"word "}, .endless = true});
  const HttpAnswer answer = Chat(ChatBody(R"("max_tokens":7)"));
  EXPECT_EQ(answer.json()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(answer.json()["usage"]["completion_tokens"], 7);
  EXPECT_EQ(router_.last_start().sequences(0).until_index(), 7U);
}

TEST_F(CompletionTest, CreditIsRaisedAheadOfTheWorkerAndFramesAreAcknowledged) {
  router_.Play({.texts = {"word "}, .endless = true, .tokens_per_frame = 4});
  const HttpAnswer answer = Chat(ChatBody(R"("max_tokens":1000,"stream":true)"));
  EXPECT_THAT(answer.body, HasSubstr(R"("finish_reason":"length")"));
  EXPECT_EQ(router_.last_start().sequences(0).until_index(), kCreditTokens);
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(1);
  EXPECT_EQ(records[0].output_tokens(), 1000U);
  std::vector<std::string> raises;
  int acks = 0;
  for (const std::string& event : router_.events()) {
    if (absl::StartsWith(event, "raise")) raises.push_back(event);
    if (absl::StartsWith(event, "ack")) ++acks;
  }
  EXPECT_THAT(raises, ElementsAre("raise 0 512", "raise 0 768", "raise 0 1000"));
  EXPECT_GE(acks, 1) << "how many depends on how many frames the tenant reads at once";
}

TEST_F(CompletionTest, DigestsOfTheTokensAreSaltedWithANonceThatOnlyTheTenantGets) {
  std::vector<uint32_t> reply;
  const auto encoded = router_.tokenizer().Encode("Hello there.", /*parse_special=*/false);
  ASSERT_TRUE(encoded.ok());
  for (const auto id : *encoded) reply.push_back(static_cast<uint32_t>(id));
  std::set<std::string> nonces;
  size_t count = 0;
  for (const char* more : {R"("stream":true)", R"("stream":false)", R"("n":2)", R"("n":2,"stream":true)"}) {
    router_.Play({.texts = {"Hello there."}});
    const HttpAnswer answer = Chat(ChatBody(more));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.Header("gantry-receipt-nonce").size(), 64U) << more;
    nonces.insert(answer.Header("gantry-receipt-nonce"));
    const v1::UsageRecord record = billing_.WaitForRecords(++count).back();
    const v1::GenerateStart start = router_.last_start();
    std::vector<uint32_t> prompt(start.prompt_ids().size() / 4);
    std::memcpy(prompt.data(), start.prompt_ids().data(), start.prompt_ids().size());
    EXPECT_EQ(record.prompt_digest(), DigestOf(answer, prompt)) << more;
    std::vector<uint32_t> output = reply;
    output.push_back(start.sampling().stop_ids(0));
    const std::vector<uint32_t> once = output;
    if (start.sequences_size() == 2) output.insert(output.end(), once.begin(), once.end());
    EXPECT_EQ(record.output_digest(), DigestOf(answer, output)) << more;
    EXPECT_EQ(record.SerializeAsString().find(absl::HexStringToBytes(answer.Header("gantry-receipt-nonce"))),
              std::string::npos)
        << "nobody else gets it";
  }
  EXPECT_EQ(nonces.size(), 4U) << "a new one for each request";
}

constexpr char kTools[] =
    R"("tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}])";

TEST_F(CompletionTest, ATenantWhoAsksForTheIdsCanCheckTheDigests) {
  const std::string tool = "<tool_call>\n{\"name\":\"weather\",\"arguments\":{\"city\":\"Bonn\"}}\n</tool_call>";
  const struct {
    std::string text, more;
  } rows[] = {{"Hello there.", ""},
              {"<think>Hm.</think>\n\nFour.", ""},
              {tool, absl::StrCat(kTools, ",")},
              {"To the END of it", R"("stop":["END"],)"},
              {"日本語 😀 👩‍👩‍👧", ""},
              {"Three of them.", R"("n":3,)"}};
  size_t count = 0;
  for (const auto& row : rows) {
    for (const size_t frame : {1, 3, 100}) {
      for (const char* stream : {"true", "false"}) {
        router_.Play({.texts = {row.text}, .tokens_per_frame = frame});
        const HttpAnswer answer =
            Chat(ChatBody(absl::StrCat(row.more, R"("return_token_ids":true,"stream":)", stream)));
        ASSERT_EQ(answer.status, 200) << answer.body;
        const ShownIds ids = IdsIn(answer);
        const v1::UsageRecord record = billing_.WaitForRecords(++count).back();
        EXPECT_EQ(ids.output.size(), record.output_tokens()) << row.text;
        EXPECT_EQ(record.output_digest(), DigestOf(answer, ids.output)) << row.text << " by " << frame << answer.body;
        EXPECT_EQ(record.prompt_digest(), DigestOf(answer, ids.prompt));
      }
    }
  }
  EXPECT_EQ(Chat(ChatBody()).body.find("token_ids"), std::string::npos) << "who does not ask gets none";
}

TEST_F(CompletionTest, IdsOfCompletionsStandWithTheirChoices) {
  for (const char* stream : {"false", "true"}) {
    router_.Play({.texts = {" and on."}});
    const HttpAnswer answer =
        Post("/v1/completions",
             absl::StrCat(R"({"model":"demo","prompt":[[1,2,3],[4,5]],"n":2,"return_token_ids":true,"stream":)", stream,
                          "}"));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_THAT(IdsIn(answer).prompt, ElementsAre(1, 2, 3, 4, 5)) << "once for each prompt";
    EXPECT_EQ(IdsIn(answer).output.size(), 4 * (router_.tokenizer().Encode(" and on.", false)->size() + 1));
  }
}

TEST_F(CompletionTest, ReasoningIsSplitOff) {
  router_.Play({.texts = {"<think>Let me see.</think>\n\nFour."}});
  const HttpAnswer whole = Chat(ChatBody());
  EXPECT_EQ(whole.json()["choices"][0]["message"]["reasoning_content"], "Let me see.");
  EXPECT_EQ(whole.json()["choices"][0]["message"]["content"], "Four.");
  EXPECT_GT(whole.json()["usage"]["completion_tokens_details"]["reasoning_tokens"].get<int>(), 2);
  const HttpAnswer streamed = Chat(ChatBody(R"("stream":true)"));
  EXPECT_EQ(TextOf(streamed), "Four.");
  EXPECT_THAT(streamed.body, HasSubstr("reasoning_content"));
}

TEST_F(CompletionTest, ToolCallsAreParsed) {
  router_.Play({.texts = {R"(<tool_call>
{"name": "weather", "arguments": {"city": "Aachen"}}
</tool_call>)"}});
  const HttpAnswer whole = Chat(ChatBody(kTools));
  const Json choice = whole.json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1U);
  EXPECT_EQ(choice["message"]["tool_calls"][0]["type"], "function");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["name"], "weather");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], R"({"city":"Aachen"})");
  EXPECT_THAT(choice["message"]["tool_calls"][0]["id"].get<std::string>(), StartsWith("call_"));

  const HttpAnswer streamed = Chat(ChatBody(absl::StrCat(kTools, R"(,"stream":true)")));
  EXPECT_THAT(streamed.body, HasSubstr(R"("finish_reason":"tool_calls")"));
  EXPECT_THAT(streamed.body, HasSubstr(R"("name":"weather")"));
  // Without tools in the request the same text is text.
  EXPECT_THAT(Chat(ChatBody()).json()["choices"][0]["message"]["content"].get<std::string>(), HasSubstr("<tool_call>"));
}

TEST_F(CompletionTest, LogprobsHaveTokensBytesAndAlternatives) {
  router_.Play({.texts = {"Hello there"}});
  const HttpAnswer answer = Chat(ChatBody(R"("logprobs":true,"top_logprobs":2)"));
  const Json content = answer.json()["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), router_.tokenizer().Encode("Hello there", false)->size());
  std::string text;
  for (const Json& token : content) {
    text += token["token"].get<std::string>();
    EXPECT_EQ(token["logprob"], -0.5);
    EXPECT_EQ(token["top_logprobs"].size(), 2U);
    EXPECT_EQ(token["bytes"].size(), token["token"].get<std::string>().size());
  }
  EXPECT_EQ(text, "Hello there");
  EXPECT_TRUE(router_.last_start().sampling().logprobs());
  EXPECT_EQ(router_.last_start().sampling().top_logprobs(), 2U);
}

TEST_F(CompletionTest, PlainCompletionsTakeSeveralPromptsOfTextOrIds) {
  router_.Play({.texts = {" and on."}});
  const HttpAnswer answer =
      Post("/v1/completions", R"({"model":"demo","prompt":["Once","Twice"],"n":2,"max_tokens":50,"logprobs":1})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json reply = answer.json();
  EXPECT_EQ(reply["object"], "text_completion");
  ASSERT_EQ(reply["choices"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(reply["choices"][i]["index"], i);
    EXPECT_EQ(reply["choices"][i]["text"], " and on.");
    EXPECT_EQ(reply["choices"][i]["logprobs"]["text_offset"][0], 0);
  }
  // A record per prompt, together the usage of the reply.
  uint64_t output = 0;
  for (const v1::UsageRecord& record : billing_.WaitForRecords(2)) output += record.output_tokens();
  EXPECT_EQ(reply["usage"]["completion_tokens"], output);

  EXPECT_EQ(
      Post("/v1/completions", R"({"model":"demo","prompt":[1,2,3],"max_tokens":50})").json()["choices"][0]["text"],
      " and on.");
  EXPECT_EQ(router_.last_start().prompt_ids(), std::string("\1\0\0\0\2\0\0\0\3\0\0\0", 12));
  const HttpAnswer streamed =
      Post("/v1/completions", R"({"model":"demo","prompt":"Once","max_tokens":50,"stream":true})");
  EXPECT_EQ(TextOf(streamed), " and on.");
  EXPECT_EQ(streamed.Events().back(), "[DONE]");
}

TEST_F(CompletionTest, ControlTokensInMessagesArePlainText) {
  const auto im_end = static_cast<uint32_t>(*router_.tokenizer().Find("<|im_end|>"));
  const auto count = [&](const std::string& body) {
    EXPECT_EQ(Chat(body).status, 200);
    const std::string ids = router_.last_start().prompt_ids();
    int n = 0;
    for (size_t i = 0; i + 4 <= ids.size(); i += 4) {
      uint32_t id = 0;
      std::memcpy(&id, ids.data() + i, sizeof(id));
      n += id == im_end;
    }
    return n;
  };
  const int honest = count(R"({"model":"demo","messages":[{"role":"user","content":"a"}]})");
  EXPECT_EQ(count(R"({"model":"demo","messages":[{"role":"user","content":"a<|im_end|><|im_end|>"}]})"), honest);
}

TEST_F(CompletionTest, WhereTheNextTurnWillGoOnIsPassedOn) {
  const auto points = [&](const std::string& messages) {
    EXPECT_EQ(Chat(absl::StrCat(R"({"model":"demo","max_tokens":9,"messages":[)", messages, "]}")).status, 200);
    const v1::GenerateStart start = router_.last_start();
    EXPECT_EQ(start.cache_points_size(), 2);
    EXPECT_LT(start.cache_points(1), start.prompt_ids().size() / 4);
    return std::pair(start, start.prompt_ids().substr(0, size_t{4} * start.cache_points(1)));
  };
  const std::string first = R"({"role":"system","content":"Be brief."},{"role":"user","content":"Hello"})";
  const auto [start, kept] = points(first);
  const auto [next, longer] =
      points(first + R"(,{"role":"assistant","content":"Hi."},{"role":"user","content":"Why?"})");
  EXPECT_EQ(next.prompt_ids().substr(0, kept.size()), kept);
  EXPECT_EQ(next.cache_points(0), start.cache_points(0));
  EXPECT_GT(longer.size(), kept.size());
}

TEST_F(CompletionTest, SamplingIsPassedOn) {
  EXPECT_EQ(Chat(ChatBody(R"("temperature":0,"top_p":0.5,"top_k":7,"min_p":0.1,"seed":42,"presence_penalty":1,)"
                          R"("frequency_penalty":-1,"repetition_penalty":1.1,"logit_bias":{"5":-100},"min_tokens":3,)"
                          R"("stop_token_ids":[17],"max_completion_tokens":9)"))
                .status,
            200);
  const v1::GenerateStart start = router_.last_start();
  EXPECT_EQ(start.sampling().temperature(), 0);
  EXPECT_EQ(start.sampling().top_p(), 0.5F);
  EXPECT_EQ(start.sampling().top_k(), 7U);
  EXPECT_EQ(start.sampling().min_p(), 0.1F);
  EXPECT_EQ(start.sampling().presence_penalty(), 1);
  EXPECT_EQ(start.sampling().frequency_penalty(), -1);
  EXPECT_EQ(start.sampling().repetition_penalty(), 1.1F);
  EXPECT_EQ(start.sampling().logit_bias(0).token_id(), 5U);
  EXPECT_EQ(start.sampling().min_tokens(), 3U);
  EXPECT_THAT(start.sampling().stop_ids(), ElementsAre(router_.card().stop_ids(0), router_.card().stop_ids(1), 17));
  EXPECT_EQ(start.max_tokens(), 9U);
  EXPECT_EQ(start.sequences(0).seed(), 42U);
  EXPECT_EQ(start.tenant(), party_.ToBytes());
  EXPECT_EQ(start.hold_id().size(), 16U);
}

TEST_F(CompletionTest, LargeBodiesAreAnsweredToo) {
  // Over the size that leaves the connection's thread.
  const std::string words(70'000, ' ');
  const HttpAnswer answer =
      Chat(absl::StrCat(R"({"model":"demo",)", words, R"("messages":[{"role":"user","content":"Hi"}]})"));
  EXPECT_EQ(answer.status, 200) << answer.body;
}

TEST_F(CompletionTest, AConnectionIsUsedAgain) {
  HttpClient client(port());
  for (int i = 0; i < 3; ++i) {
    client.Request("POST", "/v1/chat/completions", key_, ChatBody(i == 1 ? R"("stream":true)" : ""));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(answer.complete);
  }
}

}  // namespace
}  // namespace gantry::gateway
