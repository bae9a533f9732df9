#include "billing/usage/event.h"

#include "billing/store/chain.h"

namespace gantry::billing {

std::string EventHash(const std::string& previous, const UsageEvent& e, const std::vector<RatedHop>& hops) {
  ChainHash hash(previous);
  hash.Add(e.seq).Add(e.record_id).Add(e.request_id).Add(e.revision).Add(e.party_no).Add(e.key_no).Add(e.model_no);
  hash.Add(e.outcome).Add(e.prompt_tokens).Add(e.cached_tokens).Add(e.output_tokens).Add(e.reasoning_tokens);
  hash.Add(e.requests).Add(e.witnesses).Add(e.ended_us).Add(e.received_us).Add(e.duration_ms).Add(e.first_token_ms);
  hash.Add(e.drafted_tokens).Add(e.accepted_tokens).Add(e.device_us);
  if (e.energy_mj != 0) hash.Add(e.energy_mj);  // rows from before it was counted keep their hashes
  for (const RatedHop& hop : hops) {
    hash.Add(hop.buyer_no).Add(hop.seller_no).Add(hop.version_no).Add(hop.period).Add(hop.amount_pico);
  }
  return hash.Finish();
}

void InsertEvent(UsageBook& book, const std::vector<Hop>& hops, UsageEvent* e) {
  UsageBook::Tail& tail = book.UsageTail();
  e->seq = tail.next_seq++;
  std::vector<RatedHop> rated;
  for (const Hop& hop : hops) {
    rated.push_back({hop.buyer.party_no, hop.seller_no, hop.terms->version_no, hop.period, hop.net_pico});
  }
  tail.hash = EventHash(tail.hash, *e, rated);
  book.db().Execute(
      "INSERT INTO usage_event (seq, record_id, request_id, revision, party_no, key_no, model_no, outcome, "
      "prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, requests, witnesses, ended_us, received_us, "
      "duration_ms, first_token_ms, drafted_tokens, accepted_tokens, device_us, energy_mj, hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      e->seq, e->record_id, e->request_id, e->revision, e->party_no, e->key_no, e->model_no, e->outcome,
      e->prompt_tokens, e->cached_tokens, e->output_tokens, e->reasoning_tokens, e->requests, e->witnesses, e->ended_us,
      e->received_us, e->duration_ms, e->first_token_ms, e->drafted_tokens, e->accepted_tokens, e->device_us,
      e->energy_mj, Blob{tail.hash});
}

UsageEvent ReadEvent(const Rows& rows) {
  return {.seq = rows.Int(0),
          .record_id = rows.Id(1),
          .request_id = rows.Id(2),
          .revision = rows.Int(3),
          .party_no = rows.Int(4),
          .key_no = rows.Int(5),
          .model_no = rows.Int(6),
          .outcome = rows.Int(7),
          .prompt_tokens = rows.Int(8),
          .cached_tokens = rows.Int(9),
          .output_tokens = rows.Int(10),
          .reasoning_tokens = rows.Int(11),
          .requests = rows.Int(12),
          .witnesses = rows.Int(13),
          .ended_us = rows.Int(14),
          .received_us = rows.Int(15),
          .duration_ms = rows.Int(16),
          .first_token_ms = rows.Int(17),
          .drafted_tokens = rows.Int(18),
          .accepted_tokens = rows.Int(19),
          .device_us = rows.Int(20),
          .energy_mj = rows.Int(21)};
}

std::vector<UsageEvent> EventsOf(Database& db, const Id16& request_id) {
  std::vector<UsageEvent> events;
  Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS " FROM usage_event u WHERE u.request_id = ? ORDER BY u.revision",
                       request_id);
  while (rows.Next()) events.push_back(ReadEvent(rows));
  return events;
}

Id16 DerivedId(const Id16& id, absl::string_view purpose) {
  return *Id16::FromBytes(absl::string_view(ChainHash(id.ToBytes()).Add(purpose).Finish()).substr(0, 16));
}

}  // namespace gantry::billing
