#include "billing/catalog/periods.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "billing/parties/calendar.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

absl::CivilMonth CivilOf(int64_t period) {
  return absl::CivilMonth(period / 100, static_cast<int>(period % 100));
}
int64_t NumberOf(absl::CivilMonth month) {
  return month.year() * 100 + month.month();
}

Period Month(absl::CivilMonth month, absl::TimeZone zone) {
  return {.period = NumberOf(month),
          .from_us = CivilStartUs(absl::CivilSecond(month), zone),
          .to_us = CivilStartUs(absl::CivilSecond(month + 1), zone)};
}

// What is stored of a period, or nothing.
bool Stored(Rows rows, Period* period) {
  if (!rows.Next()) return false;
  *period = {rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3) == 1};
  return true;
}

// As computed today, but beginning and ending where stored neighbours say.
absl::StatusOr<Period> Store(Database& db, const PartyRow& party, Period period) {
  {
    Rows rows =
        db.Query("SELECT to_us FROM billing_period WHERE party_no = ? AND period < ? ORDER BY period DESC LIMIT 1",
                 party.party_no, period.period);
    if (rows.Next() && rows.Int(0) > period.from_us) period.from_us = rows.Int(0);
  }
  {
    Rows rows = db.Query("SELECT from_us FROM billing_period WHERE party_no = ? AND period > ? ORDER BY period LIMIT 1",
                         party.party_no, period.period);
    if (rows.Next() && rows.Int(0) < period.to_us) period.to_us = rows.Int(0);
  }
  db.Execute(
      "INSERT INTO billing_period (party_no, period, from_us, to_us, time_zone, tzdata) VALUES (?, ?, ?, ?, ?, ?)",
      party.party_no, period.period, period.from_us, period.to_us, party.time_zone, TzdataVersion());
  return period;
}

absl::StatusOr<Period> StoredOrNew(Database& db, const PartyRow& party, int64_t number) {
  Period period;
  if (Stored(db.Query("SELECT period, from_us, to_us, closed FROM billing_period WHERE party_no = ? AND period = ?",
                      party.party_no, number),
             &period)) {
    return period;
  }
  GANTRY_ASSIGN_OR_RETURN(period, MonthOf(party.time_zone, number));
  return Store(db, party, period);
}

}  // namespace

absl::StatusOr<int64_t> ParsePeriod(const std::string& label) {
  absl::CivilMonth month;
  if (label.size() != 7 || !absl::ParseCivilTime(label, &month) || month.year() < 2020 || month.year() > 9000) {
    return absl::InvalidArgumentError(absl::StrCat("period: expected YYYY-MM, found `", label, "`"));
  }
  return NumberOf(month);
}

std::string FormatPeriod(int64_t period) {
  return absl::StrFormat("%04d-%02d", period / 100, period % 100);
}

absl::StatusOr<Period> MonthAt(const std::string& time_zone, int64_t time_us) {
  GANTRY_ASSIGN_OR_RETURN(const absl::TimeZone zone, ZoneNamed(time_zone));
  const absl::CivilMonth month(zone.At(absl::FromUnixMicros(time_us)).cs);
  Period period = Month(month, zone);
  // A clock set back over midnight of the first shows the old month once more, in what is the new one already.
  if (time_us >= period.to_us) return Month(month + 1, zone);
  return period;
}

absl::StatusOr<Period> MonthOf(const std::string& time_zone, int64_t period) {
  GANTRY_ASSIGN_OR_RETURN(const absl::TimeZone zone, ZoneNamed(time_zone));
  return Month(CivilOf(period), zone);
}

absl::StatusOr<Period> PeriodAt(Database& db, const PartyRow& party, int64_t time_us) {
  Period period;
  if (Stored(db.Query("SELECT period, from_us, to_us, closed FROM billing_period WHERE party_no = ? AND from_us <= ? "
                      "AND to_us > ?",
                      party.party_no, time_us, time_us),
             &period)) {
    return period;
  }
  GANTRY_ASSIGN_OR_RETURN(period, MonthAt(party.time_zone, time_us));
  Period stored;
  // A stored neighbour may reach further than the month would today.
  while (Stored(db.Query("SELECT period, from_us, to_us, closed FROM billing_period WHERE party_no = ? AND period = ?",
                         party.party_no, period.period),
                &stored)) {
    const int64_t next = NumberOf(CivilOf(period.period) + (time_us >= stored.to_us ? 1 : -1));
    GANTRY_ASSIGN_OR_RETURN(period, MonthOf(party.time_zone, next));
  }
  return Store(db, party, period);
}

absl::StatusOr<Period> OpenPeriodAt(Database& db, const PartyRow& party, int64_t time_us) {
  GANTRY_ASSIGN_OR_RETURN(Period period, PeriodAt(db, party, time_us));
  while (period.closed) {
    GANTRY_ASSIGN_OR_RETURN(period, StoredOrNew(db, party, NumberOf(CivilOf(period.period) + 1)));
  }
  return period;
}

absl::StatusOr<Period> PeriodNamed(Database& db, const PartyRow& party, const std::string& label) {
  GANTRY_ASSIGN_OR_RETURN(const int64_t number, ParsePeriod(label));
  Period period;
  if (Stored(db.Query("SELECT period, from_us, to_us, closed FROM billing_period WHERE party_no = ? AND period = ?",
                      party.party_no, number),
             &period)) {
    return period;
  }
  return MonthOf(party.time_zone, number);
}

std::string TzdataVersion() {
  static const std::string version = [] {
    for (const char* path : {"/usr/share/zoneinfo/tzdata.zi", "/usr/share/zoneinfo/+VERSION"}) {
      std::ifstream file(path);
      std::string line;
      if (!std::getline(file, line)) continue;
      constexpr char kHead[] = "# version ";
      return line.starts_with(kHead) ? line.substr(sizeof kHead - 1) : line;
    }
    return std::string("unknown");
  }();
  return version;
}

}  // namespace gantry::billing
