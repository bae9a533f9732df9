#include "billing/ledger/key_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "billing/catalog/keys.h"
#include "billing/ledger/credit.h"
#include "billing/testing/books.h"
#include "billing/usage/correct.h"

namespace gantry::billing {
namespace {

constexpr int64_t kHourUs = 3'600'000'000;

class KeyBudgetTest : public ::testing::Test {
 protected:
  // Whatever happened, the audit makes the same of it.
  void TearDown() override {
    const v1::AuditReport report = books_.Audited();
    EXPECT_TRUE(report.ok()) << report.DebugString();
  }
  v1::Key NewKey(int64_t budget, v1::BudgetPeriod period) { return books_.NewKey(budget, period); }
  v1::Key Shown(const v1::Key& key) {
    const v1::ListKeysResponse list =
        books_.Get<v1::ListKeysResponse>([&](Database& db) { return ListKeys(db, "demo", books_.now_us()); });
    for (const v1::Key& shown : list.keys()) {
      if (shown.key_id() == key.key_id()) return shown;
    }
    return {};
  }
  absl::StatusOr<v1::GrantSliceResponse> Grant(const v1::Key& key, int64_t wanted, int64_t minimum) {
    v1::GrantSliceRequest request;
    last_ = NewTimeOrderedId();
    request.set_slice_id(last_.ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(1);
    request.set_party_id(key.party_id());
    request.set_key_id(key.key_id());
    request.set_wanted_micro(wanted);
    request.set_minimum_micro(minimum);
    return books_.Try<v1::GrantSliceResponse>([&](Database& db) { return GrantSlice(db, request, books_.now_us()); });
  }
  absl::Status Reserve(const v1::Key& key, int64_t micro, Id16* hold) {
    v1::ReserveRequest request;
    *hold = NewTimeOrderedId();
    request.set_hold_id(hold->ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(1);
    request.set_party_id(key.party_id());
    request.set_key_id(key.key_id());
    request.set_request_id(NewTimeOrderedId().ToBytes());
    request.set_amount_micro(micro);
    request.set_plan_version_id(books_.plan().ToBytes());
    return books_.store().WriteAndWait(
        [&](Database& db) { return billing::Reserve(db, request, books_.now_us()).status(); });
  }
  // Usage of `micro` micro-units, paid from a slice.
  v1::UsageRecord Use(const v1::Key& key, const Id16& slice, int64_t micro) {
    v1::UsageRecord record = books_.Record(slice, static_cast<uint64_t>(micro) * 5, 0);
    record.set_key_id(key.key_id());
    EXPECT_EQ(books_.Append(record).record_ids_size(), 1);
    return record;
  }
  // To usage of `micro` micro-units.
  void Correct(const v1::UsageRecord& record, uint64_t micro) {
    v1::CorrectUsageRequest request;
    request.set_request_id(record.request_id());
    request.set_prompt_tokens(micro * 5);
    request.set_reason("counted twice");
    books_.Do([&](Database& db) { return CorrectUsage(db, request, books_.now_us()).status(); });
  }
  void Close(const Id16& slice) {
    v1::ReturnSliceRequest request;
    request.set_slice_id(slice.ToBytes());
    request.set_close(true);
    books_.Do([&](Database& db) { return ReturnSlice(db, request, books_.now_us()).status(); });
  }

  Books books_;  // 2026-11-10 12:00 UTC
  Id16 last_;
};

TEST_F(KeyBudgetTest, IsAScopeOfEveryGrant) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  EXPECT_EQ(Grant(key, 5000, 1)->granted_micro(), 1000) << "no more than the budget";
  const absl::Status spent = Grant(key, 5000, 1).status();
  EXPECT_TRUE(absl::IsOutOfRange(spent)) << spent;
  EXPECT_EQ(
      spent.message(),
      "the budget of this key is spent: budget 1000, used 0, held 1000, asked 1 (millionths of EUR), resets never");
  Id16 hold;
  EXPECT_TRUE(absl::IsOutOfRange(Reserve(key, 1, &hold)));
  EXPECT_FALSE(books_.Slice(5000).IsZero()) << "the tenant's other keys have money";
}

TEST_F(KeyBudgetTest, IsUsedByWhatIsBilledAndNotByWhatIsSetAside) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  ASSERT_TRUE(Grant(key, 800, 800).ok());
  Use(key, last_, 300);
  EXPECT_EQ(Shown(key).used_micro(), 300);
  Close(last_);
  EXPECT_EQ(Grant(key, 5000, 1)->granted_micro(), 700);
  books_.Reopen();
  EXPECT_EQ(Shown(key).used_micro(), 300);
  EXPECT_EQ(Shown(key).resets_us(), 0) << "never";
}

TEST_F(KeyBudgetTest, HoldsOfSingleRequestsCountToo) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  Id16 hold;
  ASSERT_TRUE(Reserve(key, 600, &hold).ok());
  v1::ExtendHoldRequest extend;
  extend.set_hold_id(hold.ToBytes());
  extend.set_extension(1);
  extend.set_add_micro(401);
  absl::Status grown = books_.store().WriteAndWait([&](Database& db) { return ExtendHold(db, extend).status(); });
  EXPECT_TRUE(absl::IsOutOfRange(grown)) << grown;
  extend.set_add_micro(400);
  books_.Do([&](Database& db) { return ExtendHold(db, extend).status(); });
  v1::UsageRecord record = books_.Record(Id16{}, 2500, 0);
  record.clear_slice_id();
  record.set_hold_id(hold.ToBytes());
  record.set_key_id(key.key_id());
  ASSERT_EQ(books_.Append(record).record_ids_size(), 1);
  EXPECT_EQ(Shown(key).used_micro(), 500);
  Id16 second;
  ASSERT_TRUE(Reserve(key, 500, &second).ok()) << "what the hold did not cost came back";
  v1::VoidHoldRequest end;
  end.set_hold_id(second.ToBytes());
  books_.Do([&](Database& db) { return VoidHold(db, end, books_.now_us()).status(); });
  ASSERT_TRUE(Reserve(key, 500, &second).ok());
}

TEST_F(KeyBudgetTest, BeginsAnewWithTheDayOfThePartysTimeZone) {
  books_.Do([&](Database& db) {
    db.Execute("UPDATE party SET time_zone = 'Asia/Shanghai' WHERE party_id = ?", books_.tenant());
    return absl::OkStatus();
  });
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_DAY);
  // 20:00 in Shanghai: four hours are left of the day.
  EXPECT_EQ(key.resets_us(), books_.now_us() + 4 * kHourUs);
  ASSERT_TRUE(Grant(key, 1000, 1000).ok());
  Use(key, last_, 1000);
  const absl::Status spent = Grant(key, 1, 1).status();
  EXPECT_NE(spent.message().find("resets 2026-11-11T00:00:00+08:00"), absl::string_view::npos) << spent;
  books_.Advance(4 * kHourUs);
  EXPECT_EQ(Shown(key).used_micro(), 0);
  EXPECT_EQ(Shown(key).resets_us(), key.resets_us() + 24 * kHourUs);
  EXPECT_EQ(Grant(key, 5000, 1)->granted_micro(), 1000);
}

TEST_F(KeyBudgetTest, BeginsAnewWithTheMonth) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_MONTH);
  EXPECT_EQ(key.resets_us(), books_.now_us() + (20 * 24 + 12) * kHourUs);  // 2026-12-01
  ASSERT_TRUE(Grant(key, 1000, 1000).ok());
  Use(key, last_, 700);
  books_.SetTime(key.resets_us() - 1);
  EXPECT_EQ(Shown(key).used_micro(), 700);
  books_.SetTime(key.resets_us());
  EXPECT_EQ(Shown(key).used_micro(), 0);
}

TEST_F(KeyBudgetTest, ARequestCountsInThePeriodInWhichItsMoneyWasSetAside) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_DAY);
  books_.SetTime(key.resets_us() - 5 * 60'000'000);
  const absl::StatusOr<v1::GrantSliceResponse> late = Grant(key, 1000, 1000);
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(late->ttl_ms(), 300'000U) << "the slice ends with the day";
  const Id16 slice = last_;
  books_.SetTime(key.resets_us() + 60'000'000);
  Use(key, slice, 400);
  EXPECT_EQ(Shown(key).used_micro(), 0) << "yesterday's";
  EXPECT_EQ(books_.Int("SELECT used_micro FROM budget_use ORDER BY from_us LIMIT 1"), 400);
  EXPECT_EQ(Grant(key, 5000, 1)->granted_micro(), 1000);
}

TEST_F(KeyBudgetTest, SoNearTheEndOfAPeriodRequestsHaveHoldsOfTheirOwn) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_DAY);
  books_.SetTime(key.resets_us() - 29'000'000);
  EXPECT_TRUE(Grant(key, 100, 1)->reserve());
}

TEST_F(KeyBudgetTest, IsSharedByTheKeyThatFollowsInARotation) {
  const v1::Key old = NewKey(1000, v1::BUDGET_PERIOD_MONTH);
  ASSERT_TRUE(Grant(old, 600, 600).ok());
  Use(old, last_, 600);
  v1::RotateKeyRequest request;
  request.set_public_id(old.public_id());
  request.set_overlap_s(3600);
  const auto rotate = [&](Database& db) {
    return RotateKey(db, request, Secret(std::string(32, 'p')), books_.now_us());
  };
  v1::Key fresh;
  books_.Do([&](Database& db) {
    absl::StatusOr<CreatedKey> created = rotate(db);
    if (created.ok()) fresh = created->key;
    return created.status();
  });
  EXPECT_NE(fresh.public_id(), old.public_id());
  EXPECT_EQ(fresh.used_micro(), 600);
  EXPECT_EQ(fresh.budget_micro(), 1000);
  EXPECT_EQ(Shown(old).expires_us(), books_.now_us() + kHourUs);
  EXPECT_EQ(Shown(fresh).expires_us(), 0);
  EXPECT_EQ(Grant(fresh, 300, 1)->granted_micro(), 300);
  EXPECT_EQ(Grant(old, 300, 1)->granted_micro(), 100) << "one budget";
  books_.Advance(2 * kHourUs);
  const absl::Status ended = books_.store().WriteAndWait([&](Database& db) { return rotate(db).status(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(ended)) << ended;
}

TEST_F(KeyBudgetTest, ACorrectionGivesBack) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  ASSERT_TRUE(Grant(key, 1000, 1000).ok());
  const v1::UsageRecord record = Use(key, last_, 600);
  Correct(record, 200);
  EXPECT_EQ(Shown(key).used_micro(), 200);
  Correct(record, 900);
  EXPECT_EQ(Shown(key).used_micro(), 200) << "the house pays what nothing was set aside for";
  Correct(record, 300);
  EXPECT_EQ(Shown(key).used_micro(), 200) << "and gets it back first";
}

TEST_F(KeyBudgetTest, ACorrectionGivesBackNothingThatWasNotUsed) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  ASSERT_TRUE(Grant(key, 300, 300).ok());
  Use(key, last_, 300);
  const v1::UsageRecord late = Use(key, last_, 500);  // nothing is left: the house's
  EXPECT_EQ(Shown(key).used_micro(), 300);
  Correct(late, 0);
  EXPECT_EQ(Shown(key).used_micro(), 300);
}

TEST_F(KeyBudgetTest, ARequestThatOutlivedItsDayGivesBackOnTheDayOnWhichItEnded) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_DAY);
  books_.SetTime(key.resets_us() - 5 * 60'000'000);
  ASSERT_TRUE(Grant(key, 1000, 1000).ok());
  const Id16 yesterdays = last_;
  books_.SetTime(key.resets_us() + 60'000'000);
  const v1::UsageRecord first = Use(key, yesterdays, 400), second = Use(key, yesterdays, 500);
  Correct(first, 300);  // nothing is used today
  ASSERT_TRUE(Grant(key, 1000, 1000).ok());
  Use(key, last_, 50);
  Correct(second, 100);
  EXPECT_EQ(Shown(key).used_micro(), 0) << "50 of 400, which is all that is used today";
  Use(key, last_, 70);
  EXPECT_EQ(Shown(key).used_micro(), 70);
  EXPECT_EQ(books_.Int("SELECT used_micro FROM budget_use ORDER BY from_us LIMIT 1"), 900);
}

TEST_F(KeyBudgetTest, PaysForItsOwnKeysAlone) {
  const v1::Key key = NewKey(1000, v1::BUDGET_PERIOD_LIFE), other = NewKey(1000, v1::BUDGET_PERIOD_LIFE);
  ASSERT_TRUE(Grant(key, 600, 600).ok());
  Use(other, last_, 200);
  EXPECT_EQ(Shown(key).used_micro(), 0);
  EXPECT_EQ(Shown(other).used_micro(), 0);
  EXPECT_EQ(books_.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"), 200);
}

TEST_F(KeyBudgetTest, TermsThatMakeNoSenseAreRefused) {
  v1::CreateKeyRequest request;
  request.set_party_name("demo");
  request.set_budget_period(v1::BUDGET_PERIOD_DAY);
  const auto create = [&] {
    return books_.store().WriteAndWait(
        [&](Database& db) { return CreateKey(db, request, Secret(std::string(32, 'p')), books_.now_us()).status(); });
  };
  EXPECT_TRUE(absl::IsInvalidArgument(create())) << "a period of nothing";
  request.set_budget_micro(1);
  request.set_budget_period(static_cast<v1::BudgetPeriod>(9));
  EXPECT_TRUE(absl::IsInvalidArgument(create()));
}

TEST_F(KeyBudgetTest, RacesNeverPassIt) {
  const v1::Key key = NewKey(20'000, v1::BUDGET_PERIOD_LIFE);
  std::atomic<int64_t> used{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      for (int i = 0; i < 100; ++i) {
        Id16 hold;
        const int64_t micro = 1 + static_cast<int64_t>(random() % 400);
        const absl::Status status = Reserve(key, micro, &hold);
        if (!status.ok()) {
          ASSERT_TRUE(absl::IsOutOfRange(status)) << status;
          continue;
        }
        v1::UsageRecord record = books_.Record(Id16{}, static_cast<uint64_t>(micro) * 5, 0);
        record.clear_slice_id();
        record.set_hold_id(hold.ToBytes());
        record.set_key_id(key.key_id());
        books_.Append(record);
        used += micro;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(used, 20'000);
  EXPECT_GT(used, 20'000 - 400) << "and is used up";
  EXPECT_EQ(Shown(key).used_micro(), used);
}

}  // namespace
}  // namespace gantry::billing
