#include "billing/usage/usage.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/parties/party_tree.h"
#include "billing/usage/aside.h"
#include "billing/usage/event.h"
#include "billing/usage/hops.h"
#include "billing/usage/losses.h"
#include "billing/usage/usage_digest.h"
#include "billing/usage/witness_match.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kBatchLimit = 512;
constexpr size_t kModelNameMax = 256;
constexpr int kRefusedMax = 100'000;  // rows kept

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

int64_t EndOf(uint64_t age_ms, int64_t granted_us, int64_t now_us) {
  constexpr uint64_t kAgeLimitMs = 400ull * 86'400'000;
  const int64_t ended = now_us - static_cast<int64_t>(std::min(age_ms, kAgeLimitMs)) * 1000;
  return std::clamp(ended, std::min(granted_us, now_us), now_us);
}

// Records of witness 2 that must come before this request is settled for good.
int64_t WitnessesNeeded(const v1::UsageRecord& record) {
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
  if (r.prompt_tokens() > kTokensMax || r.output_tokens() > kTokensMax) return Rejected("counts beyond any request");
  if (r.cached_tokens() > r.prompt_tokens()) return Rejected("cached_tokens > prompt_tokens");
  if (r.reasoning_tokens() > r.output_tokens()) return Rejected("reasoning_tokens > output_tokens");
  if (absl::Status digests = CheckDigests(r); !digests.ok()) return Rejected(std::string(digests.message()));
  if (r.model().empty() || r.model().size() > kModelNameMax) return Rejected("model: expected a name of 1..256 bytes");
  return {};
}

// Memo figures are bounded, not refused: they cost nothing.
int64_t Memo(uint64_t value) {
  return static_cast<int64_t>(std::min<uint64_t>(value, kTokensMax));
}
// Thousandths of a memo figure.
int64_t MemoMilli(double value) {
  return std::isfinite(value) && value > 0 ? static_cast<int64_t>(std::min(value, 1e12) * 1000) : 0;
}

UsageEvent EventOf(UsageBook& book, const v1::UsageRecord& record, const PartyRow& tenant, const CreditRef& credit,
                   int64_t now_us) {
  UsageEvent event{.record_id = *Id16::FromBytes(record.record_id()),
                   .request_id = *Id16::FromBytes(record.request_id()),
                   .party_no = tenant.party_no,
                   .key_no = book.KeyNo(*Id16::FromBytes(record.key_id())),
                   .model_no = book.ModelNo(record.model()),
                   .outcome = record.outcome(),
                   .prompt_tokens = static_cast<int64_t>(record.prompt_tokens()),
                   .cached_tokens = static_cast<int64_t>(record.cached_tokens()),
                   .output_tokens = static_cast<int64_t>(record.output_tokens()),
                   .reasoning_tokens = static_cast<int64_t>(record.reasoning_tokens()),
                   .witnesses = WitnessesNeeded(record),
                   .ended_us = EndOf(record.age_ms(), credit.granted_us, now_us),
                   .received_us = now_us,
                   .duration_ms = Memo(record.duration_ms()),
                   .first_token_ms = Memo(record.first_token_ms()),
                   .drafted_tokens = Memo(record.drafted_tokens()),
                   .accepted_tokens = Memo(record.accepted_tokens()),
                   .device_us = MemoMilli(record.device_ms()),
                   .energy_mj = MemoMilli(record.joules())};
  const bool lost_before_anything = record.outcome() == v1::USAGE_OUTCOME_GATEWAY_LOST && event.output_tokens == 0;
  event.requests = record.outcome() == v1::USAGE_OUTCOME_FAILED || lost_before_anything ? 0 : 1;
  return event;
}

// Whether a record says what an event says. How long it took to get here is not part of it, nor is energy, which books
// that did not know of it yet have dropped.
bool SameContent(const UsageEvent& a, const UsageEvent& b) {
  const auto content = [](const UsageEvent& e) {
    return std::tie(e.request_id, e.party_no, e.key_no, e.model_no, e.outcome, e.prompt_tokens, e.cached_tokens,
                    e.output_tokens, e.reasoning_tokens, e.witnesses, e.duration_ms, e.first_token_ms, e.drafted_tokens,
                    e.accepted_tokens, e.device_us);
  };
  return content(a) == content(b);
}

// What the events of a request say to another record of it.
Verdict CheckAgainst(const std::vector<UsageEvent>& events, const UsageEvent& event) {
  for (const UsageEvent& earlier : events) {
    if (earlier.record_id == event.record_id) {
      const bool known = SameContent(earlier, event) || event.outcome == v1::USAGE_OUTCOME_GATEWAY_LOST;
      return known ? Verdict{Verdict::kKnown, ""} : Rejected("record_id is known with other content");
    }
  }
  // A loss that only the worker counted may be followed by the record that was missing.
  if (events.empty() || (events.size() == 1 && events[0].outcome == v1::USAGE_OUTCOME_UNBILLED)) return {};
  return Rejected("the request has a usage record with another id");
}

absl::StatusOr<Verdict> AppendOne(UsageBook& book, const v1::UsageRecord& record, int64_t now_us,
                                  AppendResult* result) {
  Database& db = book.db();
  if (!IsId(record.record_id())) return Rejected("record_id: expected 16 bytes");
  Verdict verdict = CheckUsage(record);
  if (verdict.kind == Verdict::kRejected) return verdict;
  absl::StatusOr<PartyRow> tenant = book.Party(*Id16::FromBytes(record.party_id()));
  if (!tenant.ok() || tenant->depth == 0) return Rejected("party_id: expected a tenant that is known");
  GANTRY_ASSIGN_OR_RETURN(const bool parked, book.IsParked(*tenant));
  if (parked) {
    for (const UsageEvent& booked : EventsOf(db, *Id16::FromBytes(record.request_id()))) {
      if (booked.record_id == *Id16::FromBytes(record.record_id())) return Verdict{Verdict::kKnown, ""};
    }
    return KeepAside(db, record, tenant->party_no, now_us) ? Verdict{}
                                                           : Rejected("record_id is known with other content");
  }
  CreditRef credit = FindCredit(db, Id16::FromBytes(record.slice_id()).value_or(Id16{}),
                                Id16::FromBytes(record.hold_id()).value_or(Id16{}));
  // Somebody else's money pays for nothing, nor does another key's.
  if (credit.party_no != tenant->party_no) credit = {};
  if (credit.budget_no != 0 && !Shares(db, book.KeyNo(*Id16::FromBytes(record.key_id())), credit.budget_no)) {
    credit = {};
  }
  UsageEvent event = EventOf(book, record, *tenant, credit, now_us);
  std::vector<UsageEvent> events = EventsOf(db, event.request_id);
  verdict = CheckAgainst(events, event);
  if (verdict.kind != Verdict::kNew) return verdict;
  absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsOf(db, *Id16::FromBytes(record.plan_version_id()));
  if (!terms.ok()) return Rejected(std::string(terms.status().message()));

  event.revision = static_cast<int64_t>(events.size());
  HopInput input{.tenant = *std::move(tenant),
                 .terms = {*terms},
                 .model = record.model(),
                 .pinned_us = credit.granted_us > 0 ? credit.granted_us : event.ended_us,
                 .ended_us = event.ended_us};
  if (event.requests == 1) {
    input.parts.push_back({{.input = event.prompt_tokens - event.cached_tokens,
                            .cached_input = event.cached_tokens,
                            .output = event.output_tokens,
                            .requests = 1},
                           event.prompt_tokens});
  }
  absl::StatusOr<std::vector<Hop>> hops = RateHops(book, input);
  if (!hops.ok()) return Rejected(std::string(hops.status().message()));
  InsertEvent(book, *hops, &event);
  RecordDigests(db, event.seq, record);
  AppendResult::Counted counted{.outcome = record.outcome(), .currency = (*terms)->currency};
  const Booking booking{.event_seq = event.seq, .model_no = event.model_no, .credit = credit, .now_us = now_us};
  GANTRY_ASSIGN_OR_RETURN(const Charged charged, BookHops(book, *hops, booking));
  counted.posted_micro = charged.micro;
  if (!events.empty()) GANTRY_RETURN_IF_ERROR(ReverseLoss(book, events[0], event.seq, now_us));
  result->counted.push_back(std::move(counted));
  events.push_back(event);
  MatchWitnesses(db, event.request_id, events, WitnessesOf(db, event.request_id), now_us);
  return Verdict{};
}

absl::StatusOr<Verdict> AppendOne(UsageBook& book, int64_t worker_no, const v1::WitnessRecord& record, int64_t now_us,
                                  AppendResult* result) {
  Database& db = book.db();
  if (!IsId(record.record_id()) || !IsId(record.request_id())) {
    return Rejected("record_id and request_id: expected 16 bytes");
  }
  if (record.from_index() > record.to_index() || record.to_index() > kTokensMax ||
      record.prompt_tokens() > kTokensMax || record.cached_tokens() > record.prompt_tokens()) {
    return Rejected("counts are out of order or beyond any request");
  }
  if (record.model().size() > kModelNameMax) return Rejected("model: expected a name of at most 256 bytes");
  const Id16 request = *Id16::FromBytes(record.request_id());
  WitnessRow row{.record_id = *Id16::FromBytes(record.record_id()),
                 .attempt = record.attempt(),
                 .sequence = record.sequence(),
                 .from_index = static_cast<int64_t>(record.from_index()),
                 .to_index = static_cast<int64_t>(record.to_index()),
                 .prompt_tokens = static_cast<int64_t>(record.prompt_tokens()),
                 .cached_tokens = static_cast<int64_t>(record.cached_tokens()),
                 .recomputed_tokens = Memo(record.recomputed_tokens()),
                 .finish_reason = record.finish_reason(),
                 .model_no = book.ModelNo(record.model())};
  if (IsId(record.party_id())) {
    absl::StatusOr<PartyRow> party = book.Party(*Id16::FromBytes(record.party_id()));
    if (party.ok()) row.party_no = party->party_no;
  }
  std::vector<WitnessRow> witnesses = WitnessesOf(db, request);
  for (const WitnessRow& known : witnesses) {
    if (known.record_id != row.record_id) continue;
    if (known == row) return Verdict{Verdict::kKnown, ""};
    return Rejected("record_id is known with other content");
  }
  db.Execute(
      "INSERT INTO witness (record_id, request_id, party_no, worker_no, attempt, sequence, from_index, to_index, "
      "prompt_tokens, cached_tokens, recomputed_tokens, finish_reason, model_no, ended_us, device_us, "
      "energy_mj, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, "
      "gantry_row_hash(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16))",
      row.record_id, request, row.party_no, worker_no, row.attempt, row.sequence, row.from_index, row.to_index,
      row.prompt_tokens, row.cached_tokens, row.recomputed_tokens, row.finish_reason, row.model_no,
      EndOf(record.age_ms(), 0, now_us), MemoMilli(record.device_ms()), MemoMilli(record.joules()));
  result->counted.push_back({});
  witnesses.push_back(row);
  MatchWitnesses(db, request, EventsOf(db, request), witnesses, now_us);
  return Verdict{};
}

template <typename Record>
void Note(Database& db, int witness, const Record& record, const Verdict& verdict, int64_t now_us, v1::UsageAck* ack) {
  if (verdict.kind != Verdict::kRejected) {
    ack->add_record_ids(record.record_id());
    return;
  }
  v1::RejectedRecord* rejected = ack->add_rejected();
  rejected->set_record_id(record.record_id());
  rejected->set_reason(verdict.reason);
  db.Execute(
      "INSERT INTO refused_record (witness, record, reason, received_us) SELECT ?, ?, ?, ? "
      "WHERE (SELECT count(*) FROM refused_record) < ?",
      witness, Blob{record.SerializeAsString()}, verdict.reason, now_us, kRefusedMax);
}

absl::Status CheckBatch(int records) {
  if (records <= kBatchLimit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("records: expected at most ", kBatchLimit, ", found ", records));
}

}  // namespace

absl::StatusOr<AppendResult> AppendUsage(Database& db, const v1::UsageBatch& batch, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckBatch(batch.records_size()));
  AppendResult result;
  UsageBook book(db);
  for (const v1::UsageRecord& record : batch.records()) {
    GANTRY_ASSIGN_OR_RETURN(Verdict verdict, AppendOne(book, record, now_us, &result));
    Note(db, 1, record, verdict, now_us, &result.ack);
  }
  return result;
}

absl::StatusOr<AppendResult> AppendWitness(Database& db, const v1::WitnessBatch& batch, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckBatch(batch.records_size()));
  AppendResult result;
  UsageBook book(db);
  const int64_t worker_no = book.WorkerNo(batch.worker_id());
  for (const v1::WitnessRecord& record : batch.records()) {
    GANTRY_ASSIGN_OR_RETURN(Verdict verdict, AppendOne(book, worker_no, record, now_us, &result));
    Note(db, 2, record, verdict, now_us, &result.ack);
  }
  return result;
}

}  // namespace gantry::billing
