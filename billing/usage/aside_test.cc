// What is reported of a party whose books are wrong waits for its release and is then booked once.
#include "billing/usage/aside.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "billing/ledger/credit.h"
#include "billing/parties/parking.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using testing::HasSubstr;

class Aside : public testing::Test {
 protected:
  void ParkParty(const Id16& id) {
    books_.Do([&](Database& db) -> absl::Status {
      absl::StatusOr<PartyRow> party = PartyById(db, id);
      if (!party.ok()) return party.status();
      Park(db, party->party_no, "transfer 7", "is not what was written", books_.now_us());
      return absl::OkStatus();
    });
  }
  int Release(const std::string& name) {
    books_.Do([&](Database& db) { return Unpark(db, name); });
    return books_.Get<int>([&](Database& db) { return BookAside(db, books_.now_us(), 512); });
  }
  absl::Status Grant(const Id16& party) {
    absl::Status status;
    books_.Do([&](Database& db) {
      v1::GrantSliceRequest request;
      request.set_slice_id(NewTimeOrderedId().ToBytes());
      request.set_gateway_id(books_.gateway().ToBytes());
      request.set_gateway_epoch(1);
      request.set_party_id(party.ToBytes());
      request.set_wanted_micro(1000);
      request.set_minimum_micro(1);
      status = GrantSlice(db, request, books_.now_us()).status();
      return absl::OkStatus();
    });
    return status;
  }
  int64_t Events() { return books_.Int("SELECT count(*) FROM usage_event"); }
  int64_t Kept() { return books_.Int("SELECT count(*) FROM parked_record"); }

  Books books_;
};

TEST_F(Aside, AParkedPartyGetsNoCreditAndItsUsageWaitsForItsRelease) {
  const Id16 slice = books_.Slice(5'000'000);
  const v1::UsageRecord first = books_.Record(slice, 1000, 100), second = books_.Record(slice, 2000, 50);
  books_.Append(first);
  ParkParty(books_.tenant());
  EXPECT_THAT(Grant(books_.tenant()).ToString(), HasSubstr("FAILED_PRECONDITION: party demo is parked"));
  EXPECT_EQ(books_.Append(second).record_ids_size(), 1);
  EXPECT_EQ(books_.Append(second).record_ids_size(), 1) << "a repeat is acknowledged and kept once";
  EXPECT_EQ(books_.Append(first).record_ids_size(), 1) << "what was booked before is known";
  EXPECT_EQ(Events(), 1);
  EXPECT_EQ(Kept(), 1);
  EXPECT_EQ(books_.Get<int>([&](Database& db) { return BookAside(db, books_.now_us(), 512); }), 0);
  books_.Do([&](Database& db) {
    const std::vector<ParkedParty> parked = ParkedParties(db);
    EXPECT_EQ(parked.size(), 1u);
    EXPECT_EQ(parked[0].name, "demo");
    EXPECT_EQ(parked[0].kept_aside, 1);
    EXPECT_EQ(parked[0].reason, "transfer 7: is not what was written");
    return absl::OkStatus();
  });

  books_.Advance(3'600'000'000);
  EXPECT_EQ(Release("demo"), 1);
  EXPECT_EQ(Events(), 2);
  EXPECT_EQ(Kept(), 0);
  EXPECT_EQ(books_.Int("SELECT received_us - ended_us FROM usage_event WHERE seq = 2"), 3'600'000'000);
  EXPECT_EQ(books_.Append(second).record_ids_size(), 1);
  EXPECT_EQ(Events(), 2) << "still booked once";
  EXPECT_TRUE(Grant(books_.tenant()).ok());
  books_.Append(books_.Witness(first, 100));
  books_.Append(books_.Witness(second, 50));
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(Aside, WhoeverBuysFromAParkedResellerWaitsWithIt) {
  const Id16 reseller = books_.NewReseller("north", 50'000'000, 100'000);
  const Id16 tenant = books_.NewTenant("shop", 5'000'000, "north");
  const Id16 slice = books_.SliceOf(tenant, 1'000'000);
  v1::UsageRecord record = books_.Record(slice, 1000, 100);
  record.set_party_id(tenant.ToBytes());
  record.set_plan_version_id(books_.PlanOf(tenant).ToBytes());
  ParkParty(reseller);
  EXPECT_THAT(Grant(tenant).ToString(), HasSubstr("FAILED_PRECONDITION: party north is parked"));
  EXPECT_EQ(books_.Append(record).record_ids_size(), 1);
  EXPECT_EQ(Kept(), 1);
  const Id16 own = books_.Slice(1'000'000);
  EXPECT_FALSE(own.IsZero()) << "others go on";
  books_.Append(books_.Record(own, 10, 10));
  EXPECT_EQ(Events(), 1);
  EXPECT_EQ(Release("north"), 1);
  EXPECT_EQ(Events(), 2);
}

TEST_F(Aside, OtherContentUnderAKnownIdIsRefused) {
  v1::UsageRecord record = books_.Record(books_.Slice(1'000'000), 1000, 100);
  ParkParty(books_.tenant());
  books_.Append(record);
  record.set_age_ms(record.age_ms() + 5000);
  EXPECT_EQ(books_.Append(record).rejected_size(), 0) << "how long it took is no content";
  record.set_output_tokens(101);
  EXPECT_EQ(books_.Append(record).rejected_size(), 1);
}

TEST_F(Aside, OnlyWhoIsParkedCanBeReleased) {
  books_.Do([&](Database& db) {
    EXPECT_EQ(Unpark(db, "demo").ToString(), "FAILED_PRECONDITION: party demo is not parked");
    EXPECT_EQ(Unpark(db, "nobody").code(), absl::StatusCode::kNotFound);
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace gantry::billing
