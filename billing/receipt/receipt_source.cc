#include "billing/receipt/receipt_source.h"

#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

// As Read reads them: one row per hop of an event. An event that charges nobody has none.
#define FACTS                                                                                                       \
  "SELECT u.seq, u.received_us, u.outcome, u.request_id, t.party_id, b.party_id, s.party_id, m.name, "              \
  "u.prompt_tokens - u.cached_tokens, u.cached_tokens, u.output_tokens, u.reasoning_tokens, u.requests, "           \
  "coalesce(d.prompt_digest, x''), coalesce(d.output_digest, x''), v.plan_version_id, v.hash, r.amount_pico, "      \
  "p.currency, u.ended_us "                                                                                         \
  "FROM rating r JOIN usage_event u ON u.seq = r.event_seq JOIN party t ON t.party_no = u.party_no "                \
  "JOIN party b ON b.party_no = r.buyer_no JOIN party s ON s.party_no = r.seller_no JOIN model m USING (model_no) " \
  "JOIN plan_version v USING (version_no) JOIN plan p USING (plan_no) "                                             \
  "LEFT JOIN usage_digest d ON d.event_seq = u.seq "

std::vector<ReceiptFacts> Read(Rows rows) {
  std::vector<ReceiptFacts> all;
  while (rows.Next()) {
    ReceiptFacts facts;
    facts.event_seq = rows.Int(0);
    facts.received_us = rows.Int(1);
    facts.correction = rows.Int(2) == v1::USAGE_OUTCOME_CORRECTION;
    facts.request_id = rows.Id(3);
    facts.tenant = rows.Id(4);
    facts.buyer = rows.Id(5);
    facts.seller = rows.Id(6);
    facts.model = rows.Text(7);
    facts.input_tokens = rows.Int(8);
    facts.cached_tokens = rows.Int(9);
    facts.output_tokens = rows.Int(10);
    facts.reasoning_tokens = rows.Int(11);
    facts.requests = rows.Int(12);
    facts.prompt_digest = rows.Text(13);
    facts.output_digest = rows.Text(14);
    facts.plan_version_id = rows.Id(15);
    facts.plan_version_hash = rows.Text(16);
    facts.cost_pico = rows.Int(17);
    facts.currency = rows.Text(18);
    facts.ended_us = rows.Int(19);
    all.push_back(std::move(facts));
  }
  return all;
}

}  // namespace

ReceiptSource ReceiptsFromBooks() {
  ReceiptSource source;
  source.after = [](Database& db, int64_t event_seq, int64_t events) {
    return Read(db.Query(FACTS "WHERE r.event_seq IN (SELECT DISTINCT event_seq FROM rating WHERE event_seq > ? "
                               "ORDER BY event_seq LIMIT ?) ORDER BY r.event_seq, r.level",
                         event_seq, events));
  };
  // In the order of events, which no index on the buyer would give.
  source.of_buyer = [](Database& db, const Id16& buyer, int64_t event_seq, int64_t events) {
    return Read(db.Query(FACTS
                         "WHERE r.event_seq > ? AND +r.buyer_no = (SELECT party_no FROM party WHERE party_id = ?) "
                         "ORDER BY r.event_seq LIMIT ?",
                         event_seq, buyer, events));
  };
  source.of_request = [](Database& db, const Id16& request_id) {
    return Read(db.Query(FACTS "WHERE u.request_id = ? ORDER BY r.event_seq, r.level", request_id));
  };
  source.last_event_seq = [](Database& db) -> int64_t {
    Rows rows = db.Query("SELECT coalesce(max(seq), 0) FROM usage_event");
    return rows.Next() ? rows.Int(0) : 0;
  };
  source.house = [](Database& db) {
    Rows rows = db.Query("SELECT party_id FROM party WHERE kind = 1");
    return rows.Next() ? rows.Id(0) : Id16{};
  };
  return source;
}

}  // namespace gantry::billing
