#include "billing/usage/usage_book.h"

#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

namespace {

// Of parties or keys: some 30 MB at most.
constexpr size_t kKept = 100'000;

}  // namespace

UsageBook::UsageBook(Database& db) : db_(db), journal_(db), rollups_(db), memory_(db.Kept<UsageMemory>()) {
  if (memory_ == nullptr) memory_ = &own_;
  if (memory_->parties.size() > kKept || memory_->keys.size() > kKept || memory_->models.size() > kKept) *memory_ = {};
}

absl::StatusOr<PartyRow> UsageBook::Party(int64_t party_no) {
  auto found = memory_->parties.find(party_no);
  if (found != memory_->parties.end()) return found->second;
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyByNo(db_, party_no));
  return memory_->parties[party_no] = std::move(row);
}

absl::StatusOr<PartyRow> UsageBook::Party(const Id16& party_id) {
  auto found = memory_->party_numbers.find(party_id);
  if (found != memory_->party_numbers.end()) return Party(found->second);
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyById(db_, party_id));
  memory_->party_numbers[party_id] = row.party_no;
  return memory_->parties[row.party_no] = std::move(row);
}

absl::StatusOr<bool> UsageBook::IsParked(const PartyRow& party) {
  if (party.parked || party.depth <= 1) return party.parked;
  GANTRY_ASSIGN_OR_RETURN(const PartyRow parent, Party(party.parent_no));
  return IsParked(parent);
}

int64_t UsageBook::KeyNo(const Id16& key_id) {
  auto found = memory_->keys.find(key_id);
  if (found != memory_->keys.end()) return found->second;
  Rows rows = db_.Query("SELECT key_no FROM api_key WHERE key_id = ?", key_id);
  return rows.Next() ? memory_->keys[key_id] = rows.Int(0) : 0;
}

int64_t UsageBook::WorkerNo(const std::string& worker_id) {
  auto found = memory_->workers.find(worker_id);
  if (found != memory_->workers.end()) return found->second;
  int64_t number = 0;
  {
    Rows rows = db_.Query("SELECT worker_no FROM worker WHERE worker_id = ?", Blob{worker_id});
    if (rows.Next()) number = rows.Int(0);
  }
  if (number == 0) {
    db_.Execute("INSERT INTO worker (worker_id) VALUES (?)", Blob{worker_id});
    number = db_.LastRowId();
  }
  return memory_->workers[worker_id] = number;
}

absl::StatusOr<PartyRow> UsageBook::House() {
  return HouseOf(db_);
}

int64_t UsageBook::ModelNo(const std::string& name) {
  int64_t& known = memory_->models[name];
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
  TermsSpan& span = memory_->terms[party_no];
  if (span.terms == nullptr || time_us < span.from_us || time_us >= span.until_us) {
    GANTRY_ASSIGN_OR_RETURN(span, TermsSpanAt(db_, party_no, time_us));
  }
  return span.terms;
}

absl::StatusOr<Period> UsageBook::OpenPeriodAt(const PartyRow& party, int64_t time_us) {
  Period& period = memory_->periods[party.party_no];
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
