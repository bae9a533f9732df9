// A month counted again from its events is the month that was kept in sums.
#include "billing/usage/recount.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/testing/books.h"
#include "billing/usage/correct.h"

namespace gantry::billing {
namespace {

// "version 1 line 2 model: quantity, pico", one a line.
std::string Text(const std::vector<RollupRow>& rows) {
  std::string text;
  for (const RollupRow& row : rows) {
    absl::StrAppend(&text, row.plan_version_id.ToHex(), " line ", row.line, " ", row.model, ": ", row.quantity, ", ",
                    static_cast<int64_t>(row.amount_pico), "\n");
  }
  return text;
}

TEST(Recount, TiersAndCorrectionsComeOutAsTheyWereKept) {
  Books books;
  books.Do([&](Database& db) {
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("tiers");
    plan.set_currency("EUR");
    for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
      v1::PriceLine* line = plan.add_lines();
      line->set_model_glob("*");
      line->set_token_class(static_cast<v1::TokenClass>(c));
      if (c != v1::TOKEN_CLASS_OUTPUT) {
        line->set_price_micro_per_m(100'000);
        continue;
      }
      line->set_mode(v1::TIER_MODE_GRADUATED);
      for (const auto& [from, price] : {std::pair(0, 900'000), std::pair(1000, 700'000), std::pair(2500, 300'000)}) {
        v1::PriceTier* tier = line->add_tiers();
        tier->set_from(from);
        tier->set_price_micro_per_m(price);
      }
    }
    absl::Status status = PublishPlanVersion(db, plan, books.now_us()).status();
    if (!status.ok()) return status;
    v1::CreatePartyRequest party;
    party.set_kind(v1::PARTY_KIND_TENANT);
    party.set_name("tiered");
    party.set_plan("tiers");
    party.set_credit_limit_micro(1'000'000'000);
    return CreateParty(db, party, books.now_us()).status();
  });
  const PartyRow tiered = books.Get<PartyRow>([](Database& db) { return PartyByName(db, "tiered"); });
  const Id16 slice = books.SliceOf(tiered.party_id, 5'000'000), own = books.Slice(1'000'000);
  v1::UsageRecord first;
  for (int i = 0; i < 6; ++i) {
    v1::UsageRecord record = books.Record(slice, 700, 555);
    record.set_party_id(tiered.party_id.ToBytes());
    record.set_plan_version_id(books.PlanOf(tiered.party_id).ToBytes());
    record.set_model(i % 2 == 0 ? "gantry-demo" : "another");
    record.set_cached_tokens(static_cast<uint64_t>(i) * 50);
    books.Append(record);
    books.Append(books.Record(own, 10, 10));  // of somebody else
    if (i == 0) first = record;
  }
  books.Do([&](Database& db) {
    v1::CorrectUsageRequest request;
    request.set_request_id(first.request_id());
    request.set_prompt_tokens(600);
    request.set_output_tokens(555);
    request.set_reason("test");
    return CorrectUsage(db, request, books.now_us()).status();
  });
  books.Do([&](Database& db) -> absl::Status {
    absl::StatusOr<std::vector<RollupRow>> counted = RecountPeriod(db, tiered.party_no, 202611);
    if (!counted.ok()) return counted.status();
    const std::vector<RollupRow> kept = RollupOf(db, tiered.party_no, 202611);
    EXPECT_EQ(Text(*counted), Text(kept));
    EXPECT_EQ(kept.size(), 8u) << "four classes of two models";
    return absl::OkStatus();
  });
}

// A view that the planner stops seeing through would read all usage of everybody.
TEST(Recount, RowsOfOnePartyAreFoundByTheirIndex) {
  Books books;
  books.Do([](Database& db) -> absl::Status {
    for (const auto& [query, index] :
         {std::pair("SELECT count(*) FROM usage_of_party WHERE party_no = 1",
                    "usage_by_party (<expr>=? AND party_no=?)"),
          std::pair("SELECT sum(amount_micro) FROM transfer_of_account WHERE debit_account = 1 AND booked_us < 5",
                    "transfer_by_debit (<expr>=? AND debit_account=?)"),
          std::pair("SELECT sum(amount_micro) FROM transfer_of_account WHERE credit_account = 1",
                    "transfer_by_credit (<expr>=? AND credit_account=?)"),
          std::pair("SELECT * FROM transfer WHERE source = 1 AND kind > 3", "transfer_by_source (source=?)")}) {
      std::string plan;
      Rows rows = db.QueryText(absl::StrCat("EXPLAIN QUERY PLAN ", query));
      while (rows.Next()) absl::StrAppend(&plan, rows.Text(3), "\n");
      EXPECT_NE(plan.find(index), std::string::npos) << query << "\n" << plan;
    }
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace gantry::billing
