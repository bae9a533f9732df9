#include "billing/invoice/series.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/store/lineage.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr char kCreditNoteMark[] = "C";

std::string OwnPrefix(int64_t party_no, bool house) {
  return house ? "G" : absl::StrCat("S", party_no, "-");
}

std::string PrefixOf(Database& db, const PartyRow& seller) {
  {
    Rows rows = db.Query("SELECT series_prefix FROM billing_profile WHERE party_no = ? ORDER BY version DESC LIMIT 1",
                         seller.party_no);
    if (rows.Next() && !rows.Text(0).empty()) return rows.Text(0);
  }
  return OwnPrefix(seller.party_no, seller.depth == 0);
}

bool SameNumbers(const std::string& a, const std::string& b) {
  return a == b || absl::StrCat(a, kCreditNoteMark) == b || absl::StrCat(b, kCreditNoteMark) == a;
}

}  // namespace

absl::StatusOr<DocumentNumber> NextNumber(Database& db, const PartyRow& seller, SeriesKind kind, int64_t year) {
  DocumentNumber next;
  next.series =
      absl::StrCat(PrefixOf(db, seller), kind == SeriesKind::kCreditNotes ? kCreditNoteMark : "", year, SeriesMark(db));
  int64_t owner = 0;
  {
    Rows rows = db.Query("SELECT seller_no, kind FROM invoice_series WHERE series = ?", next.series);
    if (rows.Next()) {
      owner = rows.Int(0);
      if (owner != seller.party_no || rows.Int(1) != static_cast<int64_t>(kind)) {
        return absl::FailedPreconditionError(absl::StrCat("the series ", next.series, " is another seller's; give `",
                                                          seller.name, "` another prefix with `gantry profile set`"));
      }
    }
  }
  if (owner == 0) {
    db.Execute("INSERT INTO invoice_series (series, seller_no, kind) VALUES (?, ?, ?)", next.series, seller.party_no,
               static_cast<int64_t>(kind));
  }
  Rows rows = kind == SeriesKind::kInvoices
                  ? db.Query("SELECT coalesce(max(number), 0) + 1 FROM invoice WHERE series = ?", next.series)
                  : db.Query("SELECT coalesce(max(number), 0) + 1 FROM credit_note WHERE series = ?", next.series);
  if (rows.Next()) next.number = rows.Int(0);
  next.name = absl::StrFormat("%s-%06d", next.series, next.number);
  return next;
}

absl::Status CheckSeriesPrefix(Database& db, const PartyRow& seller, const std::string& prefix) {
  if (seller.kind != v1::PARTY_KIND_HOUSE && seller.kind != v1::PARTY_KIND_RESELLER) {
    return absl::InvalidArgumentError(
        absl::StrCat("series_prefix: `", seller.name, "` sells nothing and has no invoice numbers of its own"));
  }
  const bool well_formed = prefix.size() <= 12 && !absl::ascii_isdigit(prefix.back()) &&
                           std::all_of(prefix.begin(), prefix.end(), [](char c) {
                             return absl::ascii_isupper(c) || absl::ascii_isdigit(c) || c == '-';
                           });
  if (!well_formed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "series_prefix: expected 1..12 characters of A-Z, 0-9 and -, the last no digit, found `", prefix, "`"));
  }
  struct Other {
    std::string name, prefix;
  };
  std::vector<Other> others;
  {
    // Also those of earlier versions: their numbers are on paper. And billing's own, which a seller may fall back to.
    Rows rows = db.Query(
        "SELECT p.name, b.series_prefix FROM billing_profile b JOIN party p USING (party_no) "
        "WHERE p.party_no <> ?1 AND b.series_prefix <> '' "
        "UNION SELECT name, CASE WHEN depth = 0 THEN 'G' ELSE 'S' || party_no || '-' END FROM party "
        "WHERE party_no <> ?1 AND kind IN (1, 2)",
        seller.party_no);
    while (rows.Next()) others.push_back({rows.Text(0), rows.Text(1)});
  }
  for (const Other& other : others) {
    if (!SameNumbers(other.prefix, prefix)) continue;
    return absl::AlreadyExistsError(absl::StrCat("series_prefix: `", prefix, "` would make numbers of `", other.name,
                                                 "`, whose prefix is `", other.prefix, "`; choose another one"));
  }
  return absl::OkStatus();
}

}  // namespace gantry::billing
