#include "billing/usage/correct.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "billing/parties/party_tree.h"
#include "billing/testing/books.h"
#include "billing/usage/rollup.h"

namespace gantry::billing {
namespace {

absl::StatusOr<v1::UsageRow> Correct(Books& books, const v1::UsageRecord& record, uint64_t prompt, uint64_t output) {
  v1::CorrectUsageRequest request;
  request.set_request_id(record.request_id());
  request.set_prompt_tokens(prompt);
  request.set_output_tokens(output);
  request.set_reason("the worker counted twice");
  return books.Try<v1::UsageRow>([&](Database& db) { return CorrectUsage(db, request, books.now_us()); });
}

TEST(Corrections, GiveBackWhatWasTooMuchAndChargeWhatWasTooLittle) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 0, 1000);
  books.Append(record);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 800);
  auto row = Correct(books, record, 0, 100);
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->output_tokens(), -900);
  EXPECT_EQ(row->amount_pico(), -720'000'000);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 80);
  ASSERT_TRUE(Correct(books, record, 10, 100).ok());
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 80);
  EXPECT_EQ(books.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"), 2)
      << "a correction never takes what nobody has set aside";
  EXPECT_EQ(books.Int("SELECT quantity FROM usage_rollup WHERE position = 2"), 100);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
  EXPECT_TRUE(absl::IsFailedPrecondition(Correct(books, record, 10, 100).status())) << "nothing differs";
}

TEST(Corrections, EndAQuarantine) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 51);
  books.Append(record);
  books.Append(books.Witness(record, 50));
  EXPECT_EQ(books.MatchState(record), "quarantined");
  ASSERT_TRUE(Correct(books, record, 100, 50).ok());
  EXPECT_EQ(books.MatchState(record), "agreed");
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

TEST(Corrections, ReturnToTheHouseWhatTheHouseHadPaid) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(300), 0, 1000);  // 800, of which 300 were held
  books.Append(record);
  ASSERT_TRUE(Correct(books, record, 0, 0).ok());
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000);
  EXPECT_EQ(books.Int("SELECT credit_micro - debit_micro FROM account WHERE type = 'late_unheld'"), 0);
  EXPECT_EQ(books.Int("SELECT credit_micro - debit_micro FROM account WHERE type = 'revenue'"), 0);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

TEST(Corrections, ReturnToTheHouseWhatAnEarlierOneHadItPay) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 0, 1000);
  books.Append(record);
  ASSERT_TRUE(Correct(books, record, 0, 3000).ok());
  EXPECT_EQ(books.Int("SELECT debit_micro - credit_micro FROM account WHERE type = 'late_unheld'"), 1600);
  ASSERT_TRUE(Correct(books, record, 0, 1000).ok());
  EXPECT_EQ(books.Int("SELECT debit_micro - credit_micro FROM account WHERE type = 'late_unheld'"), 0);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 800) << "as if nothing had been corrected";
  ASSERT_TRUE(Correct(books, record, 0, 500).ok());
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 400);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

// ---- which credit comes back ----

constexpr int64_t kDayUs = 86'400'000'000;

// A balance of lots that the cases give, usage at 0.8 micro-units a token, and what is left by kind.
class Lots {
 public:
  explicit Lots(int64_t limit_micro = 0) : tenant_(books_.NewTenant("acme", 0)) {
    books_.Do([&](Database& db) {
      db.Execute("UPDATE party SET credit_limit_micro = ? WHERE name = 'acme'", limit_micro);
      return absl::OkStatus();
    });
  }
  // `expires_days` 0: never.
  void Give(LotKind kind, int64_t micro, int64_t priority = 0, int64_t expires_days = 0) {
    books_.Do([&](Database& db) {
      return PostCredit(db, *PartyById(db, tenant_),
                        {.amount_micro = micro,
                         .kind = kind,
                         .priority = priority,
                         .expires_us = expires_days == 0 ? kNeverExpires : books_.now_us() + expires_days * kDayUs},
                        books_.now_us());
    });
  }
  v1::UsageRecord Use(int64_t micro) { return UseTokens(Tokens(micro), micro); }
  v1::UsageRecord UseTokens(uint64_t tokens, int64_t held_micro) {
    const Id16 slice = books_.SliceOf(tenant_, held_micro);
    v1::UsageRecord record = books_.Record(slice, 0, tokens);
    record.set_party_id(tenant_.ToBytes());
    record.set_plan_version_id(books_.PlanOf(tenant_).ToBytes());
    books_.Append(record);  // no worker is there to contradict a correction
    books_.Do([&](Database& db) {
      v1::ReturnSliceRequest request;
      request.set_slice_id(slice.ToBytes());
      request.set_close(true);
      return ReturnSlice(db, request, books_.now_us()).status();
    });
    return record;
  }
  void CorrectTo(const v1::UsageRecord& record, int64_t micro) {
    const absl::StatusOr<v1::UsageRow> row = Correct(books_, record, 0, Tokens(micro));
    EXPECT_TRUE(row.ok()) << row.status();
  }
  // As a sweep does.
  void Wait(int64_t days) {
    books_.Advance(days * kDayUs);
    Expire();
  }
  void Expire() {
    books_.Do([&](Database& db) { return ExpireLots(db, books_.now_us(), 100).status(); });
  }
  int64_t Left(LotKind kind) {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      Rows rows = db.Query(
          "SELECT coalesce(sum(l.left_micro), 0) FROM credit_lot l JOIN account a USING (account_no) JOIN party p "
          "USING (party_no) WHERE p.name = 'acme' AND l.kind = ?",
          static_cast<int64_t>(kind));
      return rows.Next() ? rows.Int(0) : -1;
    });
  }
  // "given 3 bought 5 gone 0 balance 8"
  std::string State() {
    return absl::StrCat(
        "given ", Left(LotKind::kPromotional), " bought ", Left(LotKind::kBought), " gone ",
        std::max<int64_t>(0, books_.Int("SELECT sum(credit_micro) FROM account WHERE type = 'breakage'")), " balance ",
        books_.FundsOfParty(tenant_).posted_micro);
  }
  int64_t Available() { return books_.FundsOfParty(tenant_).available_micro; }
  void ExpectSound() { EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString(); }
  Books& books() { return books_; }

  static uint64_t Tokens(int64_t micro) { return static_cast<uint64_t>(micro) * 10 / 8; }

 private:
  Books books_;
  Id16 tenant_;
};

constexpr LotKind kGiven = LotKind::kPromotional, kBought = LotKind::kBought;

TEST(Corrections, GiveBackTheKindOfCreditThatHadPaid) {
  struct Case {
    const char* name;
    std::function<void(Lots&)> happens;
    const char* state;
  };
  for (const Case& c : std::vector<Case>{
           {"given credit alone",
            [](Lots& lots) {
              lots.Give(kGiven, 1'000);
              lots.CorrectTo(lots.Use(800), 80);
            },
            "given 920 bought 0 gone 0 balance 920"},
           {"bought credit alone, while given credit waits for its turn",
            [](Lots& lots) {
              lots.Give(kBought, 1'000);
              lots.Give(kGiven, 1'000, /*priority=*/1);
              lots.CorrectTo(lots.Use(800), 80);
            },
            "given 1000 bought 920 gone 0 balance 1920"},
           {"both: what was used last comes back first",
            [](Lots& lots) {
              lots.Give(kBought, 1'000);
              lots.Give(kGiven, 320);
              lots.CorrectTo(lots.Use(800), 400);
            },
            "given 0 bought 920 gone 0 balance 920"},
           {"both: then what was used before it",
            [](Lots& lots) {
              lots.Give(kBought, 1'000);
              lots.Give(kGiven, 320);
              lots.CorrectTo(lots.Use(800), 80);
            },
            "given 240 bought 1000 gone 0 balance 1240"},
           {"both, the bought one first",
            [](Lots& lots) {
              lots.Give(kBought, 320);
              lots.Give(kGiven, 1'000, /*priority=*/1);
              lots.CorrectTo(lots.Use(800), 400);
            },
            "given 920 bought 0 gone 0 balance 920"},
           {"both, in three corrections and back again: the house pays what is too little",
            [](Lots& lots) {
              lots.Give(kBought, 1'000);
              lots.Give(kGiven, 320);
              const v1::UsageRecord record = lots.Use(800);
              lots.CorrectTo(record, 720);
              lots.CorrectTo(record, 240);
              lots.CorrectTo(record, 800);
              lots.CorrectTo(record, 240);
              lots.CorrectTo(record, 0);
            },
            "given 320 bought 1000 gone 0 balance 1320"},
           {"a request of before the gift, corrected after the gift was used",
            [](Lots& lots) {
              lots.Give(kBought, 1'000);
              const v1::UsageRecord record = lots.Use(800);
              lots.Give(kGiven, 400);
              lots.Use(400);
              lots.CorrectTo(record, 0);
            },
            "given 0 bought 1000 gone 0 balance 1000"},
           {"a request of after the gift was used up",
            [](Lots& lots) {
              lots.Give(kGiven, 400);
              lots.Use(400);
              lots.Give(kBought, 1'000);
              lots.CorrectTo(lots.Use(800), 0);
            },
            "given 0 bought 1000 gone 0 balance 1000"},
           {"a gift that has expired since: it expires again",
            [](Lots& lots) {
              lots.Give(kGiven, 1'000, 0, /*expires_days=*/1);
              lots.Give(kBought, 1'000);
              const v1::UsageRecord record = lots.Use(800);
              lots.Wait(2);
              EXPECT_EQ(lots.State(), "given 0 bought 1000 gone 200 balance 1000");
              lots.CorrectTo(record, 0);
              EXPECT_EQ(lots.State(), "given 800 bought 1000 gone 200 balance 1800");
              lots.ExpectSound();
              lots.Expire();
            },
            "given 0 bought 1000 gone 1000 balance 1000"},
           {"two gifts: each its own",
            [](Lots& lots) {
              lots.Give(kGiven, 400, 0, /*expires_days=*/1);
              lots.Give(kGiven, 1'000);
              lots.CorrectTo(lots.Use(800), 160);
              lots.Wait(2);
            },
            "given 1000 bought 0 gone 240 balance 1000"},
       }) {
    SCOPED_TRACE(c.name);
    Lots lots;
    c.happens(lots);
    EXPECT_EQ(lots.State(), c.state);
    lots.ExpectSound();
  }
}

TEST(Corrections, OnACreditLimitGiveBackWhatPaidTheDebt) {
  struct Case {
    const char* name;
    std::function<void(Lots&)> happens;
    const char* state;
  };
  for (const Case& c : std::vector<Case>{
           {"the debt gets smaller", [](Lots& lots) { lots.CorrectTo(lots.Use(800), 80); },
            "given 0 bought 0 gone 0 balance -80"},
           {"a gift has paid the debt",
            [](Lots& lots) {
              const v1::UsageRecord record = lots.Use(800);
              lots.Give(kGiven, 1'000);
              lots.CorrectTo(record, 0);
            },
            "given 1000 bought 0 gone 0 balance 1000"},
           {"a payment and a gift have paid the debt: the gift comes back first",
            [](Lots& lots) {
              const v1::UsageRecord record = lots.Use(800);
              lots.Give(kBought, 480);
              lots.Give(kGiven, 1'000);
              lots.CorrectTo(record, 400);
            },
            "given 1000 bought 80 gone 0 balance 1080"},
           {"what was bought and used after the gift had paid a debt is bought",
            [](Lots& lots) {
              lots.Use(800);
              lots.Give(kGiven, 800);
              lots.Give(kBought, 1'000);
              lots.CorrectTo(lots.Use(800), 0);
            },
            "given 0 bought 1000 gone 0 balance 1000"},
           {"the rest of a gift, then the limit: the limit comes back first",
            [](Lots& lots) {
              lots.Give(kGiven, 480);
              const v1::UsageRecord record = lots.Use(800);
              EXPECT_EQ(lots.State(), "given 0 bought 0 gone 0 balance -320");
              lots.Give(kBought, 1'000);
              lots.CorrectTo(record, 400);
            },
            "given 80 bought 1000 gone 0 balance 1080"},
           {"what comes back pays what is owed, and stays a gift that had paid it",
            [](Lots& lots) {
              lots.Give(kGiven, 800);
              const v1::UsageRecord first = lots.Use(800), second = lots.Use(400);
              lots.CorrectTo(first, 0);
              EXPECT_EQ(lots.State(), "given 400 bought 0 gone 0 balance 400");
              lots.ExpectSound();
              lots.CorrectTo(second, 0);
            },
            "given 800 bought 0 gone 0 balance 800"},
       }) {
    SCOPED_TRACE(c.name);
    Lots lots(/*limit_micro=*/5'000);
    c.happens(lots);
    EXPECT_EQ(lots.State(), c.state);
    lots.ExpectSound();
  }
}

TEST(Corrections, GiveBackCreditOfAResellerToItsLots) {
  Books books;
  const Id16 north = books.NewReseller("north", 1'000'000, 250'000);
  const Id16 shop = books.NewTenant("shop", 1'000'000, "north");
  books.Do([&](Database& db) {
    return PostCredit(db, *PartyById(db, north), {.amount_micro = 300, .kind = kGiven, .priority = -1}, books.now_us());
  });
  v1::UsageRecord record = books.Record(books.SliceOf(shop, 5'000), 0, 1'000);
  record.set_party_id(shop.ToBytes());
  record.set_plan_version_id(books.PlanOf(shop).ToBytes());
  books.Append(record);  // shop pays 1000, north 800: 300 given, 500 bought
  ASSERT_TRUE(Correct(books, record, 0, 100).ok());
  EXPECT_EQ(books.FundsOfParty(shop).posted_micro, 1'000'000 - 100);
  EXPECT_EQ(books.FundsOfParty(north).posted_micro, 1'000'300 - 80);
  EXPECT_EQ(books.Int("SELECT left_micro FROM credit_lot WHERE kind = 1"), 220);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

// Anything in any order, beside a model of a few lines that knows for every request which lots had paid it.
TEST(Corrections, NeverTurnGivenCreditIntoBoughtOrTheOtherWay) {
  struct Lot {
    LotKind kind;
    int64_t priority, expires_us, left;
  };
  struct Request {
    v1::UsageRecord record;
    std::vector<std::pair<size_t, int64_t>> parts;  // lots in the order in which they were used
    int64_t micro = 0;
  };
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    Lots lots;
    std::vector<Lot> model;
    std::vector<Request> requests;
    const auto left = [&](LotKind kind) {
      int64_t sum = 0;
      for (const Lot& lot : model) sum += lot.kind == kind ? lot.left : 0;
      return sum;
    };
    for (int step = 0; step < 60; ++step) {
      const int64_t amount = 8 * (1 + static_cast<int64_t>(random() % 100));
      switch (random() % 5) {
        case 0: {
          const LotKind kind = random() % 2 == 0 ? kGiven : kBought;
          const int64_t days = static_cast<int64_t>(random() % 4), priority = static_cast<int64_t>(random() % 3);
          lots.Give(kind, amount, priority, days);
          model.push_back({kind, priority, days == 0 ? kNeverExpires : lots.books().now_us() + days * kDayUs, amount});
          break;
        }
        case 1:
          lots.Wait(1);
          for (Lot& lot : model) lot.left = lot.expires_us <= lots.books().now_us() ? 0 : lot.left;
          break;
        case 2:
          if (!requests.empty()) {
            Request& request = requests[random() % requests.size()];
            const int64_t to = 8 * static_cast<int64_t>(random() % 100);
            if (to >= request.micro) break;  // beyond it the house pays
            lots.CorrectTo(request.record, to);
            int64_t back = request.micro - to;
            request.micro = to;
            while (back > 0) {
              auto& [lot, used] = request.parts.back();
              const int64_t part = std::min(back, used);
              if (model[lot].kind == kGiven) {
                model[lot].left += part;
              } else {
                model.push_back({kBought, 0, kNeverExpires, part});
              }
              back -= part;
              used -= part;
              if (used == 0) request.parts.pop_back();
            }
            lots.Expire();
            for (Lot& lot : model) lot.left = lot.expires_us <= lots.books().now_us() ? 0 : lot.left;
          }
          break;
        default: {
          if (left(kGiven) + left(kBought) < amount) break;
          Request request{.record = lots.Use(amount), .parts = {}, .micro = amount};
          std::vector<size_t> order;
          for (size_t i = 0; i < model.size(); ++i) order.push_back(i);
          std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
            return std::tuple(model[a].priority, model[a].expires_us, model[a].kind) <
                   std::tuple(model[b].priority, model[b].expires_us, model[b].kind);
          });
          int64_t rest = amount;
          for (const size_t lot : order) {
            const int64_t part = std::min(rest, model[lot].left);
            if (part == 0) continue;
            model[lot].left -= part;
            rest -= part;
            request.parts.emplace_back(lot, part);
          }
          requests.push_back(std::move(request));
        }
      }
      ASSERT_EQ(lots.Left(kGiven), left(kGiven)) << "step " << step;
      ASSERT_EQ(lots.Left(kBought), left(kBought)) << "step " << step;
    }
    lots.ExpectSound();
  }
}

// ---- what a volume tier takes back ----

// 1 micro-unit a token, half of it for all of a month with more than 1,000 of them.
void SellByVolume(Lots& lots) {
  lots.books().Do([&](Database& db) {
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("standard");
    plan.set_currency("EUR");
    for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
      v1::PriceLine* line = plan.add_lines();
      line->set_model_glob("*");
      line->set_token_class(static_cast<v1::TokenClass>(c));
      if (c != v1::TOKEN_CLASS_OUTPUT) continue;
      line->set_mode(v1::TIER_MODE_VOLUME);
      for (const uint64_t from : {0, 1'000}) {
        v1::PriceTier* tier = line->add_tiers();
        tier->set_from(from);
        tier->set_price_micro_per_m(from == 0 ? 1'000'000 : 500'000);
      }
    }
    return PublishPlanVersion(db, plan, lots.books().now_us()).status();
  });
  lots.books().Advance(1);
}

TEST(VolumeTiers, GiveBackCreditThatWasGivenFirstAsFarAsItPaidForTheMonth) {
  Lots lots;
  SellByVolume(lots);
  lots.Give(kGiven, 600);
  lots.Give(kBought, 1'000);
  const v1::UsageRecord first = lots.UseTokens(900, 900);
  EXPECT_EQ(lots.State(), "given 0 bought 700 gone 0 balance 700");
  const v1::UsageRecord second = lots.UseTokens(200, 200);  // 1,100 tokens are 550
  EXPECT_EQ(lots.State(), "given 350 bought 700 gone 0 balance 1050");
  // The first request says still that 600 were given; 250 are left of it.
  EXPECT_TRUE(Correct(lots.books(), first, 0, 0).ok());  // 200 tokens are 200
  EXPECT_EQ(lots.State(), "given 400 bought 1000 gone 0 balance 1400");
  EXPECT_TRUE(Correct(lots.books(), second, 0, 0).ok());
  EXPECT_EQ(lots.State(), "given 600 bought 1000 gone 0 balance 1600");
  lots.ExpectSound();
}

TEST(VolumeTiers, GiveBackWhatWasBoughtWhenGivenCreditPaidForAnotherMonth) {
  Lots lots;
  SellByVolume(lots);
  lots.Give(kGiven, 900);
  lots.UseTokens(900, 900);
  lots.Give(kBought, 2'000);
  lots.books().Advance(25 * kDayUs);  // December
  lots.UseTokens(900, 900);
  lots.UseTokens(200, 200);
  EXPECT_EQ(lots.State(), "given 0 bought 1450 gone 0 balance 1450");
  lots.ExpectSound();
}

TEST(VolumeTiers, OnACreditLimitGiveBackWhatPaidTheDebt) {
  Lots lots(/*limit_micro=*/5'000);
  SellByVolume(lots);
  lots.UseTokens(900, 900);
  lots.Give(kGiven, 700);
  EXPECT_EQ(lots.State(), "given 0 bought 0 gone 0 balance -200");
  lots.UseTokens(200, 200);  // 550 for both
  EXPECT_EQ(lots.State(), "given 150 bought 0 gone 0 balance 150");
  lots.ExpectSound();
}

// Whatever is used and corrected at whatever tier, bought credit never comes to more than was bought.
TEST(VolumeTiers, NeverTurnGivenCreditIntoBought) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    Lots lots(/*limit_micro=*/seed % 2 == 0 ? 0 : 2'000);
    SellByVolume(lots);
    int64_t bought = 0;
    std::vector<v1::UsageRecord> requests;
    for (int step = 0; step < 60; ++step) {
      const int64_t amount = 1 + static_cast<int64_t>(random() % 400);
      switch (random() % 5) {
        case 0:
          lots.Give(kGiven, amount, static_cast<int64_t>(random() % 3));
          break;
        case 1:
          lots.Give(kBought, amount, static_cast<int64_t>(random() % 3));
          bought += amount;
          break;
        case 2:
          if (!requests.empty()) {
            Correct(lots.books(), requests[random() % requests.size()], 0, static_cast<uint64_t>(amount)).IgnoreError();
          }
          break;
        default:
          if (lots.Available() >= amount) requests.push_back(lots.UseTokens(static_cast<uint64_t>(amount), amount));
      }
      ASSERT_LE(lots.Left(kBought), bought) << "step " << step;
    }
    lots.ExpectSound();
  }
}

TEST(Corrections, NeedARequestThatWasBilled) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(300), 0, 10);
  EXPECT_TRUE(absl::IsNotFound(Correct(books, record, 0, 1).status()));
}

}  // namespace
}  // namespace gantry::billing
