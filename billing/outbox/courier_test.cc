// Delivery: at least once, over servers that fail, hang and leave, and over deaths between sending and marking.
#include "billing/outbox/courier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "billing/outbox/test_servers.h"
#include "billing/outbox/webhook.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr RetryPolicy kQuick{.first = absl::Milliseconds(2),
                             .longest = absl::Milliseconds(10),
                             .attempts_max = 1000,
                             .age_max = absl::InfiniteDuration()};

// Waits for what another thread brings about.
bool Within(absl::Duration limit, const std::function<bool()>& holds) {
  for (const absl::Time end = absl::Now() + limit; absl::Now() < end; absl::SleepFor(absl::Milliseconds(2))) {
    if (holds()) return true;
  }
  return holds();
}

class CourierTest : public testing::Test {
 protected:
  Endpoint Add(const std::string& target) {
    return books_.Get<Endpoint>(
        [&](Database& db) { return AddEndpoint(db, books_.tenant(), target, {}, books_.now_us()); });
  }
  void Tell(int count) {
    for (int i = 0; i < count; ++i) {
      books_.Get<Id16>([&](Database& db) {
        return Enqueue(db, {.topic = absl::StrCat("t.", told_++), .party_id = books_.tenant()}, books_.now_us());
      });
    }
  }
  // Time goes on by itself here: waits are milliseconds.
  Courier::Options Options(std::function<SendResult(const Delivery&, StreamStop*)> send) {
    Courier::Options options;
    options.store = &books_.store();
    options.clock = [] { return absl::ToUnixMicros(absl::Now()) + 10 * 365 * 86'400'000'000; };  // all is due
    options.send = std::move(send);
    options.retry = kQuick;
    options.look_every = absl::Milliseconds(2);
    return options;
  }
  int Count(OutboxState state) {
    int count = 0;
    books_.Do([&](Database& db) {
      count = static_cast<int>(ListOutbox(db, state, 0, 100'000).size());
      return absl::OkStatus();
    });
    return count;
  }
  Books books_;
  int told_ = 0;
};

TEST(RetryWait, DoublesToItsLimitWithJitter) {
  const RetryPolicy policy;
  const struct {
    int64_t failures;
    absl::Duration wait;
  } cases[] = {{1, absl::Seconds(10)},     {2, absl::Seconds(20)}, {3, absl::Seconds(40)}, {10, absl::Seconds(5120)},
               {12, absl::Seconds(20480)}, {13, absl::Hours(6)},   {1000, absl::Hours(6)}};
  for (const auto& c : cases) {
    EXPECT_EQ(RetryWait(policy, c.failures, 1.0), c.wait) << c.failures;
    EXPECT_EQ(RetryWait(policy, c.failures, 0.5), c.wait / 2) << c.failures;
  }
}

TEST_F(CourierTest, EverythingArrivesOnceAndInOrder) {
  Add("https://a.example/");
  Add("https://b.example/");
  std::map<std::string, std::vector<std::string>> got;
  absl::Mutex mutex;
  Courier courier(Options([&](const Delivery& delivery, StreamStop*) {
    absl::MutexLock lock(&mutex);
    got[delivery.endpoint.target].push_back(delivery.row.topic);
    return SendResult{};
  }));
  Tell(60);
  courier.Wake();
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kDelivered) == 120; }));
  absl::MutexLock lock(&mutex);
  for (const auto& [target, topics] : got) {
    ASSERT_EQ(topics.size(), 60u) << target;
    for (int i = 0; i < 60; ++i) EXPECT_EQ(topics[static_cast<size_t>(i)], absl::StrCat("t.", i)) << target;
  }
}

TEST_F(CourierTest, WhatFailsIsTriedAgainUntilItIsTaken) {
  Add("https://a.example/");
  Tell(20);
  std::map<int64_t, int> tries;
  absl::Mutex mutex;
  Courier courier(Options([&](const Delivery& delivery, StreamStop*) {
    absl::MutexLock lock(&mutex);
    return ++tries[delivery.row.seq] < 4 ? SendResult{absl::UnavailableError("not now")} : SendResult{};
  }));
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kDelivered) == 20; }));
  absl::MutexLock lock(&mutex);
  for (const auto& [seq, count] : tries) EXPECT_EQ(count, 4) << seq;
}

TEST_F(CourierTest, AfterTooManyTriesOrTooLongAMessageIsParked) {
  Add("https://a.example/");
  Tell(2);
  std::atomic<int> tries{0}, parked{0};
  Courier::Options options = Options([&](const Delivery&, StreamStop*) {
    ++tries;
    return SendResult{absl::UnavailableError("the answer is 500")};
  });
  options.retry.attempts_max = 3;
  options.retry.age_max = absl::InfiniteDuration();
  options.on_try = [&](const Delivery&, const absl::Status& status, bool given_up) {
    EXPECT_FALSE(status.ok());
    parked += given_up ? 1 : 0;
  };
  {
    Courier courier(options);
    ASSERT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kParked) == 2; }));
  }
  EXPECT_EQ(tries, 6);
  EXPECT_EQ(parked, 2);
  books_.Do([&](Database& db) {
    const absl::StatusOr<OutboxRow> row = FindOutboxRow(db, 1);
    EXPECT_EQ(row->attempts, 3);
    EXPECT_EQ(row->last_error, "the answer is 500");
    return RetryParked(db, 1, options.clock() - absl::ToInt64Microseconds(absl::Hours(100))).status();
  });
  options.retry = {.first = absl::Milliseconds(1), .attempts_max = 1000, .age_max = absl::Hours(72)};
  tries = 0;
  Courier courier(options);
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kParked) == 2; }));
  EXPECT_EQ(tries, 1) << "it has waited for longer than it may";
}

TEST_F(CourierTest, WhatIsRefusedForGoodIsParkedAtOnce) {
  Add("mailto:nobody@acme.example");
  Tell(1);
  std::atomic<int> tries{0};
  Courier courier(Options([&](const Delivery&, StreamStop*) {
    ++tries;
    return SendResult{absl::AbortedError("550 no such user"), true};
  }));
  ASSERT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kParked) == 1; }));
  EXPECT_EQ(tries, 1);
}

TEST_F(CourierTest, EndpointsThatHangHoldUpNoOther) {
  for (int i = 0; i < 3; ++i) Add(absl::StrCat("https://hangs.example/", i));
  Add("https://works.example/");
  Tell(30);
  absl::Mutex mutex;
  bool let_go = false;
  {
    Courier courier(Options([&](const Delivery& delivery, StreamStop*) {
      absl::MutexLock lock(&mutex);
      if (delivery.endpoint.target != "https://works.example/") mutex.Await(absl::Condition(&let_go));
      return SendResult{};
    }));
    EXPECT_TRUE(Within(absl::Seconds(20), [&] { return Count(OutboxState::kDelivered) == 30; }));
    absl::MutexLock lock(&mutex);
    let_go = true;
  }
}

// ---- with real servers ----

class RealCourierTest : public CourierTest {
 protected:
  RealCourierTest() {
    WebhookOptions options;
    options.private_networks = "127.0.0.1";
    options.timeout = absl::Milliseconds(300);
    sender_ = *WebhookSender::Create(options);
  }
  Courier::Options Real() {
    return Options([this](const Delivery& delivery, StreamStop* stop) {
      const WebhookTarget target = std::get<WebhookTarget>(*ParseTarget(delivery.endpoint.target));
      return sender_->Send(target, {{{"Gantry-Message", delivery.row.message_id.ToHex()}}, delivery.row.payload}, stop);
    });
  }
  std::unique_ptr<WebhookSender> sender_;
};

// One in three is taken; the others get 500, silence, half an answer or a closed door.
TEST_F(RealCourierTest, NothingIsLostToAServerThatFailsInEveryWay) {
  std::mt19937_64 random(3);
  absl::Mutex mutex;
  std::map<std::string, int> taken;  // message -> times
  TestHttpServer server([&](const TestHttpRequest& request, TestSocket& socket) -> std::string {
    uint64_t dice = 0;
    {
      absl::MutexLock lock(&mutex);
      dice = random() % 12;
      if (dice < 4) ++taken[request.headers.at("gantry-message")];
    }
    if (dice < 4) return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    if (dice < 8) return "HTTP/1.1 500 Oops\r\n\r\n";
    if (dice < 10) return "";
    if (dice == 10) return "HTTP/1.1 20";
    socket.Hang();
    return "";
  });
  Add(server.url());
  Tell(40);
  Courier courier(Real());
  ASSERT_TRUE(Within(absl::Seconds(60), [&] { return Count(OutboxState::kDelivered) == 40; }));
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(taken.size(), 40u);
  for (const auto& [message, times] : taken) EXPECT_EQ(times, 1) << "an answer that came is believed";
}

TEST_F(RealCourierTest, BeingToldToStopItLeavesAServerThatHangs) {
  TestHttpServer server([](const TestHttpRequest&, TestSocket& socket) {
    socket.Hang();
    return std::string();
  });
  Add(server.url());
  Tell(1);
  WebhookOptions slow;
  slow.private_networks = "127.0.0.1";
  slow.timeout = absl::Seconds(60);
  sender_ = *WebhookSender::Create(slow);
  absl::Time begin;
  {
    Courier courier(Real());
    ASSERT_TRUE(Within(absl::Seconds(20), [&] { return !server.requests().empty(); }));
    begin = absl::Now();
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(Count(OutboxState::kWaiting), 1);
  books_.Do([&](Database& db) {
    EXPECT_EQ(FindOutboxRow(db, 1)->attempts, 0) << "broken off, not failed";
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace gantry::billing
