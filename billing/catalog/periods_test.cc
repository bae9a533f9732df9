#include "billing/catalog/periods.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "billing/catalog/parties.h"
#include "billing/testing/books.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

int64_t Utc(const std::string& time) {
  absl::Time parsed;
  std::string error;
  EXPECT_TRUE(absl::ParseTime("%Y-%m-%d %H:%M", time, absl::UTCTimeZone(), &parsed, &error)) << error;
  return absl::ToUnixMicros(parsed);
}

TEST(Months, BeginAtMidnightOfTheZone) {
  const struct {
    const char* zone;
    int64_t period;
    const char* from;
    const char* to;
  } rows[] = {
      {"UTC", 202602, "2026-02-01 00:00", "2026-03-01 00:00"},
      {"UTC", 202802, "2028-02-01 00:00", "2028-03-01 00:00"},            // a leap day
      {"Europe/Berlin", 202603, "2026-02-28 23:00", "2026-03-31 22:00"},  // summer time begins within
      {"Europe/Berlin", 202610, "2026-09-30 22:00", "2026-10-31 23:00"},  // and ends
      {"Asia/Shanghai", 202601, "2025-12-31 16:00", "2026-01-31 16:00"},
      {"America/New_York", 202611, "2026-11-01 04:00", "2026-12-01 05:00"},  // changes on its first day
      {"Asia/Kathmandu", 202601, "2025-12-31 18:15", "2026-01-31 18:15"},
      {"Pacific/Apia", 201112, "2011-12-01 10:00", "2011-12-31 10:00"},  // a day that never was
  };
  for (const auto& row : rows) {
    const Period month = MonthOf(row.zone, row.period).value();
    EXPECT_EQ(month.from_us, Utc(row.from)) << row.zone << " " << row.period;
    EXPECT_EQ(month.to_us, Utc(row.to)) << row.zone << " " << row.period;
  }
  EXPECT_FALSE(MonthOf("Mars/Olympus", 202601).ok());
}

std::set<std::string> AllZones() {
  std::set<std::string> zones;
  std::ifstream file("/usr/share/zoneinfo/tzdata.zi");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() >= 2 && words[0] == "Z") zones.insert(words[1]);
    if (words.size() >= 3 && words[0] == "L") zones.insert(words[2]);
  }
  return zones;
}

// Every zone x every month of twenty years: contiguous, of a month's length, and whatever happens around a boundary
// (a change of the clock, a leap day, a year) falls into exactly one of the two.
TEST(Months, OfEveryZoneFollowEachOtherForTwentyYears) {
  const std::set<std::string> zones = AllZones();
  ASSERT_GT(zones.size(), 400u) << "the tzdata package has its text form";
  int zone_number = 0;
  int64_t months = 0;
  for (const std::string& zone : zones) {
    if (++zone_number % 6 != 0 && !engine::LongTests()) continue;
    const auto first = MonthOf(zone, 202001);
    ASSERT_TRUE(first.ok()) << zone << ": " << first.status();
    int64_t expected_from = first->from_us;
    for (absl::CivilMonth civil(2020, 1); civil < absl::CivilMonth(2040, 1); ++civil) {
      const int64_t number = civil.year() * 100 + civil.month();
      const Period month = *MonthOf(zone, number);
      ASSERT_EQ(month.from_us, expected_from) << zone << " " << number;
      const absl::Duration length = absl::Microseconds(month.to_us - month.from_us);
      ASSERT_GE(length, absl::Hours(28 * 24 - 25)) << zone << " " << number;
      ASSERT_LE(length, absl::Hours(31 * 24 + 25)) << zone << " " << number;
      for (const int64_t hours : {-49, -25, -3, -2, -1, 0, 1, 2, 3, 25}) {
        for (const int64_t off : {-1, 0, 1}) {
          const int64_t time = month.to_us + hours * 3'600'000'000 + off;
          const int64_t in = MonthAt(zone, time)->period;
          const absl::CivilMonth next = civil + 1;
          ASSERT_EQ(in, time < month.to_us ? number : next.year() * 100 + next.month()) << zone << " " << number;
        }
      }
      expected_from = month.to_us;
      ++months;
    }
  }
  std::printf("%lld months of %zu zones, tzdata %s\n", static_cast<long long>(months), zones.size(),
              TzdataVersion().c_str());
}

TEST(Periods, AreComputedOnceAndStored) {
  Books books;
  const auto at = [&](int64_t time) {
    return books.Get<Period>([&](Database& db) { return OpenPeriodAt(db, *PartyById(db, books.tenant()), time); });
  };
  const Period november = at(books.now_us());
  EXPECT_EQ(november.period, 202611);
  // What a later time zone database says moves nothing: the stored boundary holds, and the next period begins there.
  books.Tamper("UPDATE billing_period SET to_us = to_us + 3600000000");
  EXPECT_EQ(at(november.to_us + 1).period, 202611);
  const Period december = at(november.to_us + 3'600'000'000);
  EXPECT_EQ(december.period, 202612);
  EXPECT_EQ(december.from_us, november.to_us + 3'600'000'000);
  EXPECT_EQ(books.Int("SELECT count(*) FROM billing_period WHERE tzdata <> ''"), 2);
}

TEST(Periods, WhatIsLateGoesToTheFirstThatIsOpen) {
  Books books;
  const auto period = [&] {
    return books
        .Get<Period>([&](Database& db) { return OpenPeriodAt(db, *PartyById(db, books.tenant()), books.now_us()); })
        .period;
  };
  EXPECT_EQ(period(), 202611);
  books.Do([](Database& db) {
    db.Execute("UPDATE billing_period SET closed = 1");
    return absl::OkStatus();
  });
  EXPECT_EQ(period(), 202612);
  EXPECT_EQ(FormatPeriod(period()), "2026-12");
  EXPECT_FALSE(ParsePeriod("2026-13").ok());
  EXPECT_FALSE(ParsePeriod("26-1").ok());
}

}  // namespace
}  // namespace gantry::billing
