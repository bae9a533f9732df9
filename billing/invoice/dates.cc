#include "billing/invoice/dates.h"

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"

namespace gantry::billing {
namespace {

absl::TimeZone ZoneOf(const std::string& name) {
  absl::TimeZone zone = absl::UTCTimeZone();
  absl::LoadTimeZone(name, &zone);
  return zone;
}

absl::CivilDay CivilOf(int64_t day) {
  return absl::CivilDay(1970, 1, 1) + day;
}

}  // namespace

int64_t DayAt(int64_t time_us, const std::string& time_zone) {
  return absl::ToCivilDay(absl::FromUnixMicros(time_us), ZoneOf(time_zone)) - absl::CivilDay(1970, 1, 1);
}

int64_t StartOfDay(int64_t day, const std::string& time_zone) {
  const absl::TimeZone::TimeInfo info = ZoneOf(time_zone).At(absl::CivilSecond(CivilOf(day)));
  return absl::ToUnixMicros(info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre);
}

std::string FormatDay(int64_t day) {
  return absl::FormatCivilTime(CivilOf(day));
}

absl::StatusOr<int64_t> ParseDay(absl::string_view text, const char* field) {
  absl::CivilDay day;
  if (text.size() == 10 && absl::ParseCivilTime(text, &day) && day.year() >= 2000 && day.year() <= 9000) {
    return day - absl::CivilDay(1970, 1, 1);
  }
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected a day as YYYY-MM-DD, found `", text, "`"));
}

}  // namespace gantry::billing
