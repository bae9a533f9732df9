// What happens when a part goes away in the middle, and that the books fit afterwards.
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/testing/gateway_fixture.h"
#include "gmock/gmock.h"

namespace gantry::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class FailureTest : public GatewayFixture {
 protected:
  // A stream of which at least `words` words have been read.
  std::unique_ptr<HttpClient> RunningStream(const std::string& key, const std::string& more = "") {
    auto client = std::make_unique<HttpClient>(port());
    client->Request("POST", "/v1/chat/completions", key,
                    ChatBody(absl::StrCat(R"("stream":true)", more.empty() ? "" : ",", more)));
    EXPECT_TRUE(client->ReadUntil("word"));
    return client;
  }
  const FakeScript kEndless{.texts = {"word "}, .endless = true, .interval = absl::Milliseconds(2)};
};

// ---- workers and routers ----

TEST_F(FailureTest, AWorkerLostInMidStreamIsAnErrorEvent) {
  StartGateway();
  router_.Play({.texts = {"some words that come before the end"}, .break_after = 4});
  const HttpAnswer answer = Chat(ChatBody(R"("stream":true,"return_token_ids":true)"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.complete) << "ended by an event, not by silence";
  const Json last = Json::parse(answer.Events().back());
  EXPECT_EQ(last["error"]["code"], "service_unavailable");
  EXPECT_EQ(last["error"]["type"], "server_error");
  EXPECT_THAT(answer.body, Not(HasSubstr("[DONE]")));
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(1);
  EXPECT_EQ(records[0].outcome(), v1::USAGE_OUTCOME_ABORTED);
  EXPECT_EQ(records[0].output_tokens(), 4U) << "what was delivered";
  EXPECT_GT(records[0].prompt_tokens(), 0U);
  const auto ids = router_.tokenizer().Encode("some words that come before the end", /*parse_special=*/false);
  const std::vector<uint32_t> delivered(ids->begin(), ids->begin() + 4);
  EXPECT_EQ(IdsIn(answer).output, delivered);
  EXPECT_EQ(records[0].output_digest(), DigestOf(answer, delivered)) << "of what was delivered";
}

TEST_F(FailureTest, BeforeTheFirstTokenItIsAnErrorStatusAndCostsNothing) {
  StartGateway();
  router_.Play({.break_after = 0});
  EXPECT_EQ(Chat(ChatBody(R"("stream":true)")).Error(), "503 server_error null service_unavailable");
  EXPECT_EQ(Chat(ChatBody()).Error(), "503 server_error null service_unavailable");
  // A reply that is not streamed is delivered whole or not at all.
  router_.Play({.texts = {"some words that come before the end"}, .break_after = 4});
  EXPECT_EQ(Chat(ChatBody()).Error(), "503 server_error null service_unavailable");
  for (const v1::UsageRecord& record : billing_.WaitForRecords(3)) {
    EXPECT_EQ(record.outcome(), v1::USAGE_OUTCOME_FAILED);
  }
  EXPECT_EQ(billing_.charged_micro(party_), 0);
}

TEST_F(FailureTest, AKilledRouterEndsStreamsAndTheNextRequestWorks) {
  StartGateway();
  router_.Play(kEndless);
  auto stream = RunningStream(key_);
  router_.Leave();
  const HttpAnswer answer = stream->Read();
  EXPECT_TRUE(answer.complete);
  EXPECT_THAT(answer.Events().back(), HasSubstr(R"("code":"service_unavailable")"));
  EXPECT_EQ(Chat(ChatBody()).status, 503);
  router_.Play({});
  router_.Return();
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (Chat(ChatBody()).status != 200 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Chat(ChatBody()).status, 200);
}

TEST_F(FailureTest, ADeadlineIsAnErrorEvent) {
  options_.api.request_deadline = absl::Milliseconds(300);
  StartGateway();
  router_.Play({.texts = {"a b c d"}, .end = v1::FINISH_REASON_DEADLINE});
  const HttpAnswer answer = Chat(ChatBody(R"("stream":true)"));
  EXPECT_THAT(answer.Events().back(), HasSubstr(R"("code":"request_timeout")"));
  EXPECT_EQ(billing_.WaitForRecords(1)[0].outcome(), v1::USAGE_OUTCOME_ABORTED);
  EXPECT_LE(router_.last_start().deadline_ms(), 300U);
}

TEST_F(FailureTest, ASilentStreamIsKeptAlive) {
  options_.api.keep_alive = absl::Milliseconds(50);
  StartGateway();
  router_.Play({.texts = {"one two"}, .interval = absl::Milliseconds(200)});
  const HttpAnswer answer = Chat(ChatBody(R"("stream":true)"));
  EXPECT_THAT(answer.body, HasSubstr(": keep-alive\n\n"));
  EXPECT_EQ(TextOf(answer), "one two");
}

TEST_F(FailureTest, WaitingForAWorkerCostsNoWork) {
  options_.api.keep_alive = absl::Milliseconds(50);
  StartGateway();
  router_.Play({.texts = {"one"}, .interval = absl::Milliseconds(400)});
  for (const char* stream : {"false", "true"}) {
    const std::clock_t before = std::clock();
    EXPECT_EQ(Chat(ChatBody(absl::StrCat(R"("stream":)", stream))).status, 200);
    EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 4);
  }
}

// ---- clients ----

TEST_F(FailureTest, AClientThatLeavesCancelsTheWorkAndPaysWhatItGot) {
  StartGateway();
  router_.Play(kEndless);
  auto stream = RunningStream(key_);
  stream->Close();
  ASSERT_TRUE(router_.WaitForEvent("cancel CLIENT_GONE"));
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(1);
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].outcome(), v1::USAGE_OUTCOME_ABORTED);
  EXPECT_GE(records[0].output_tokens(), 1U);
}

TEST_F(FailureTest, AClientThatLeavesBeforeAWholeReplyPaysNothing) {
  StartGateway();
  router_.Play(kEndless);
  HttpClient client(port());
  client.Request("POST", "/v1/chat/completions", key_, ChatBody());
  ASSERT_TRUE(router_.WaitForEvent("start"));
  client.Close();
  ASSERT_TRUE(router_.WaitForEvent("cancel CLIENT_GONE"));
  EXPECT_EQ(billing_.WaitForRecords(1)[0].outcome(), v1::USAGE_OUTCOME_FAILED);
  EXPECT_EQ(billing_.charged_micro(party_), 0);
}

TEST_F(FailureTest, AClientThatDoesNotReadIsCut) {
  options_.http.write_timeout = absl::Milliseconds(200);
  options_.http.send_buffer_bytes = 4096;
  StartGateway();
  router_.Play({.texts = {std::string(400, 'x')}, .endless = true, .tokens_per_frame = 64});
  HttpClient client(port());
  client.Request("POST", "/v1/completions", key_,
                 R"({"model":"demo","prompt":"a","stream":true,"logprobs":20,"max_tokens":4000})");
  EXPECT_TRUE(router_.WaitForEvent("cancel SLOW_READER"));
  EXPECT_EQ(billing_.WaitForRecords(1)[0].outcome(), v1::USAGE_OUTCOME_ABORTED);
}

// ---- keys ----

TEST_F(FailureTest, ARevokedKeyEndsItsStreamsWithinASecond) {
  StartGateway();
  const std::string other = billing_.AddKey(party_);
  router_.Play(kEndless);
  auto stream = RunningStream(key_);
  const absl::Time revoked = absl::Now();
  billing_.RevokeKey(key_);
  const HttpAnswer answer = stream->Read();
  EXPECT_LT(absl::Now() - revoked, absl::Seconds(1));
  EXPECT_TRUE(answer.complete);
  EXPECT_THAT(answer.Events().back(), HasSubstr(R"("code":"invalid_api_key")"));
  EXPECT_TRUE(router_.WaitForEvent("cancel REVOKED"));
  EXPECT_EQ(billing_.WaitForRecords(1)[0].outcome(), v1::USAGE_OUTCOME_ABORTED);
  router_.Play({});
  EXPECT_EQ(Chat(ChatBody()).status, 401);
  EXPECT_EQ(Ask(port(), "POST", "/v1/chat/completions", other, ChatBody()).status, 200);
}

// ---- billing ----

TEST_F(FailureTest, WithoutBillingRequestsWorkFromTheSliceUntilItIsSpent) {
  options_.slice_micro = 1000;
  StartGateway();
  EXPECT_EQ(Chat(ChatBody(R"("max_tokens":20)")).status, 200);
  const absl::Time granted = absl::Now() + absl::Milliseconds(200);
  while (absl::Now() < granted) absl::SleepFor(absl::Milliseconds(10));
  billing_.Leave();
  router_.Play({.texts = {"word "}, .endless = true, .tokens_per_frame = 16});
  HttpAnswer answer;
  int served = 0;
  for (; served < 20; ++served) {
    answer = Chat(ChatBody(R"("max_tokens":300,"stream":true)"));
    if (answer.status != 200) break;
    EXPECT_THAT(answer.body, HasSubstr("[DONE]"));
  }
  EXPECT_GE(served, 3);
  EXPECT_LT(served, 20);
  EXPECT_EQ(answer.Error(), "503 server_error null service_unavailable");

  billing_.Return();
  // More than the old slice has left.
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  int status = 0;
  while (status != 200 && absl::Now() < limit) status = Chat(ChatBody(R"("max_tokens":300)")).status;
  EXPECT_EQ(status, 200);
  // Every reply that ended has been taken once.
  const size_t replies = static_cast<size_t>(served) + 2;
  EXPECT_EQ(billing_.WaitForRecords(replies).size(), replies);
}

TEST_F(FailureTest, AStreamThatOutgrowsTheSliceEndsWithLength) {
  options_.slice_micro = 600;
  StartGateway();
  // The first slice is there, and no other will be.
  EXPECT_EQ(Chat(ChatBody(R"("max_tokens":1)")).status, 200);
  billing_.WaitForRecords(1);
  billing_.Leave();
  router_.Play({.texts = {"word "}, .endless = true, .tokens_per_frame = 16});
  const HttpAnswer answer = Chat(ChatBody(R"("max_tokens":4000,"stream":true)"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_THAT(answer.body, HasSubstr(R"("finish_reason":"length")"));
  EXPECT_EQ(answer.Events().back(), "[DONE]");
  billing_.Return();
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(2);
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[1].outcome(), v1::USAGE_OUTCOME_COMPLETED);
  EXPECT_EQ(records[1].sequences(0).finish_reason(), v1::FINISH_REASON_CREDIT);
  EXPECT_GE(records[1].output_tokens(), 2 * kCreditTokens) << "one extension at least (R7)";
  EXPECT_LT(records[1].output_tokens(), 4000U);
}

TEST_F(FailureTest, AStreamThatOutlivesItsSliceTakesWhatItNeedsInTime) {
  billing_.set_slice_life(absl::Seconds(2));
  StartGateway();
  router_.Play({.texts = {"word "}, .endless = true, .interval = absl::Milliseconds(10), .tokens_per_frame = 2});
  const HttpAnswer answer = Chat(ChatBody(R"("max_tokens":500,"stream":true)"));
  EXPECT_THAT(answer.body, HasSubstr(R"("finish_reason":"length")"));
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(1);
  EXPECT_EQ(records[0].output_tokens(), 500U);
  EXPECT_EQ(records[0].sequences(0).finish_reason(), v1::FINISH_REASON_LENGTH) << "not for want of credit";
}

// ---- the spool ----

TEST_F(FailureTest, AReplyWhoseUsageCannotBeWrittenEndsInAnError) {
  StartGateway();
  router_.Play({.texts = {"one two three"}, .interval = absl::Milliseconds(40)});
  HttpClient client(port());
  client.Request("POST", "/v1/chat/completions", key_, ChatBody(R"("stream":true)"));
  ASSERT_TRUE(client.ReadUntil("one"));
  files_.FailFrom(1, absl::ResourceExhaustedError("no space left on device"));
  const HttpAnswer answer = client.Read();
  EXPECT_THAT(answer.Events().back(), HasSubstr("could not be recorded"));
  EXPECT_THAT(answer.body, Not(HasSubstr("[DONE]")));
  EXPECT_THAT(answer.body, Not(HasSubstr(R"("finish_reason":"stop")")));
  // And nothing more is admitted while it cannot be written (R4).
  EXPECT_EQ(Chat(ChatBody()).Error(), "503 server_error null service_unavailable");
  EXPECT_FALSE(gateway_->ready());
  files_.Heal();
}

TEST_F(FailureTest, AfterACrashEveryReplyThatEndedIsBilledOnceAndRunningOnesToTheirProgress) {
  StartGateway();
  billing_.WaitForRecords(0);
  EXPECT_EQ(Chat(ChatBody()).status, 200);
  billing_.WaitForRecords(1);
  billing_.Leave();
  EXPECT_EQ(Chat(ChatBody()).status, 200);  // in the spool, not at billing
  router_.Play({.texts = {"word "}, .endless = true, .interval = absl::Milliseconds(1)});
  auto stream = RunningStream(key_);
  absl::SleepFor(absl::Milliseconds(700));  // two progress records and more
  CrashGateway();

  billing_.Return();
  router_.Play({});
  StartGateway();
  const std::vector<v1::UsageRecord> records = billing_.WaitForRecords(3);
  ASSERT_EQ(records.size(), 3U);
  int completed = 0;
  for (const v1::UsageRecord& record : records) {
    if (record.outcome() == v1::USAGE_OUTCOME_COMPLETED) ++completed;
    if (record.outcome() != v1::USAGE_OUTCOME_GATEWAY_LOST) continue;
    EXPECT_GE(record.output_tokens(), 64U);
    EXPECT_GT(record.prompt_tokens(), 0U);
    EXPECT_EQ(record.sequences_size(), 0);
  }
  EXPECT_EQ(completed, 2);
  // The dead process's slice goes back once its records are taken.
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  while (billing_.open_slices() > 0 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(billing_.open_slices(), 0);
  EXPECT_EQ(Chat(ChatBody()).status, 200);
}

// ---- shutdown ----

TEST_F(FailureTest, ADrainFinishesWhatRunsAndGivesCreditBack) {
  StartGateway();
  router_.Play({.texts = {"one two three four five six seven"}, .interval = absl::Milliseconds(20)});
  HttpClient client(port());
  client.Request("POST", "/v1/chat/completions", key_, ChatBody(R"("stream":true)"));
  ASSERT_TRUE(client.ReadUntil("one"));
  HttpClient idle(port());
  gateway_->Drain(absl::Seconds(5));
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(TextOf(answer), "one two three four five six seven");
  EXPECT_EQ(answer.Events().back(), "[DONE]");
  EXPECT_TRUE(idle.ClosedByServer(absl::Seconds(1)));
  EXPECT_EQ(billing_.records().size(), 1U);
  EXPECT_EQ(billing_.open_slices(), 0);
  EXPECT_EQ(billing_.set_aside_micro(party_), 0);
  EXPECT_EQ(billing_.available_micro(party_), kBalanceMicro - billing_.charged_micro(party_));
}

TEST_F(FailureTest, WhatOutlastsTheBudgetOfADrainEndsInAnErrorEvent) {
  StartGateway();
  router_.Play(kEndless);
  auto stream = RunningStream(key_);
  gateway_->Drain(absl::Milliseconds(200));
  const HttpAnswer answer = stream->Read();
  EXPECT_TRUE(answer.complete);
  EXPECT_THAT(answer.Events().back(), HasSubstr("stopping"));
  EXPECT_EQ(billing_.records().size(), 1U);
  EXPECT_EQ(billing_.open_slices(), 0);
}

TEST_F(FailureTest, WithoutKeysNothingIsAdmitted) {
  billing_.Leave();
  StartGateway(/*wait=*/false);
  EXPECT_FALSE(gateway_->ready());
  EXPECT_EQ(Ask(port(), "GET", "/healthz", "").status, 503);
  EXPECT_EQ(Chat(ChatBody()).Error(), "503 server_error null service_unavailable");
  billing_.Return();
  WaitReady();
  EXPECT_EQ(Chat(ChatBody()).status, 200);
}

// ---- start ----

TEST_F(FailureTest, StartErrorsSayWhatToDo) {
  StartGateway();
  GatewayOptions second = options_;
  second.state_dir = identities_.dir() + "/second";
  second.http.address = absl::StrCat("127.0.0.1:", port());
  EXPECT_THAT(std::string(Gateway::Start(second, nullptr).status().message()),
              HasSubstr("another program uses this port"));
  second.http.address = "0.0.0.0:0";
  EXPECT_THAT(std::string(Gateway::Start(second, nullptr).status().message()), HasSubstr("--insecure"));
  second.http.address = "somewhere";
  second.insecure = true;
  EXPECT_EQ(Gateway::Start(second, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  second.http.address = "127.0.0.1:0";
  second.state_dir = "/proc/none";
  EXPECT_THAT(std::string(Gateway::Start(second, nullptr).status().message()), HasSubstr("/proc/none"));
}

}  // namespace
}  // namespace gantry::gateway
