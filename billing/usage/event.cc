#include "billing/usage/event.h"

#include "billing/store/chain.h"

namespace gantry::billing {

std::string EventHash(const std::string& previous, const UsageEvent& e, const std::vector<RatedHop>& hops) {
  ChainHash hash(previous);
  hash.Add(e.seq).Add(e.record_id).Add(e.request_id).Add(e.party_no).Add(e.key_no).Add(e.credit_id).Add(e.model_no);
  hash.Add(e.outcome).Add(e.prompt_tokens).Add(e.cached_tokens).Add(e.output_tokens).Add(e.reasoning_tokens);
  hash.Add(e.requests).Add(e.witnesses).Add(e.corrects_seq).Add(e.ended_us).Add(e.received_us).Add(e.duration_ms);
  hash.Add(e.first_token_ms).Add(e.drafted_tokens).Add(e.accepted_tokens).Add(e.device_us).Add(e.payload_hash);
  for (const RatedHop& hop : hops) {
    hash.Add(hop.buyer_no).Add(hop.seller_no).Add(hop.version_no).Add(hop.period).Add(hop.amount_pico);
  }
  return hash.Finish();
}

void InsertEvent(Database& db, const std::vector<Hop>& hops, UsageEvent* e) {
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM usage_event ORDER BY seq DESC LIMIT 1"));
  e->seq = tail.next_seq;
  std::vector<RatedHop> rated;
  for (const Hop& hop : hops) {
    rated.push_back({hop.buyer.party_no, hop.seller_no, hop.terms->version_no, hop.period, hop.net_pico});
  }
  db.Execute(
      "INSERT INTO usage_event (seq, record_id, request_id, party_no, key_no, credit_id, model_no, outcome, "
      "prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, requests, witnesses, corrects_seq, ended_us, "
      "received_us, duration_ms, first_token_ms, drafted_tokens, accepted_tokens, device_us, payload_hash, hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      e->seq, e->record_id, e->request_id, e->party_no, e->key_no, Blob{e->credit_id}, e->model_no, e->outcome,
      e->prompt_tokens, e->cached_tokens, e->output_tokens, e->reasoning_tokens, e->requests, e->witnesses,
      e->corrects_seq, e->ended_us, e->received_us, e->duration_ms, e->first_token_ms, e->drafted_tokens,
      e->accepted_tokens, e->device_us, Blob{e->payload_hash}, Blob{EventHash(tail.hash, *e, rated)});
}

UsageEvent ReadEvent(const Rows& rows) {
  return {.seq = rows.Int(0),
          .record_id = rows.Id(1),
          .request_id = rows.Id(2),
          .party_no = rows.Int(3),
          .key_no = rows.Int(4),
          .credit_id = rows.Text(5),
          .model_no = rows.Int(6),
          .outcome = rows.Int(7),
          .prompt_tokens = rows.Int(8),
          .cached_tokens = rows.Int(9),
          .output_tokens = rows.Int(10),
          .reasoning_tokens = rows.Int(11),
          .requests = rows.Int(12),
          .witnesses = rows.Int(13),
          .corrects_seq = rows.Int(14),
          .ended_us = rows.Int(15),
          .received_us = rows.Int(16),
          .duration_ms = rows.Int(17),
          .first_token_ms = rows.Int(18),
          .drafted_tokens = rows.Int(19),
          .accepted_tokens = rows.Int(20),
          .device_us = rows.Int(21),
          .payload_hash = rows.Text(22)};
}

int64_t FindModelNo(Database& db, const std::string& name) {
  Rows rows = db.Query("SELECT model_no FROM model WHERE name = ?", name);
  return rows.Next() ? rows.Int(0) : 0;
}

int64_t ModelNo(Database& db, const std::string& name) {
  const int64_t known = FindModelNo(db, name);
  if (known > 0) return known;
  db.Execute("INSERT INTO model (name) VALUES (?)", name);
  return db.LastRowId();
}

bool FindEvent(Database& db, const Id16& request_id, UsageEvent* event) {
  Rows rows = db.Query(
      "SELECT " GANTRY_USAGE_COLUMNS " FROM usage_event u WHERE u.request_id = ? AND u.corrects_seq = 0", request_id);
  if (!rows.Next()) return false;
  *event = ReadEvent(rows);
  return true;
}

Id16 DerivedId(const Id16& id, absl::string_view purpose) {
  return *Id16::FromBytes(absl::string_view(ChainHash(id.ToBytes()).Add(purpose).Finish()).substr(0, 16));
}

}  // namespace gantry::billing
