// Days and months as a time zone has them, from the time zone database of the moment.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gantry::billing {

// NOT_FOUND: the system does not know it.
absl::StatusOr<absl::TimeZone> ZoneNamed(const std::string& name);

// When a civil day or month begins. One that begins in a gap of the clock begins when the gap ends; one that begins in
// a repeated hour, at its first pass.
int64_t CivilStartUs(absl::CivilSecond civil, absl::TimeZone zone);

// The day or month [from, to) that `time_us` falls in.
struct CivilSpan {
  int64_t from_us = 0;
  int64_t to_us = 0;
};
absl::StatusOr<CivilSpan> DaySpanAt(const std::string& time_zone, int64_t time_us);
absl::StatusOr<CivilSpan> MonthSpanAt(const std::string& time_zone, int64_t time_us);

}  // namespace gantry::billing
