#include "billing/usage/usage_book.h"

#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<PartyRow> UsageBook::Party(int64_t party_no) {
  auto found = parties_.find(party_no);
  if (found != parties_.end()) return found->second;
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyByNo(db_, party_no));
  return parties_[party_no] = std::move(row);
}

absl::StatusOr<PartyRow> UsageBook::House() {
  return HouseOf(db_);
}

int64_t UsageBook::ModelNo(const std::string& name) {
  int64_t& known = models_[name];
  if (known == 0) {
    Rows rows = db_.Query("SELECT model_no FROM model WHERE name = ?", name);
    if (rows.Next()) known = rows.Int(0);
  }
  if (known == 0) {
    db_.Execute("INSERT INTO model (name) VALUES (?)", name);
    known = db_.LastRowId();
  }
  return known;
}

absl::StatusOr<std::shared_ptr<const PlanTerms>> UsageBook::TermsAt(int64_t party_no, int64_t time_us) {
  TermsSpan& span = terms_[party_no];
  if (span.terms == nullptr || time_us < span.from_us || time_us >= span.until_us) {
    GANTRY_ASSIGN_OR_RETURN(span, TermsSpanAt(db_, party_no, time_us));
  }
  return span.terms;
}

absl::StatusOr<Period> UsageBook::OpenPeriodAt(const PartyRow& party, int64_t time_us) {
  Period& period = periods_[party.party_no];
  if (time_us < period.from_us || time_us >= period.to_us) {
    GANTRY_ASSIGN_OR_RETURN(const Period open, billing::OpenPeriodAt(db_, party, time_us));
    // What is late stands in another month than the one it fell in: nothing to remember.
    if (time_us < open.from_us || time_us >= open.to_us) return open;
    period = open;
  }
  return period;
}

UsageBook::Tail& UsageBook::UsageTail() {
  if (usage_tail_.next_seq == 0) {
    ChainTail tail = TailOf(db_.Query("SELECT seq, hash FROM usage_event ORDER BY seq DESC LIMIT 1"));
    usage_tail_ = {tail.next_seq, std::move(tail.hash)};
  }
  return usage_tail_;
}

}  // namespace gantry::billing
