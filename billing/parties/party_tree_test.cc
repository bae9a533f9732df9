#include "billing/parties/party_tree.h"

#include <gtest/gtest.h>

#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

TEST(PartyTreeTest, AsFarAsItReachesFromEachParty) {
  Books books;
  books.NewReseller("north", 0, 0);
  books.NewReseller("far", 0, 0, "north");
  books.NewTenant("shop", 0, "far");
  const auto within = [&](const std::string& party, const std::string& top) {
    return books.Get<bool>([&](Database& db) -> absl::StatusOr<bool> {
      return IsWithin(db, PartyByName(db, party)->party_no, PartyByName(db, top)->party_no);
    });
  };
  for (const char* party : {"house", "north", "far", "shop", "demo"}) {
    EXPECT_TRUE(within(party, "house")) << party;
    EXPECT_TRUE(within(party, party));
  }
  EXPECT_TRUE(within("shop", "far"));
  EXPECT_TRUE(within("shop", "north"));
  EXPECT_FALSE(within("north", "shop")) << "upwards";
  EXPECT_FALSE(within("demo", "north")) << "a neighbour's";
}

TEST(PartyTreeTest, NobodyIsWithinNobody) {
  Books books;
  for (const int64_t number : {int64_t{0}, int64_t{-1}, int64_t{99}}) {
    EXPECT_FALSE(books.Get<bool>([&](Database& db) -> absl::StatusOr<bool> { return IsWithin(db, number, number); }));
    EXPECT_FALSE(books.Get<bool>([&](Database& db) -> absl::StatusOr<bool> { return IsWithin(db, number, 1); }));
    EXPECT_FALSE(books.Get<bool>([&](Database& db) -> absl::StatusOr<bool> { return IsWithin(db, 1, number); }));
  }
}

}  // namespace
}  // namespace gantry::billing
