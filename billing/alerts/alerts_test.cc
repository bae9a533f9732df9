#include "billing/alerts/alerts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "billing/catalog/keys.h"
#include "billing/ledger/key_budget.h"
#include "billing/ledger/lots.h"
#include "billing/outbox/outbox.h"
#include "billing/parties/parking.h"
#include "billing/testing/books.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int64_t kDayUs = 86'400'000'000;

class AlertsTest : public testing::Test {
 protected:
  // "topic: title" of what is new, for each party once.
  std::vector<std::string> Told() {
    bool changed = false;
    books_.Do([&](Database& db) {
      changed = AlertsChanged(db, books_.now_us());
      return absl::OkStatus();
    });
    const int count = books_.Get<int>([&](Database& db) { return TellAlerts(db, books_.now_us()); });
    EXPECT_TRUE(changed || count == 0);
    std::vector<std::string> told;
    books_.Do([&](Database& db) {
      for (const OutboxRow& row : ListOutbox(db, std::nullopt, 0, count)) {
        told.push_back(absl::StrCat(row.topic, ": ", nlohmann::json::parse(row.payload)["title"].get<std::string>()));
      }
      return absl::OkStatus();
    });
    return told;
  }
  void Use(uint64_t output_tokens) {
    const Id16 slice = books_.Slice(9'000'000);
    books_.Append(books_.Record(slice, 0, output_tokens));
  }

  Books books_;
};

TEST_F(AlertsTest, ABalanceIsToldAtEachThresholdOnce) {
  EXPECT_THAT(Told(), IsEmpty());
  Use(7'500'000);  // 6 of 10 EUR
  const std::string half = "balance.threshold: 50 % of the balance of demo is used";
  EXPECT_THAT(Told(), ElementsAre(half, half));  // the tenant and its seller
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(AlertsTest, ATopUpBeginsAnew) {
  EXPECT_THAT(Told(), IsEmpty());
  Use(7'500'000);
  ASSERT_FALSE(Told().empty());
  books_.Do([&](Database& db) {
    absl::StatusOr<PartyRow> party = PartyById(db, books_.tenant());
    return PostCredit(db, *party, {.amount_micro = 10'000'000, .reference = "more"}, books_.now_us());
  });
  EXPECT_THAT(Told(), IsEmpty());
  EXPECT_EQ(books_.Int("SELECT reference_micro FROM alert_state"), 14'000'000);
}

TEST_F(AlertsTest, KeysAndCreditThatExpireAreToldAWeekAndADayAhead) {
  books_.Do([&](Database& db) {
    v1::CreateKeyRequest key;
    key.set_party_name("demo");
    key.set_label("laptop");
    key.set_expires_us(books_.now_us() + 10 * kDayUs);
    GANTRY_RETURN_IF_ERROR(CreateKey(db, key, Secret(std::string(32, 'p')), books_.now_us()).status());
    absl::StatusOr<PartyRow> party = PartyById(db, books_.tenant());
    return PostCredit(db, *party,
                      {.amount_micro = 2'500'000, .expires_us = books_.now_us() + 10 * kDayUs, .reference = "gift"},
                      books_.now_us());
  });
  EXPECT_THAT(Told(), IsEmpty());
  books_.Advance(4 * kDayUs);
  std::vector<std::string> told = Told();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_THAT(told,
              UnorderedElementsAre(testing::MatchesRegex("key.expiring: The key .* .laptop. expires within a week"),
                                   "credit.expiring: 2.50 EUR of credit of demo expire within a week"));
  books_.Advance(5 * kDayUs + kDayUs / 2);
  EXPECT_EQ(Told().size(), 2u);
  books_.Advance(kDayUs);
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(AlertsTest, ARevokedKeyExpiresSilently) {
  books_.Do([&](Database& db) {
    v1::CreateKeyRequest key;
    key.set_party_name("demo");
    key.set_expires_us(books_.now_us() + kDayUs);
    absl::StatusOr<CreatedKey> made = CreateKey(db, key, Secret(std::string(32, 'p')), books_.now_us());
    v1::RevokeKeyRequest revoke;
    revoke.set_public_id(made->key.public_id());
    return RevokeKey(db, revoke, books_.now_us()).status();
  });
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(AlertsTest, ABudgetIsToldToItsPartyAndAgainInTheNextDay) {
  books_.Do([&](Database& db) {
    AddBudget(db, /*key_no=*/1, v1::BUDGET_PERIOD_DAY, 1'000'000);
    return absl::OkStatus();
  });
  const auto use = [&] {
    books_.Do([&](Database& db) -> absl::Status {
      GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyById(db, books_.tenant()));
      GANTRY_ASSIGN_OR_RETURN(const Budget budget, BudgetOf(db, party, books_.key(), books_.now_us()));
      const Id16 credit = NewTimeOrderedId();
      HoldOfBudget(db, budget, credit, 850'000);
      UseBudget(db, credit, 850'000, /*close=*/true);
      return absl::OkStatus();
    });
  };
  use();
  EXPECT_THAT(Told(), ElementsAre(testing::MatchesRegex("budget.threshold: 80 % of the budget of key .* is used")));
  EXPECT_THAT(Told(), IsEmpty());
  books_.Advance(kDayUs);
  EXPECT_THAT(Told(), IsEmpty());
  use();
  EXPECT_EQ(Told().size(), 1u);
}

TEST_F(AlertsTest, AParkedPartyIsToldToTheHouse) {
  books_.Do([&](Database& db) {
    absl::StatusOr<PartyRow> party = PartyById(db, books_.tenant());
    Park(db, party->party_no, "transfer 7", "is not what was written", books_.now_us());
    return absl::OkStatus();
  });
  EXPECT_THAT(Told(), ElementsAre("party.parked: demo is parked"));
  EXPECT_THAT(Told(), IsEmpty());
}

TEST_F(AlertsTest, ContradictingWitnessesAreToldToTheHouseEachTime) {
  for (const uint64_t extra : {1, 2}) {
    const v1::UsageRecord record = books_.Record(books_.Slice(1'000), 10, 10);
    books_.Append(record);
    books_.Append(books_.Witness(record, 10 - extra));
    books_.Advance(1);
    EXPECT_THAT(Told(), ElementsAre("usage.quarantined: Usage of demo is in quarantine"));
    EXPECT_THAT(Told(), IsEmpty());
  }
}

}  // namespace
}  // namespace gantry::billing
