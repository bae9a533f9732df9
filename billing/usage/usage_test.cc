#include "billing/usage/usage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "billing/ledger/credit.h"
#include "billing/ledger/ledger.h"
#include "billing/testing/books.h"
#include "billing/usage/usage_query.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {
namespace {

constexpr auto kCompleted = v1::USAGE_OUTCOME_COMPLETED;
constexpr auto kStopped = v1::USAGE_OUTCOME_STOPPED;
constexpr auto kAborted = v1::USAGE_OUTCOME_ABORTED;
constexpr auto kFailed = v1::USAGE_OUTCOME_FAILED;
constexpr auto kGatewayLost = v1::USAGE_OUTCOME_GATEWAY_LOST;

Funds FundsNow(Books& books) {
  return books.FundsOfParty(books.tenant());
}

TEST(Usage, IsRatedAndSettledAgainstItsSlice) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  v1::UsageRecord record = books.Record(slice, 100, 50);
  record.set_cached_tokens(40);
  EXPECT_EQ(books.Append(record).record_ids(0), record.record_id());
  // 60 x 200,000 + 40 x 50,000 + 50 x 800,000 = 54,000,000 pico = 54 micro.
  EXPECT_EQ(books.Int("SELECT amount_pico FROM rating"), 54'000'000);
  EXPECT_EQ(books.Int("SELECT spent_micro FROM slice"), 54);
  Funds funds = FundsNow(books);
  EXPECT_EQ(funds.posted_micro, 10'000'000 - 54);
  EXPECT_EQ(funds.held_micro, 1'000'000 - 54);
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Usage, ResiduesNeverLoseAPicoUnit) {
  Books books;
  const Id16 slice = books.Slice(9'000'000);
  std::mt19937_64 random(7);
  __int128 pico = 0;
  for (int i = 0; i < 500; ++i) {
    v1::UsageRecord record = books.Record(slice, random() % 5000, random() % 3000);
    record.set_cached_tokens(record.prompt_tokens() / (1 + random() % 9));
    pico += static_cast<__int128>(record.prompt_tokens() - record.cached_tokens()) * 200'000 +
            static_cast<__int128>(record.cached_tokens()) * 50'000 +
            static_cast<__int128>(record.output_tokens()) * 800'000;
    ASSERT_EQ(books.Append(record).record_ids_size(), 1);
  }
  const auto posted = static_cast<int64_t>(pico / 1'000'000);
  EXPECT_EQ(FundsNow(books).posted_micro, 10'000'000 - posted);
  EXPECT_EQ(books.Int("SELECT residue_pico FROM account WHERE type = 'customer'"),
            static_cast<int64_t>(pico % 1'000'000));
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Usage, ARepeatIsAcknowledgedAndChangesNothing) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  v1::UsageRecord record = books.Record(slice, 100, 50);
  books.Append(record);
  record.set_age_ms(5000);  // sent again later
  EXPECT_EQ(books.Append(record).record_ids_size(), 1);
  EXPECT_EQ(books.Int("SELECT count(*) FROM usage_event"), 1);
  EXPECT_EQ(books.Int("SELECT count(*) FROM transfer WHERE kind = 3"), 1);
}

TEST(Usage, TheSameIdWithOtherContentIsRejected) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 50);
  books.Append(record);
  record.set_output_tokens(51);
  ASSERT_EQ(books.Append(record).rejected_size(), 1);
  v1::UsageRecord second = books.Record(books.Slice(1'000'000), 100, 50);
  second.set_request_id(record.request_id());
  ASSERT_EQ(books.Append(second).rejected_size(), 1) << "one record per request";
}

TEST(Usage, AGatewayThatForgotItsBetterRecordIsAcknowledged) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 50);
  books.Append(record);
  record.set_outcome(kGatewayLost);
  record.set_output_tokens(20);
  EXPECT_EQ(books.Append(record).record_ids_size(), 1);
  EXPECT_EQ(books.Int("SELECT output_tokens FROM usage_event"), 50);
}

TEST(Usage, RecordsThatCannotBeTrueAreRejected) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  const v1::UsageRecord good = books.Record(slice, 100, 50);
  struct Case {
    const char* name;
    std::function<void(v1::UsageRecord*)> spoil;
  };
  for (const Case& c : std::vector<Case>{
           {"cached > prompt", [](auto* r) { r->set_cached_tokens(101); }},
           {"reasoning > output", [](auto* r) { r->set_reasoning_tokens(51); }},
           {"outcome unspecified", [](auto* r) { r->clear_outcome(); }},
           {"short request id", [](auto* r) { r->set_request_id("x"); }},
           {"short record id", [](auto* r) { r->set_record_id("x"); }},
           {"unknown party", [](auto* r) { r->set_party_id(NewTimeOrderedId().ToBytes()); }},
           {"unknown plan", [](auto* r) { r->set_plan_version_id(NewTimeOrderedId().ToBytes()); }},
           {"absurd count", [](auto* r) { r->set_output_tokens(UINT64_MAX); }},
       }) {
    v1::UsageRecord record = good;
    record.set_record_id(NewTimeOrderedId().ToBytes());
    c.spoil(&record);
    v1::UsageAck ack = books.Append(record);
    ASSERT_EQ(ack.rejected_size(), 1) << c.name;
    EXPECT_FALSE(ack.rejected(0).reason().empty()) << c.name;
  }
  EXPECT_EQ(books.Int("SELECT count(*) FROM usage_event"), 0);
}

TEST(Usage, NothingDeliveredCostsNothing) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  books.Append(books.Record(slice, 100, 0, kFailed));
  books.Append(books.Record(slice, 100, 0, kGatewayLost));
  EXPECT_EQ(books.Int("SELECT sum(amount_pico) FROM rating"), 0);
  EXPECT_EQ(books.Int("SELECT sum(requests) FROM usage_event"), 0);
  EXPECT_EQ(books.Int("SELECT count(*) FROM transfer WHERE kind = 3"), 0);
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Usage, WhatItsSliceNoLongerCoversIsTheHousesLoss) {
  Books books;
  const Id16 slice = books.Slice(40);
  books.Append(books.Record(slice, 0, 100));  // 80 micro
  EXPECT_EQ(FundsNow(books).posted_micro, 10'000'000 - 40);
  EXPECT_EQ(books.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"), 40);
  EXPECT_EQ(books.Int("SELECT credit_micro FROM account WHERE type = 'revenue'"), 80);
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Usage, BelongsToTheMonthOfItsEnd) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  books.Advance(25ll * 86'400'000'000);  // 5 December
  v1::UsageRecord late = books.Record(slice, 1, 1);
  late.set_age_ms(10ull * 86'400'000);
  books.Append(late);
  EXPECT_EQ(books.Int("SELECT period = 202611 FROM rating"), 1);
  v1::UsageRecord older_than_its_money = books.Record(slice, 1, 1);
  older_than_its_money.set_age_ms(UINT64_MAX);
  books.Append(older_than_its_money);
  EXPECT_EQ(books.Int("SELECT min(ended_us) = (SELECT granted_us FROM slice) FROM usage_event"), 1) << "clamped";
}

TEST(Usage, PagesAndTotals) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  for (int i = 0; i < 5; ++i) {
    books.Advance(1000);
    books.Append(books.Record(slice, 10, static_cast<uint64_t>(i)));
  }
  v1::QueryUsageRequest request;
  request.set_party_name("demo");
  request.set_page_size(2);
  std::vector<uint64_t> outputs;
  for (int page = 0; page < 10; ++page) {
    auto response =
        books.Get<v1::QueryUsageResponse>([&](Database& db) { return QueryUsage(db, request, books.now_us()); });
    for (const auto& row : response.rows()) outputs.push_back(row.output_tokens());
    ASSERT_EQ(response.totals_size(), 1);
    EXPECT_EQ(response.totals(0).requests(), 5u);
    EXPECT_EQ(response.totals(0).output_tokens(), 10u);
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  EXPECT_EQ(outputs, (std::vector<uint64_t>{4, 3, 2, 1, 0}));
}

TEST(Usage, TellsWhatARequestTookOfTheMachine) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  // One that the gateway heard the end of, one that it left, and one whose energy nobody measured.
  v1::UsageRecord heard = books.Record(slice, 10, 5);
  heard.set_device_ms(12.5);
  heard.set_joules(2.25);
  heard.set_drafted_tokens(4);
  heard.set_accepted_tokens(3);
  heard.set_duration_ms(40);
  heard.set_first_token_ms(7);
  v1::UsageRecord left = books.Record(slice, 10, 5, v1::USAGE_OUTCOME_ABORTED);
  v1::UsageRecord unmeasured = books.Record(slice, 10, 5);
  unmeasured.set_device_ms(1);
  struct {
    v1::UsageRecord* record;
    double device_ms, joules;
    uint64_t recomputed;
  } const cases[] = {{&heard, 12.5, 2.25, 0}, {&left, 30, 0.75, 64}, {&unmeasured, 1, 0, 0}};
  for (const auto& c : cases) {
    books.Advance(1000);
    books.Append(*c.record);
    v1::WitnessRecord witness = books.Witness(*c.record, 5);
    witness.set_device_ms(c.device_ms);
    witness.set_joules(c.joules);
    witness.set_recomputed_tokens(c.recomputed);
    books.Append(witness);
  }
  v1::QueryUsageRequest request;
  request.set_party_name("demo");
  const auto answer =
      books.Get<v1::QueryUsageResponse>([&](Database& db) { return QueryUsage(db, request, books.now_us()); });
  ASSERT_EQ(answer.rows_size(), 3);
  for (int i = 0; i < 3; ++i) {
    const v1::UsageRow& row = answer.rows(2 - i);  // newest first
    EXPECT_EQ(row.request_id(), cases[i].record->request_id());
    EXPECT_EQ(row.device_ms(), cases[i].device_ms) << i;
    EXPECT_EQ(row.joules(), cases[i].joules) << i;
    EXPECT_EQ(row.recomputed_tokens(), static_cast<int64_t>(cases[i].recomputed)) << i;
    EXPECT_EQ(row.drafted_tokens(), i == 0 ? 4 : 0);
    EXPECT_EQ(row.accepted_tokens(), i == 0 ? 3 : 0);
    EXPECT_EQ(row.duration_ms(), i == 0 ? 40 : 0);
    EXPECT_EQ(row.first_token_ms(), i == 0 ? 7 : 0);
  }
  ASSERT_EQ(answer.totals_size(), 1);
  EXPECT_EQ(answer.totals(0).device_ms(), 43.5);
  EXPECT_EQ(answer.totals(0).joules(), 3.0);
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Usage, MemosOfAnySizeAreKeptWithinBounds) {
  Books books;
  const Id16 slice = books.Slice(1'000'000);
  for (const double value : {1e300, -5.0, std::nan("")}) {
    v1::UsageRecord record = books.Record(slice, 10, 5);
    record.set_device_ms(value);
    record.set_joules(value);
    EXPECT_EQ(books.Append(record).record_ids_size(), 1);
  }
  EXPECT_EQ(books.Int("SELECT max(energy_mj) FROM usage_event"), 1'000'000'000'000'000);
  EXPECT_EQ(books.Int("SELECT min(energy_mj + device_us) FROM usage_event"), 0);
  EXPECT_TRUE(books.Audited().ok());
}

}  // namespace
}  // namespace gantry::billing
