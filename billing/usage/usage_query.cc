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
namespace {

constexpr int kUnbilled = v1::USAGE_OUTCOME_UNBILLED;  // the house's affair

// Columns of the workers' witnesses of request `u`, summed; of a correction (outcome 7) there are none.
#define GANTRY_OF_WITNESSES(column) \
  "coalesce((SELECT sum(w." column ") FROM witness w WHERE w.request_id = u.request_id AND u.outcome <> 7), 0)"
// Of device time and energy a gateway hears when a sequence ends; of one that it left before, the workers know.
#define GANTRY_OF_MACHINE(column) "CASE u.device_us WHEN 0 THEN " GANTRY_OF_WITNESSES(column) " ELSE u." column " END"

}  // namespace

absl::StatusOr<v1::QueryUsageResponse> QueryUsage(Database& db, const v1::QueryUsageRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(int64_t size, PageSize(request.page_size()));
  const int64_t to = request.to_us() > 0 ? request.to_us() : now_us + 1;
  v1::QueryUsageResponse response;
  response.set_currency(party.currency);
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
        "SELECT u.request_id, m.name, coalesce(k.public_id, ''), u.outcome, u.prompt_tokens, u.cached_tokens, "
        "u.output_tokens, u.reasoning_tokens, coalesce(r.amount_pico, 0), u.ended_us, coalesce(x.state, 'agreed'), "
        "u.seq, "
        GANTRY_OF_WITNESSES("recomputed_tokens") ", u.drafted_tokens, "
        "u.accepted_tokens, u.duration_ms, u.first_token_ms, " GANTRY_OF_MACHINE("device_us") ", " GANTRY_OF_MACHINE("energy_mj") " "
        "FROM usage_of_party u JOIN model m USING (model_no) LEFT JOIN api_key k USING (key_no) "
        "LEFT JOIN rating r ON r.event_seq = u.seq AND r.level = 0 LEFT JOIN unmatched x USING (request_id) "
        "WHERE u.party_no = ? AND u.ended_us >= ? AND (u.ended_us, u.seq) < (?, ?) AND u.outcome <> ? "
        "ORDER BY u.ended_us DESC, u.seq DESC LIMIT ?",
        party.party_no, request.from_us(), before_us, before_seq, kUnbilled, size + 1);
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
      row->set_prompt_tokens(rows.Int(4));
      row->set_cached_tokens(rows.Int(5));
      row->set_output_tokens(rows.Int(6));
      row->set_reasoning_tokens(rows.Int(7));
      row->set_amount_pico(rows.Int(8));
      row->set_ended_us(rows.Int(9));
      row->set_witness_state(rows.Text(10));
      row->set_recomputed_tokens(rows.Int(12));
      row->set_drafted_tokens(rows.Int(13));
      row->set_accepted_tokens(rows.Int(14));
      row->set_duration_ms(rows.Int(15));
      row->set_first_token_ms(rows.Int(16));
      row->set_device_ms(static_cast<double>(rows.Int(17)) / 1e3);
      row->set_joules(static_cast<double>(rows.Int(18)) / 1e3);
      last = absl::StrCat(rows.Int(9), ":", rows.Int(11));
    }
  }
  // Of memos total(), which does not overflow whatever was reported.
  Rows rows = db.Query(
      "SELECT m.name, sum(u.requests), sum(u.prompt_tokens), sum(u.cached_tokens), sum(u.output_tokens), "
      "sum(coalesce(r.amount_pico, 0)), total(" GANTRY_OF_MACHINE("device_us") "), "
      "total(" GANTRY_OF_MACHINE("energy_mj") ") FROM usage_of_party u JOIN model m "
      "USING (model_no) "
      "LEFT JOIN rating r ON r.event_seq = u.seq AND r.level = 0 "
      "WHERE u.party_no = ? AND u.ended_us >= ? AND u.ended_us < ? AND u.outcome <> ? GROUP BY m.name ORDER BY m.name",
      party.party_no, request.from_us(), to, kUnbilled);
  while (rows.Next()) {
    v1::UsageTotals* total = response.add_totals();
    total->set_model(rows.Text(0));
    total->set_requests(static_cast<uint64_t>(rows.Int(1)));
    total->set_prompt_tokens(static_cast<uint64_t>(rows.Int(2)));
    total->set_cached_tokens(static_cast<uint64_t>(rows.Int(3)));
    total->set_output_tokens(static_cast<uint64_t>(rows.Int(4)));
    total->set_amount_pico(rows.Int(5));
    total->set_device_ms(static_cast<double>(rows.Int(6)) / 1e3);
    total->set_joules(static_cast<double>(rows.Int(7)) / 1e3);
  }
  return response;
}

}  // namespace gantry::billing
