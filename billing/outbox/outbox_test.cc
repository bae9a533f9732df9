#include "billing/outbox/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDayUs = 86'400'000'000;
constexpr const char* kHook = "https://acme.example/hook";

class OutboxTest : public testing::Test {
 protected:
  Endpoint Add(const std::string& target, const std::vector<std::string>& topics = {}) {
    return books_.Get<Endpoint>(
        [&](Database& db) { return AddEndpoint(db, books_.tenant(), target, topics, books_.now_us()); });
  }
  absl::Status AddStatus(const std::string& target, const std::vector<std::string>& topics = {}) {
    return books_.store().WriteAndWait(
        [&](Database& db) { return AddEndpoint(db, books_.tenant(), target, topics, books_.now_us()).status(); });
  }
  Id16 Tell(const std::string& topic) {
    OutboxMessage message{.topic = topic, .party_id = books_.tenant(), .title = "t", .text = "x"};
    message.data["n"] = 5;
    return books_.Get<Id16>([&](Database& db) { return Enqueue(db, message, books_.now_us()); });
  }
  std::vector<Delivery> Due() {
    std::vector<Delivery> due;
    books_.Do([&](Database& db) { return due = DueDeliveries(db, books_.now_us()), absl::OkStatus(); });
    return due;
  }
  // "seq:topic:state:attempts …", oldest first.
  std::string All() {
    std::string out;
    books_.Do([&](Database& db) {
      const std::vector<OutboxRow> rows = ListOutbox(db, std::nullopt, 0, 1000);
      for (auto row = rows.rbegin(); row != rows.rend(); ++row) {
        static constexpr const char* kNames[] = {"", "waiting", "delivered", "parked", "unaddressed"};
        absl::StrAppend(&out, out.empty() ? "" : " ", row->topic, ":", kNames[static_cast<int>(row->state)], ":",
                        row->attempts);
      }
      return absl::OkStatus();
    });
    return out;
  }
  void Do(const std::function<void(Database&)>& change) {
    books_.Do([&](Database& db) { return change(db), absl::OkStatus(); });
  }
  Books books_;
};

TEST_F(OutboxTest, AMessageGoesToEveryEndpointThatWantsItsTopic) {
  Add(kHook);
  Add("mailto:ops@acme.example", {"balance.*", "test"});
  Add("https://acme.example/invoices", {"invoice.*"});
  Tell("balance.low");
  Tell("invoice.overdue");
  Tell("key.expiring");
  EXPECT_EQ(All(),
            "balance.low:waiting:0 balance.low:waiting:0 invoice.overdue:waiting:0 invoice.overdue:waiting:0 "
            "key.expiring:waiting:0");
  const std::vector<Delivery> due = Due();
  ASSERT_EQ(due.size(), 3u) << "one per endpoint";
  const nlohmann::json payload = nlohmann::json::parse(due[0].row.payload);
  EXPECT_EQ(payload["id"], due[0].row.message_id.ToHex());
  EXPECT_EQ(payload["topic"], due[0].row.topic);
  EXPECT_EQ(payload["party"], books_.tenant().ToHex());
  EXPECT_EQ(payload["created"], "2026-11-10T12:00:00.000000Z");
  EXPECT_EQ(payload["data"]["n"], 5);
}

TEST_F(OutboxTest, WithoutAnEndpointItIsWrittenDownAllTheSame) {
  Tell("balance.low");
  EXPECT_EQ(All(), "balance.low:unaddressed:0");
  EXPECT_TRUE(Due().empty());
}

TEST_F(OutboxTest, WhatIsToldIsUndoneWithItsReason) {
  Add(kHook);
  const absl::Status undone = books_.store().WriteAndWait([&](Database& db) {
    EXPECT_TRUE(Enqueue(db, {.topic = "test", .party_id = books_.tenant()}, books_.now_us()).ok());
    return absl::InternalError("the command failed after all");
  });
  EXPECT_FALSE(undone.ok());
  EXPECT_EQ(All(), "");
}

TEST_F(OutboxTest, EndpointsThatCannotBeAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(AddStatus("gopher://x/")));
  EXPECT_TRUE(absl::IsInvalidArgument(AddStatus(kHook, {"Balance"})));
  EXPECT_TRUE(absl::IsInvalidArgument(AddStatus(kHook, {"***"})));
  EXPECT_TRUE(absl::IsInvalidArgument(AddStatus(kHook, {"a\nb"})));
  EXPECT_TRUE(absl::IsInvalidArgument(AddStatus(kHook, std::vector<std::string>(17, "a"))));
  Add(kHook);
  EXPECT_TRUE(absl::IsAlreadyExists(AddStatus(kHook)));
  for (int i = 1; i < kEndpointsMax; ++i) Add(absl::StrCat(kHook, i));
  EXPECT_TRUE(absl::IsResourceExhausted(AddStatus("mailto:ops@acme.example")));
}

TEST_F(OutboxTest, ANewSecretSignsBesideTheOldOneForAWhile) {
  const Id16 hook = Add(kHook).endpoint_id, mail = Add("mailto:ops@acme.example").endpoint_id;
  const Endpoint rotated =
      books_.Get<Endpoint>([&](Database& db) { return RotateEndpointSecret(db, hook, kDayUs, books_.now_us()); });
  EXPECT_EQ(rotated.secret_number, 2);
  EXPECT_EQ(rotated.previous_until_us, books_.now_us() + kDayUs);
  EXPECT_TRUE(absl::IsFailedPrecondition(books_.store().WriteAndWait(
      [&](Database& db) { return RotateEndpointSecret(db, mail, kDayUs, books_.now_us()).status(); })));
}

TEST_F(OutboxTest, RowsAreMarkedOnce) {
  Add(kHook);
  Tell("a");
  const int64_t seq = Due()[0].row.seq;
  Do([&](Database& db) { MarkFailed(db, seq, "the answer is 500", books_.now_us() + 1000); });
  EXPECT_EQ(All(), "a:waiting:1");
  EXPECT_TRUE(Due().empty());
  books_.Advance(1000);
  EXPECT_EQ(Due().size(), 1u);
  EXPECT_EQ(Due()[0].row.last_error, "the answer is 500");
  Do([&](Database& db) { MarkDelivered(db, seq, books_.now_us()); });
  Do([&](Database& db) { MarkFailed(db, seq, "late", books_.now_us()); });
  Do([&](Database& db) { MarkParked(db, seq, "late", books_.now_us()); });
  EXPECT_EQ(All(), "a:delivered:2");
}

TEST_F(OutboxTest, ParkedOnesWaitAgainWhenTheyAreToldTo) {
  const Id16 hook = Add(kHook).endpoint_id;
  for (const char* topic : {"a", "b", "c"}) {
    Tell(topic);
    const int64_t seq = Due()[0].row.seq;
    Do([&](Database& db) { MarkParked(db, seq, "no", books_.now_us()); });
  }
  const auto retry = [&](int64_t seq) {
    int64_t count = 0;
    const absl::Status status = books_.store().WriteAndWait([&](Database& db) {
      const absl::StatusOr<int64_t> retried = RetryParked(db, seq, books_.now_us());
      count = retried.value_or(-1);
      return retried.status();
    });
    return status.ok() ? absl::StrCat(count) : std::string(status.message());
  };
  EXPECT_EQ(retry(2), "1");
  EXPECT_EQ(All(), "a:parked:1 b:waiting:0 c:parked:1");
  EXPECT_EQ(retry(2), "message 2 is not parked");
  EXPECT_EQ(retry(99), "no message 99 in the outbox");
  EXPECT_EQ(retry(0), "2");
  books_.Get<Endpoint>([&](Database& db) { return RemoveEndpoint(db, hook, books_.now_us()); });
  EXPECT_EQ(All(), "a:parked:0 b:parked:0 c:parked:0");
  EXPECT_EQ(retry(1), "the endpoint of message 1 was removed");
  EXPECT_EQ(retry(0), "0");
}

TEST_F(OutboxTest, TheQueueOfAnEndpointHasItsLimit) {
  const Id16 hook = Add(kHook).endpoint_id;
  Do([&](Database& db) {
    for (int64_t i = 0; i < kOutboxWaitingMax; ++i) {
      db.Execute(
          "INSERT INTO outbox (message_id, topic, party_id, endpoint_id, payload, created_us, state, since_us, "
          "next_us) "
          "VALUES (?, 'x', ?, ?, '{}', 1, 1, 1, 1)",
          NewTimeOrderedId(), books_.tenant(), hook);
    }
  });
  Tell("too.much");
  books_.Do([&](Database& db) {
    const std::vector<OutboxRow> parked = ListOutbox(db, OutboxState::kParked, 0, 10);
    EXPECT_EQ(parked.size(), 1u);
    EXPECT_EQ(parked.at(0).topic, "too.much");
    EXPECT_EQ(parked.at(0).last_error, "10000 messages wait for this endpoint already");
    const OutboxCounts counts = CountOutbox(db);
    EXPECT_EQ(counts.waiting, kOutboxWaitingMax);
    EXPECT_EQ(counts.parked, 1);
    EXPECT_EQ(counts.oldest_waiting_us, 1);
    return absl::OkStatus();
  });
}

TEST_F(OutboxTest, MessagesHaveASize) {
  OutboxMessage message{.topic = "a", .party_id = books_.tenant(), .text = std::string(kOutboxPayloadMax, 'x')};
  EXPECT_TRUE(absl::IsInvalidArgument(
      books_.store().WriteAndWait([&](Database& db) { return Enqueue(db, message, books_.now_us()).status(); })));
  message.text = "\xff broken \xc3";  // is shown as U+FFFD
  Add(kHook);
  books_.Get<Id16>([&](Database& db) { return Enqueue(db, message, books_.now_us()); });
  EXPECT_EQ(nlohmann::json::parse(Due()[0].row.payload)["text"], "\ufffd broken \ufffd");
}

TEST_F(OutboxTest, OldRowsAreForgottenParkedOnesLater) {
  Add(kHook);
  Tell("a");
  Do([&](Database& db) { MarkDelivered(db, 1, books_.now_us()); });
  Tell("b");
  Do([&](Database& db) { MarkParked(db, 2, "no", books_.now_us()); });
  Tell("c");
  const auto prune = [&] {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      const bool needed = OutboxNeedsPruning(db, books_.now_us());
      const int64_t pruned = PruneOutbox(db, books_.now_us(), 100);
      EXPECT_EQ(pruned > 0, needed);
      return pruned;
    });
  };
  books_.Advance(29 * kDayUs);
  EXPECT_EQ(prune(), 0);
  books_.Advance(2 * kDayUs);
  EXPECT_EQ(prune(), 1);
  EXPECT_EQ(All(), "b:parked:1 c:waiting:0");
  books_.Advance(60 * kDayUs);
  EXPECT_EQ(prune(), 1);
  EXPECT_EQ(All(), "c:waiting:0") << "what waits is never forgotten";
}

}  // namespace
}  // namespace gantry::billing
