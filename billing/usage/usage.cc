#include "billing/usage/usage.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/ledger.h"
#include "billing/rating/rating.h"
#include "billing/store/chain.h"
#include "billing/store/clock.h"
#include "billing/usage/witness_match.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kBatchLimit = 512;
constexpr uint64_t kTokenLimit = uint64_t{1} << 40;  // far above any request, far below an overflow

// Which records of a batch were new, known or refused.
struct Verdict {
  enum Kind { kNew, kKnown, kRejected } kind = kNew;
  std::string reason;
};
Verdict Rejected(std::string reason) {
  return {Verdict::kRejected, std::move(reason)};
}

bool IsId(const std::string& bytes) {
  return bytes.size() == 16;
}

// What identifies the content of a record: everything but the time it took to get here.
template <typename Record>
std::string PayloadHash(Record record) {
  record.clear_age_ms();
  return Sha256(record.SerializeAsString());
}

int64_t EndOf(uint64_t age_ms, int64_t granted_us, int64_t now_us) {
  constexpr uint64_t kAgeLimitMs = 400ull * 86'400'000;
  const int64_t ended = now_us - static_cast<int64_t>(std::min(age_ms, kAgeLimitMs)) * 1000;
  return std::clamp(ended, std::min(granted_us, now_us), now_us);
}

// The month whose invoice can still take it.
std::string OpenPeriod(Database& db, const Id16& party, int64_t ended_us) {
  std::string period = PeriodOf(ended_us);
  Rows rows = db.Query("SELECT period FROM invoice WHERE party_id = ? AND period >= ? ORDER BY period", party, period);
  while (rows.Next()) {
    if (rows.Text(0) != period) break;
    absl::CivilMonth month;
    if (!absl::ParseCivilTime(period, &month)) break;
    period = absl::FormatCivilTime(month + 1);
  }
  return period;
}

// Records of witness 2 that must come before this request is settled for good.
int64_t WitnessesOf(const v1::UsageRecord& record) {
  if (record.outcome() == v1::USAGE_OUTCOME_FAILED) return 0;
  // A gateway that died does not know whether a worker ever heard of the request.
  if (record.outcome() == v1::USAGE_OUTCOME_GATEWAY_LOST && record.output_tokens() == 0) return 0;
  int64_t count = 0;
  for (const v1::SequenceUsage& sequence : record.sequences()) count += sequence.attempts() > 0 ? 1 : 0;
  return record.output_tokens() > 0 ? std::max<int64_t>(count, 1) : count;
}

Verdict CheckUsage(const v1::UsageRecord& r) {
  if (!IsId(r.request_id()) || !IsId(r.party_id()) || !IsId(r.key_id()) || !IsId(r.plan_version_id())) {
    return Rejected("request_id, party_id, key_id and plan_version_id: expected 16 bytes each");
  }
  if ((!r.slice_id().empty() && !IsId(r.slice_id())) || (!r.hold_id().empty() && !IsId(r.hold_id()))) {
    return Rejected("slice_id, hold_id: expected 16 bytes or nothing");
  }
  if (r.outcome() < v1::USAGE_OUTCOME_COMPLETED || r.outcome() > v1::USAGE_OUTCOME_GATEWAY_LOST) {
    return Rejected("outcome is not specified");
  }
  if (r.prompt_tokens() > kTokenLimit || r.output_tokens() > kTokenLimit) return Rejected("counts beyond any request");
  if (r.cached_tokens() > r.prompt_tokens()) return Rejected("cached_tokens > prompt_tokens");
  if (r.reasoning_tokens() > r.output_tokens()) return Rejected("reasoning_tokens > output_tokens");
  return {};
}

Id16 DerivedId(const std::string& record_id, absl::string_view purpose) {
  return *Id16::FromBytes(absl::string_view(ChainHash(record_id).Add(purpose).Finish()).substr(0, 16));
}

// Moves what the request costs; returns what went to revenue.
absl::StatusOr<int64_t> Settle(Database& db, const v1::UsageRecord& record, const Id16& party, int64_t amount_pico,
                               int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(House house, HouseOf(db));
  GANTRY_ASSIGN_OR_RETURN(Funds funds, FundsOf(db, party));
  const Account prepaid = AccountOf(db, party, "prepaid", funds.currency);
  int64_t residue = prepaid.residue_pico;
  const int64_t micro = PostableMicro(amount_pico, &residue);
  db.Execute("UPDATE account SET residue_pico = ? WHERE account_id = ?", residue, prepaid.account_id);
  const Id16 slice = Id16::FromBytes(record.slice_id()).value_or(Id16{});
  const Id16 hold = Id16::FromBytes(record.hold_id()).value_or(Id16{});
  // Also for nothing: a hold of its own ends with its request.
  const int64_t covered = TakeHeld(db, party, slice, hold, micro);
  const Account revenue = AccountOf(db, house.party_id, "revenue", funds.currency);
  const Id16 record_id = *Id16::FromBytes(record.record_id());
  Transfer transfer{.credit_account = revenue.account_id,
                    .currency = funds.currency,
                    .kind = "usage",
                    .source_id = record_id,
                    .booked_us = now_us};
  if (covered > 0) {
    transfer.transfer_id = record_id;
    transfer.debit_account = prepaid.account_id;
    transfer.amount_micro = covered;
    GANTRY_RETURN_IF_ERROR(Post(db, transfer));
  }
  if (micro > covered) {
    transfer.transfer_id = DerivedId(record.record_id(), "late_unheld");
    transfer.debit_account = AccountOf(db, house.party_id, "late_unheld", funds.currency).account_id;
    transfer.amount_micro = micro - covered;
    transfer.reference = "no money was held for it any more";
    GANTRY_RETURN_IF_ERROR(Post(db, transfer));
  }
  return micro;
}

absl::StatusOr<Verdict> AppendOne(Database& db, const v1::UsageRecord& record, int64_t now_us, AppendResult* result) {
  if (!IsId(record.record_id())) return Rejected("record_id: expected 16 bytes");
  const std::string payload_hash = PayloadHash(record);
  {
    Rows rows = db.Query("SELECT payload_hash FROM usage_event WHERE record_id = ?", Blob{record.record_id()});
    if (rows.Next()) {
      if (rows.Text(0) == payload_hash || record.outcome() == v1::USAGE_OUTCOME_GATEWAY_LOST) {
        return Verdict{Verdict::kKnown, ""};
      }
      return Rejected("record_id is known with other content");
    }
  }
  Verdict verdict = CheckUsage(record);
  if (verdict.kind == Verdict::kRejected) return verdict;
  const Id16 party = *Id16::FromBytes(record.party_id());
  const Id16 request = *Id16::FromBytes(record.request_id());
  {
    Rows rows = db.Query("SELECT 1 FROM usage_event WHERE request_id = ?", request);
    if (rows.Next()) return Rejected("the request has a usage record with another id");
  }
  {
    Rows rows = db.Query("SELECT 1 FROM party WHERE party_id = ?", party);
    if (!rows.Next()) return Rejected("no such party");
  }
  const Id16 plan = *Id16::FromBytes(record.plan_version_id());
  absl::StatusOr<std::vector<PriceLine>> lines = LinesOf(db, plan);
  if (!lines.ok()) return Rejected(std::string(lines.status().message()));

  const bool billed = record.outcome() != v1::USAGE_OUTCOME_FAILED &&
                      !(record.outcome() == v1::USAGE_OUTCOME_GATEWAY_LOST && record.output_tokens() == 0);
  Quantities quantities;
  if (billed) {
    quantities.input = static_cast<int64_t>(record.prompt_tokens() - record.cached_tokens());
    quantities.cached_input = static_cast<int64_t>(record.cached_tokens());
    quantities.output = static_cast<int64_t>(record.output_tokens());
    quantities.requests = 1;
  }
  absl::StatusOr<int64_t> amount = Rate(*lines, record.model(), quantities);
  if (!amount.ok()) return Rejected(std::string(amount.status().message()));

  const Id16 slice = Id16::FromBytes(record.slice_id()).value_or(Id16{});
  const Id16 hold = Id16::FromBytes(record.hold_id()).value_or(Id16{});
  const int64_t ended_us = EndOf(record.age_ms(), GrantedAt(db, slice, hold), now_us);
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM usage_event ORDER BY seq DESC LIMIT 1"));
  const std::string period = OpenPeriod(db, party, ended_us);
  const std::string hash = ChainHash(tail.hash)
                               .Add(tail.next_seq)
                               .Add(record.record_id())
                               .Add(request)
                               .Add(party)
                               .Add(record.key_id())
                               .Add(record.model())
                               .Add(plan)
                               .Add(static_cast<int64_t>(record.outcome()))
                               .Add(static_cast<int64_t>(record.prompt_tokens()))
                               .Add(static_cast<int64_t>(record.cached_tokens()))
                               .Add(static_cast<int64_t>(record.output_tokens()))
                               .Add(quantities.requests)
                               .Add(*amount)
                               .Add(ended_us)
                               .Add(period)
                               .Add(payload_hash)
                               .Finish();
  db.Execute(
      "INSERT INTO usage_event (seq, record_id, request_id, party_id, key_id, hold_id, slice_id, model, "
      "plan_version_id, outcome, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, requests, amount_pico, "
      "witnesses, ended_us, received_us, period, duration_ms, first_token_ms, payload_hash, hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      tail.next_seq, Blob{record.record_id()}, request, party, Blob{record.key_id()}, Blob{record.hold_id()},
      Blob{record.slice_id()}, record.model(), plan, static_cast<int64_t>(record.outcome()), record.prompt_tokens(),
      record.cached_tokens(), record.output_tokens(), record.reasoning_tokens(), quantities.requests, *amount,
      WitnessesOf(record), ended_us, now_us, period, record.duration_ms(), record.first_token_ms(), Blob{payload_hash},
      Blob{hash});
  AppendResult::Counted counted;
  counted.outcome = record.outcome();
  GANTRY_ASSIGN_OR_RETURN(counted.posted_micro, Settle(db, record, party, *amount, now_us));
  GANTRY_ASSIGN_OR_RETURN(Funds funds, FundsOf(db, party));
  counted.currency = funds.currency;
  result->counted.push_back(std::move(counted));
  MatchWitnesses(db, request, now_us);
  return Verdict{};
}

absl::StatusOr<Verdict> AppendOne(Database& db, const std::string& worker_id, const v1::WitnessRecord& record,
                                  int64_t now_us, AppendResult* result) {
  if (!IsId(record.record_id()) || !IsId(record.request_id())) {
    return Rejected("record_id and request_id: expected 16 bytes");
  }
  const std::string payload_hash = PayloadHash(record);
  {
    Rows rows = db.Query("SELECT payload_hash FROM witness WHERE record_id = ?", Blob{record.record_id()});
    if (rows.Next()) {
      if (rows.Text(0) == payload_hash) return Verdict{Verdict::kKnown, ""};
      return Rejected("record_id is known with other content");
    }
  }
  if (record.from_index() > record.to_index() || record.to_index() > kTokenLimit ||
      record.prompt_tokens() > kTokenLimit || record.cached_tokens() > record.prompt_tokens()) {
    return Rejected("counts are out of order or beyond any request");
  }
  db.Execute(
      "INSERT INTO witness (record_id, request_id, worker_id, attempt, sequence, from_index, to_index, prompt_tokens, "
      "cached_tokens, finish_reason, model, ended_us, received_us, payload_hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      Blob{record.record_id()}, Blob{record.request_id()}, Blob{worker_id}, record.attempt(), record.sequence(),
      record.from_index(), record.to_index(), record.prompt_tokens(), record.cached_tokens(),
      static_cast<int64_t>(record.finish_reason()), record.model(), EndOf(record.age_ms(), 0, now_us), now_us,
      Blob{payload_hash});
  result->counted.push_back({});
  MatchWitnesses(db, *Id16::FromBytes(record.request_id()), now_us);
  return Verdict{};
}

void Note(const std::string& record_id, const Verdict& verdict, v1::UsageAck* ack) {
  if (verdict.kind != Verdict::kRejected) {
    ack->add_record_ids(record_id);
    return;
  }
  v1::RejectedRecord* rejected = ack->add_rejected();
  rejected->set_record_id(record_id);
  rejected->set_reason(verdict.reason);
}

absl::Status CheckBatch(int records) {
  if (records <= kBatchLimit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("records: expected at most ", kBatchLimit, ", found ", records));
}

}  // namespace

absl::StatusOr<AppendResult> AppendUsage(Database& db, const v1::UsageBatch& batch, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckBatch(batch.records_size()));
  AppendResult result;
  for (const v1::UsageRecord& record : batch.records()) {
    GANTRY_ASSIGN_OR_RETURN(Verdict verdict, AppendOne(db, record, now_us, &result));
    Note(record.record_id(), verdict, &result.ack);
  }
  return result;
}

absl::StatusOr<AppendResult> AppendWitness(Database& db, const v1::WitnessBatch& batch, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckBatch(batch.records_size()));
  AppendResult result;
  for (const v1::WitnessRecord& record : batch.records()) {
    GANTRY_ASSIGN_OR_RETURN(Verdict verdict, AppendOne(db, batch.worker_id(), record, now_us, &result));
    Note(record.record_id(), verdict, &result.ack);
  }
  return result;
}

std::string UsageRowHash(const std::string& previous, const Rows& rows) {
  ChainHash hash(previous);
  hash.Add(rows.Int(0));
  for (int column = 1; column <= 6; ++column) hash.Add(rows.Text(column));
  for (int column = 7; column <= 13; ++column) hash.Add(rows.Int(column));
  return hash.Add(rows.Text(14)).Add(rows.Text(15)).Finish();
}

}  // namespace gantry::billing
