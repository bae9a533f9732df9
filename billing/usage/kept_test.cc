// Usage and credit commands that leave what they read to the next one (Store::WriteKeeping) end with the same books as
// commands that read everything again.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "billing/testing/books.h"
#include "billing/usage/usage.h"

namespace gantry::billing {
namespace {

constexpr int kNewcomers = 8;

class History {
 public:
  History(bool keeps, uint64_t seed) : keeps_(keeps), random_(seed) {
    books_.NewReseller("north", 40'000, 250'000);
    tenants_ = {books_.tenant(), books_.NewTenant("shop", 20'000, "north"), books_.NewTenant("other", 15'000)};
    for (int i = 0; i < kNewcomers; ++i) tenants_.push_back(books_.NewTenant(absl::StrCat("newcomer", i), 0));
    books_.Do([](Database& db) {
      db.Execute("UPDATE party SET credit_limit_micro = 4000 WHERE name LIKE 'newcomer%'");
      return absl::OkStatus();
    });
    // Asked once: a test's questions are commands that keep nothing.
    for (const Id16& tenant : tenants_) plans_.push_back(books_.PlanOf(tenant));
  }

  void Step() {
    switch (Random(8)) {
      case 0:
        return Grant(Tenant(), Random(6'000) + 1);
      case 1:
        return Return(Random(2) == 0);
      case 2:
        return ReserveSome(Tenant(), Random(4'000) + 1);
      case 3:
        return EndOne();
      case 4:
        // Anything else that is written: nothing that was kept holds any more.
        if (Random(4) == 0) Give(Tenant(), Random(3'000) + 1);
        return;
      default:
        return Use(Random(4'000));
    }
  }

  // Somebody who has no account yet asks for more than its limit, and then for less. A refused command leaves no
  // account behind; what knows of it still would set the money aside on one that is not there.
  void Newcome(int which) {
    const size_t tenant = tenants_.size() - kNewcomers + static_cast<size_t>(which);
    const int refused = refused_;
    Grant(tenant, 4'001 + Random(2'000));
    EXPECT_EQ(refused_, refused + 1);
    Grant(tenant, 1 + Random(2'000));
  }

  // Every account, by whose it is.
  std::string Accounts() {
    return books_.Get<std::string>([](Database& db) -> absl::StatusOr<std::string> {
      std::string all;
      Rows rows = db.Query(
          "SELECT p.name, a.type, a.debit_micro, a.credit_micro, a.held_micro, a.residue_pico, (SELECT "
          "coalesce(sum(left_micro), 0) FROM credit_lot l WHERE l.account_no = a.account_no) FROM account a JOIN party "
          "p USING (party_no) ORDER BY p.name, a.type");
      while (rows.Next()) {
        absl::StrAppend(&all, rows.Text(0), " ", rows.Text(1), ": ", rows.Int(2), " ", rows.Int(3), " ", rows.Int(4),
                        " ", rows.Int(5), " ", rows.Int(6), "\n");
      }
      return all;
    });
  }
  Books& books() { return books_; }
  int refused() const { return refused_; }

 private:
  struct Credit {
    size_t tenant;
    Id16 id;
    bool slice;
    int64_t granted = 0, returned = 0;
  };
  int64_t Random(int64_t below) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(below)); }
  size_t Tenant() { return static_cast<size_t>(Random(3)); }

  bool Do(const Store::Command& command) {
    if (!keeps_) return Count(books_.store().WriteAndWait(command));
    absl::Notification over;
    absl::Status result;
    books_.store().WriteKeeping(command, [&](absl::Status status) {
      result = std::move(status);
      over.Notify();
    });
    over.WaitForNotification();
    return Count(result);
  }
  bool Count(const absl::Status& status) {
    refused_ += status.ok() ? 0 : 1;
    return status.ok();
  }

  void Grant(size_t tenant, int64_t micro) {
    v1::GrantSliceRequest request;
    const Id16 id = NewTimeOrderedId();
    request.set_slice_id(id.ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(1);
    request.set_party_id(tenants_[tenant].ToBytes());
    request.set_wanted_micro(micro);
    request.set_minimum_micro(micro);
    int64_t granted = 0;
    Do([&](Database& db) {
      absl::StatusOr<v1::GrantSliceResponse> response = GrantSlice(db, request, books_.now_us());
      if (response.ok()) granted = response->granted_micro();
      return response.status();
    });
    if (granted > 0) credits_.push_back({tenant, id, true, granted});
  }
  void Return(bool close) {
    if (credits_.empty()) return;
    const size_t which = static_cast<size_t>(Random(static_cast<int64_t>(credits_.size())));
    if (!credits_[which].slice) return;
    v1::ReturnSliceRequest request;
    request.set_slice_id(credits_[which].id.ToBytes());
    request.set_returned_micro(Random(credits_[which].granted + 1));  // refused when that much is not left
    request.set_close(close);
    if (Do([&](Database& db) { return ReturnSlice(db, request, books_.now_us()).status(); }) && close) {
      credits_.erase(credits_.begin() + static_cast<std::ptrdiff_t>(which));
    }
  }
  void ReserveSome(size_t tenant, int64_t micro) {
    v1::ReserveRequest request;
    const Id16 id = NewTimeOrderedId();
    request.set_hold_id(id.ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(1);
    request.set_party_id(tenants_[tenant].ToBytes());
    request.set_key_id(books_.key().ToBytes());
    request.set_request_id(NewTimeOrderedId().ToBytes());
    request.set_plan_version_id(plans_[tenant].ToBytes());
    request.set_amount_micro(micro);
    if (!Do([&](Database& db) { return Reserve(db, request, books_.now_us()).status(); })) return;
    credits_.push_back({tenant, id, false, micro});
    v1::ExtendHoldRequest extend;
    extend.set_hold_id(request.hold_id());
    extend.set_add_micro(Random(2'000) + 1);
    extend.set_extension(1);
    Do([&](Database& db) { return ExtendHold(db, extend).status(); });
  }
  void EndOne() {
    if (credits_.empty() || credits_.back().slice) return;
    v1::VoidHoldRequest request;
    request.set_hold_id(credits_.back().id.ToBytes());
    Do([&](Database& db) { return VoidHold(db, request, books_.now_us()).status(); });
    credits_.pop_back();
  }
  void Use(int64_t tokens) {
    if (credits_.empty()) return;
    const size_t which = static_cast<size_t>(Random(static_cast<int64_t>(credits_.size())));
    const Credit credit = credits_[which];
    v1::UsageBatch batch;
    v1::UsageRecord& record = *batch.add_records();
    record = books_.Record(credit.slice ? credit.id : Id16{}, 7, static_cast<uint64_t>(tokens));
    if (!credit.slice) {
      record.clear_slice_id();
      record.set_hold_id(credit.id.ToBytes());
      credits_.erase(credits_.begin() + static_cast<std::ptrdiff_t>(which));
    }
    record.set_party_id(tenants_[credit.tenant].ToBytes());
    record.set_plan_version_id(plans_[credit.tenant].ToBytes());
    Do([&](Database& db) { return AppendUsage(db, batch, books_.now_us()).status(); });
  }
  void Give(size_t tenant, int64_t micro) {
    const LotKind kind = Random(2) == 0 ? LotKind::kBought : LotKind::kPromotional;
    books_.Do([&](Database& db) {
      return PostCredit(db, *PartyById(db, tenants_[tenant]), {.amount_micro = micro, .kind = kind}, books_.now_us());
    });
  }

  const bool keeps_;
  std::mt19937_64 random_;
  Books books_;
  std::vector<Id16> tenants_, plans_;
  std::vector<Credit> credits_;
  int refused_ = 0;
};

TEST(Kept, ReadsLeadToTheSameBooksAsFreshOnes) {
  for (const uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History keeping(/*keeps=*/true, seed), fresh(/*keeps=*/false, seed);
    for (int step = 0; step < 300; ++step) {
      for (History* history : {&keeping, &fresh}) {
        if (step % 30 == 10 && step / 30 < kNewcomers) history->Newcome(step / 30);
        history->Step();
      }
      if (step % 20 != 19) continue;
      ASSERT_EQ(keeping.Accounts(), fresh.Accounts()) << "step " << step;
    }
    EXPECT_EQ(keeping.refused(), fresh.refused());
    EXPECT_GT(keeping.refused(), 10 + kNewcomers) << "some are refused, and leave nothing";
    EXPECT_TRUE(keeping.books().Audited().ok()) << keeping.books().Audited().DebugString();
  }
}

}  // namespace
}  // namespace gantry::billing
