#include "billing/usage/usage_query.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/catalog/parties.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<v1::QueryUsageResponse> QueryUsage(Database& db, const v1::QueryUsageRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(v1::Party party, FindParty(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(int64_t size, PageSize(request.page_size()));
  const int64_t to = request.to_us() > 0 ? request.to_us() : now_us + 1;
  const Blob id{party.party_id()};
  v1::QueryUsageResponse response;
  response.set_currency(party.currency());
  // The page token names the last row shown.
  int64_t before_us = to, before_seq = 0;
  if (!request.page_token().empty()) {
    std::vector<std::string> parts = absl::StrSplit(request.page_token(), ':');
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &before_us) || !absl::SimpleAtoi(parts[1], &before_seq)) {
      return absl::InvalidArgumentError("page_token: expected one that an earlier answer gave");
    }
  }
  {
    Rows rows = db.Query(
        "SELECT u.request_id, u.model, coalesce(k.public_id, ''), u.outcome, u.prompt_tokens, u.cached_tokens, "
        "u.output_tokens, u.reasoning_tokens, u.amount_pico, u.ended_us, coalesce(m.state, 'waiting'), u.seq "
        "FROM usage_event u LEFT JOIN api_key k ON k.key_id = u.key_id "
        "LEFT JOIN witness_match m ON m.request_id = u.request_id "
        "WHERE u.party_id = ? AND u.ended_us >= ? AND (u.ended_us, u.seq) < (?, ?) "
        "ORDER BY u.ended_us DESC, u.seq DESC LIMIT ?",
        id, request.from_us(), before_us, before_seq, size + 1);
    std::string last;
    while (rows.Next()) {
      if (response.rows_size() == size) {
        response.set_next_page_token(last);
        break;
      }
      v1::UsageRow* row = response.add_rows();
      row->set_request_id(rows.Text(0));
      row->set_model(rows.Text(1));
      row->set_key_public_id(rows.Text(2));
      row->set_outcome(static_cast<v1::UsageOutcome>(rows.Int(3)));
      row->set_prompt_tokens(static_cast<uint64_t>(rows.Int(4)));
      row->set_cached_tokens(static_cast<uint64_t>(rows.Int(5)));
      row->set_output_tokens(static_cast<uint64_t>(rows.Int(6)));
      row->set_reasoning_tokens(static_cast<uint64_t>(rows.Int(7)));
      row->set_amount_pico(rows.Int(8));
      row->set_ended_us(rows.Int(9));
      row->set_witness_state(rows.Text(10));
      last = absl::StrCat(rows.Int(9), ":", rows.Int(11));
    }
  }
  Rows rows = db.Query(
      "SELECT model, count(*), sum(prompt_tokens), sum(cached_tokens), sum(output_tokens), sum(amount_pico) "
      "FROM usage_event WHERE party_id = ? AND ended_us >= ? AND ended_us < ? GROUP BY model ORDER BY model",
      id, request.from_us(), to);
  while (rows.Next()) {
    v1::UsageTotals* total = response.add_totals();
    total->set_model(rows.Text(0));
    total->set_requests(static_cast<uint64_t>(rows.Int(1)));
    total->set_prompt_tokens(static_cast<uint64_t>(rows.Int(2)));
    total->set_cached_tokens(static_cast<uint64_t>(rows.Int(3)));
    total->set_output_tokens(static_cast<uint64_t>(rows.Int(4)));
    total->set_amount_pico(rows.Int(5));
  }
  return response;
}

}  // namespace gantry::billing
