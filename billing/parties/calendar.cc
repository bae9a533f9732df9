#include "billing/parties/calendar.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

template <typename Civil>
absl::StatusOr<CivilSpan> SpanAt(const std::string& time_zone, int64_t time_us) {
  GANTRY_ASSIGN_OR_RETURN(const absl::TimeZone zone, ZoneNamed(time_zone));
  Civil civil(zone.At(absl::FromUnixMicros(time_us)).cs);
  // A clock set back over midnight shows the old day or month once more, in what is the new one already.
  if (time_us >= CivilStartUs(absl::CivilSecond(civil + 1), zone)) ++civil;
  return CivilSpan{CivilStartUs(absl::CivilSecond(civil), zone), CivilStartUs(absl::CivilSecond(civil + 1), zone)};
}

}  // namespace

absl::StatusOr<absl::TimeZone> ZoneNamed(const std::string& name) {
  absl::TimeZone zone;
  if (absl::LoadTimeZone(name, &zone)) return zone;
  return absl::NotFoundError(absl::StrCat("the time zone `", name, "` is not known here; install the system's tzdata"));
}

int64_t CivilStartUs(absl::CivilSecond civil, absl::TimeZone zone) {
  // `pre` of a repeated hour is its first pass. In a gap `trans` is its end: the first instant of what begins.
  const absl::TimeZone::TimeInfo info = zone.At(civil);
  return absl::ToUnixMicros(info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre);
}

absl::StatusOr<CivilSpan> DaySpanAt(const std::string& time_zone, int64_t time_us) {
  return SpanAt<absl::CivilDay>(time_zone, time_us);
}
absl::StatusOr<CivilSpan> MonthSpanAt(const std::string& time_zone, int64_t time_us) {
  return SpanAt<absl::CivilMonth>(time_zone, time_us);
}

}  // namespace gantry::billing
