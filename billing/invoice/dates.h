// Days as documents have them: numbers of days since 1970-01-01, of a time zone's calendar. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::billing {

// The day that it is in a time zone. A zone that is not known here counts as UTC.
int64_t DayAt(int64_t time_us, const std::string& time_zone);
// When it begins there.
int64_t StartOfDay(int64_t day, const std::string& time_zone);

std::string FormatDay(int64_t day);  // "2026-11-26"
// INVALID_ARGUMENT names the field.
absl::StatusOr<int64_t> ParseDay(absl::string_view text, const char* field);

}  // namespace gantry::billing
