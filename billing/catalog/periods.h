// The months of a party in its own time zone.
//
// A boundary is computed once, from the time zone database of the moment, and stored: a later version of that database
// moves nothing. Periods of a party are contiguous: each begins where the one before ended. A party keeps the time zone
// that it was created with.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"

namespace gantry::billing {

struct Period {
  int64_t period = 0;  // 202611
  int64_t from_us = 0;
  int64_t to_us = 0;  // exclusive
  bool closed = false;
};

// The period that `time_us` falls in; stored when it is new.
absl::StatusOr<Period> PeriodAt(Database& db, const PartyRow& party, int64_t time_us);
// The same, or the first one after it whose invoice is not final: what is late goes on the next invoice.
absl::StatusOr<Period> OpenPeriodAt(Database& db, const PartyRow& party, int64_t time_us);
// Of a label; not stored by this. INVALID_ARGUMENT: not YYYY-MM.
absl::StatusOr<Period> PeriodNamed(Database& db, const PartyRow& party, const std::string& label);

absl::StatusOr<int64_t> ParsePeriod(const std::string& label);  // "2026-11" -> 202611
std::string FormatPeriod(int64_t period);

// The month [from, to) of a time zone that `time_us` falls in, without any store. Months that begin in a gap of the
// clock begin when the gap ends; those that begin in a repeated hour, at its first pass.
absl::StatusOr<Period> MonthAt(const std::string& time_zone, int64_t time_us);
absl::StatusOr<Period> MonthOf(const std::string& time_zone, int64_t period);

// Version of the system's time zone database, as far as it tells.
std::string TzdataVersion();

}  // namespace gantry::billing
