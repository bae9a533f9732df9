// Gateway, worker and billing fail and come back in any order: whatever the order, every token is billed once or booked
// to a named account of the house.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <random>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "billing/testing/books.h"
#include "billing/usage/usage.h"
#include "billing/usage/witness_match.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

constexpr int64_t kDeadlineUs = 900'000'000;
constexpr int64_t kOutputPico = 800'000, kInputPico = 200'000;

// What happened to one request, as nobody but the test knows it.
struct Story {
  v1::UsageRecord usage;      // what the gateway would report
  v1::WitnessRecord witness;  // what the worker would
  bool gateway_told = false;  // its record has arrived
  bool worker_told = false;
};

class Interleavings : public testing::Test {
 protected:
  void Begin() {
    const uint64_t generated = 1 + random_() % 300, prompt = 1 + random_() % 500;
    const bool gateway_died = random_() % 4 == 0, aborted = random_() % 4 == 0;
    // A gateway that died closes at its last progress; a client that left got a part.
    const uint64_t delivered = gateway_died || aborted ? random_() % (generated + 1) : generated;
    const auto outcome = gateway_died ? v1::USAGE_OUTCOME_GATEWAY_LOST
                         : aborted    ? v1::USAGE_OUTCOME_ABORTED
                                      : v1::USAGE_OUTCOME_COMPLETED;
    Story story{.usage = books_.Record(slice_, prompt, delivered, outcome)};
    story.witness = books_.Witness(story.usage, generated);
    story.witness.set_party_id(books_.tenant().ToBytes());
    const auto number = stories_.size();
    // Either record may be late, come twice, or never come; at least one does.
    const bool gateway_returns = random_() % 10 != 0, worker_returns = !gateway_returns || random_() % 10 != 0;
    for (uint64_t copies = gateway_returns ? 1 + random_() % 2 : 0; copies > 0; --copies) Later({number, true});
    for (uint64_t copies = worker_returns ? 1 + random_() % 2 : 0; copies > 0; --copies) Later({number, false});
    stories_.push_back(std::move(story));
  }
  struct Delivery {
    size_t story;
    bool by_gateway;
  };
  void Later(Delivery delivery) {
    waiting_.insert(waiting_.begin() + static_cast<std::ptrdiff_t>(random_() % (waiting_.size() + 1)), delivery);
  }
  void Deliver() {
    if (waiting_.empty()) return;
    const Delivery delivery = waiting_.front();
    waiting_.pop_front();
    sent_.push_back(delivery);
    if (sent_.size() >= 64) Settle();
  }
  // Each delivery is a command of its own; those that wait together are committed together, as in operation.
  void Settle() {
    std::vector<v1::UsageAck> acks(sent_.size());
    absl::BlockingCounter open(static_cast<int>(sent_.size()));
    for (size_t i = 0; i < sent_.size(); ++i) {
      const Story& story = stories_[sent_[i].story];
      books_.store().WriteKeeping(
          [&, i](Database& db) {
            absl::StatusOr<AppendResult> result = sent_[i].by_gateway
                                                      ? AppendUsage(db, Batch(story.usage), books_.now_us())
                                                      : AppendWitness(db, Batch(story.witness), books_.now_us());
            if (result.ok()) acks[i] = result->ack;
            return result.status();
          },
          [&](const absl::Status& status) {
            EXPECT_TRUE(status.ok()) << status;
            open.DecrementCount();
          });
    }
    open.Wait();
    for (size_t i = 0; i < sent_.size(); ++i) {
      ASSERT_EQ(acks[i].record_ids_size(), 1) << acks[i].DebugString();
      Story& story = stories_[sent_[i].story];
      (sent_[i].by_gateway ? story.gateway_told : story.worker_told) = true;
    }
    sent_.clear();
  }
  v1::UsageBatch Batch(const v1::UsageRecord& record) {
    v1::UsageBatch batch;
    batch.set_gateway_id(books_.gateway().ToBytes());
    batch.set_gateway_epoch(1);
    *batch.add_records() = record;
    return batch;
  }
  static v1::WitnessBatch Batch(const v1::WitnessRecord& record) {
    v1::WitnessBatch batch;
    batch.set_worker_id(std::string(16, 'w'));
    *batch.add_records() = record;
    return batch;
  }
  void Expire() {
    Settle();
    books_.Do([&](Database& db) { return ExpireWaiting(db, books_.now_us() - kDeadlineUs, books_.now_us()); });
  }

  Books books_;
  Id16 slice_ = books_.Slice(9'999'999);
  std::mt19937_64 random_{17};
  std::vector<Story> stories_;
  std::deque<Delivery> waiting_;
  std::vector<Delivery> sent_;  // not committed yet
};

TEST_F(Interleavings, BillEveryTokenOnceOrBookItToTheHouse) {
  const int requests = engine::LongTests() ? 100'000 : 1500;
  int expiries = 0, restarts = 0;
  while (static_cast<int>(stories_.size()) < requests || !waiting_.empty()) {
    if (static_cast<int>(stories_.size()) < requests && random_() % 2 == 0) Begin();
    Deliver();
    if (HasFatalFailure()) return;
    if (random_() % 50 == 0) {
      books_.Advance(static_cast<int64_t>(random_() % (2 * kDeadlineUs)));
      Expire();
      ++expiries;
    }
    if (random_() % 500 == 0) {
      Settle();
      books_.Reopen();
      ++restarts;
    }
  }
  books_.Advance(2 * kDeadlineUs);
  for (int i = 0; i < requests / 1000 + 2; ++i) Expire();  // a thousand at a time

  __int128 billed_pico = 0;
  int64_t lost_micro = 0;
  int both = 0, gateway_only = 0, worker_only = 0;
  for (const Story& story : stories_) {
    const bool nothing = story.usage.outcome() == v1::USAGE_OUTCOME_GATEWAY_LOST && story.usage.output_tokens() == 0;
    if (story.gateway_told) {
      ++(story.worker_told ? both : gateway_only);
      if (nothing) continue;
      billed_pico += static_cast<__int128>(story.usage.output_tokens()) * kOutputPico +
                     static_cast<__int128>(story.usage.prompt_tokens()) * kInputPico;
    } else {
      ++worker_only;
      lost_micro += static_cast<int64_t>(
          (story.witness.to_index() * kOutputPico + story.witness.prompt_tokens() * kInputPico) / 1'000'000);
    }
  }
  const int64_t customers = books_.Int(
      "SELECT debit_micro - (SELECT credit_micro - 10000000 FROM account b WHERE b.type = 'customer') FROM account a "
      "WHERE a.type = 'customer'");
  const int64_t unheld = std::max<int64_t>(0, books_.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"));
  const int64_t residue = books_.Int("SELECT residue_pico FROM account WHERE type = 'customer'");
  EXPECT_TRUE(billed_pico == static_cast<__int128>(customers + unheld) * 1'000'000 + residue);
  EXPECT_EQ(books_.Int("SELECT debit_micro - credit_micro FROM account WHERE type = 'unbilled_loss'"), lost_micro);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM unmatched WHERE state = 'quarantined'"), 0);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM unmatched WHERE state = 'waiting'"), 0);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM unmatched WHERE state = 'w2_only'"), worker_only);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
  EXPECT_GT(both, 0);
  EXPECT_GT(gateway_only, 0);
  EXPECT_GT(worker_only, 0);
  std::printf(
      "%d requests: %d with both counts, %d by the gateway alone, %d by the worker alone; %d deadlines, %d restarts\n",
      requests, both, gateway_only, worker_only, expiries, restarts);
}

}  // namespace
}  // namespace gantry::billing
