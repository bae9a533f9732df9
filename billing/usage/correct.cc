#include "billing/usage/correct.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/usage/event.h"
#include "billing/usage/hops.h"
#include "billing/usage/usage.h"
#include "billing/usage/witness_match.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

struct Counts {
  int64_t prompt = 0, cached = 0, output = 0;
};

UsagePart PartOf(const Counts& counts, int64_t sign) {
  return {{.input = sign * (counts.prompt - counts.cached),
           .cached_input = sign * counts.cached,
           .output = sign * counts.output,
           .requests = sign},
          counts.prompt};
}

// The record that was billed: the request's first event, or what came after that was booked as a loss.
absl::StatusOr<UsageEvent> BilledEvent(Database& db, const UsageEvent& first) {
  if (first.outcome != v1::USAGE_OUTCOME_UNBILLED) return first;
  Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS
                       " FROM usage_event u WHERE u.corrects_seq = ? AND u.corrects_seq > 0 AND u.outcome <> ? ORDER BY u.seq LIMIT 1",
                       first.seq, static_cast<int64_t>(v1::USAGE_OUTCOME_CORRECTION));
  if (!rows.Next()) {
    return absl::FailedPreconditionError(
        "no gateway has reported the request: nothing was billed that could be corrected");
  }
  return ReadEvent(rows);
}

absl::StatusOr<std::vector<std::shared_ptr<const PlanTerms>>> TermsOfEvent(Database& db, int64_t seq) {
  std::vector<Id16> ids;
  {
    Rows rows = db.Query(
        "SELECT v.plan_version_id FROM rating r JOIN plan_version v USING (version_no) WHERE r.event_seq = ? "
        "ORDER BY r.level",
        seq);
    while (rows.Next()) ids.push_back(rows.Id(0));
  }
  std::vector<std::shared_ptr<const PlanTerms>> terms;
  for (const Id16& id : ids) {
    GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> version, TermsOf(db, id));
    terms.push_back(std::move(version));
  }
  return terms;
}

}  // namespace

absl::StatusOr<v1::UsageRow> CorrectUsage(Database& db, const v1::CorrectUsageRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const Id16 request_id, Id16::FromBytes(request.request_id()));
  if (request.reason().empty() || request.reason().size() > 140) {
    return absl::InvalidArgumentError("reason: expected 1..140 bytes; it stands in the audit log");
  }
  if (request.prompt_tokens() > kTokensMax || request.output_tokens() > kTokensMax ||
      request.cached_tokens() > request.prompt_tokens()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected cached_tokens <= prompt_tokens <= ", kTokensMax, ", output_tokens <= ", kTokensMax));
  }
  UsageEvent first;
  if (!FindEvent(db, request_id, &first)) {
    return absl::NotFoundError(absl::StrCat("no usage of request ", request_id.ToHex()));
  }
  GANTRY_ASSIGN_OR_RETURN(const UsageEvent billed, BilledEvent(db, first));
  Counts now{billed.prompt_tokens, billed.cached_tokens, billed.output_tokens};
  int64_t corrections = 0;
  {
    Rows rows = db.Query(
        "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), "
        "coalesce(sum(output_tokens), 0) FROM usage_event WHERE corrects_seq = ? AND corrects_seq > 0 AND outcome = ?",
        first.seq, static_cast<int64_t>(v1::USAGE_OUTCOME_CORRECTION));
    if (rows.Next()) {
      corrections = rows.Int(0);
      now.prompt += rows.Int(1);
      now.cached += rows.Int(2);
      now.output += rows.Int(3);
    }
  }
  const Counts right{static_cast<int64_t>(request.prompt_tokens()), static_cast<int64_t>(request.cached_tokens()),
                     static_cast<int64_t>(request.output_tokens())};
  if (right.prompt == now.prompt && right.cached == now.cached && right.output == now.output) {
    return absl::FailedPreconditionError("the request has these counts already");
  }

  HopInput input{.pinned_us = billed.received_us, .ended_us = billed.ended_us};
  GANTRY_ASSIGN_OR_RETURN(input.tenant, PartyByNo(db, billed.party_no));
  GANTRY_ASSIGN_OR_RETURN(input.terms, TermsOfEvent(db, billed.seq));
  {
    Rows rows = db.Query("SELECT name FROM model WHERE model_no = ?", billed.model_no);
    if (rows.Next()) input.model = rows.Text(0);
  }
  if (billed.requests == 1 || corrections > 0) input.parts.push_back(PartOf(now, -1));
  input.parts.push_back(PartOf(right, 1));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<Hop> hops, RateHops(db, input));
  UsageEvent event{.record_id = DerivedId(billed.record_id, absl::StrCat("correction ", corrections + 1)),
                   .request_id = request_id,
                   .party_no = billed.party_no,
                   .key_no = billed.key_no,
                   .model_no = billed.model_no,
                   .outcome = v1::USAGE_OUTCOME_CORRECTION,
                   .prompt_tokens = right.prompt - now.prompt,
                   .cached_tokens = right.cached - now.cached,
                   .output_tokens = right.output - now.output,
                   .requests = billed.requests == 1 || corrections > 0 ? 0 : 1,
                   .corrects_seq = first.seq,
                   .ended_us = billed.ended_us,
                   .received_us = now_us,
                   .payload_hash = std::string(16, '\0')};
  InsertEvent(db, hops, &event);
  GANTRY_RETURN_IF_ERROR(BookHops(db, hops,
                                  {.event_seq = event.seq,
                                   .first_seq = first.seq,
                                   .paid_seq = billed.seq,
                                   .model_no = billed.model_no,
                                   .now_us = now_us})
                             .status());
  MatchWitnesses(db, request_id, now_us);
  v1::UsageRow row;
  row.set_request_id(request.request_id());
  row.set_model(input.model);
  row.set_outcome(v1::USAGE_OUTCOME_CORRECTION);
  row.set_prompt_tokens(event.prompt_tokens);
  row.set_cached_tokens(event.cached_tokens);
  row.set_output_tokens(event.output_tokens);
  row.set_amount_pico(hops[0].net_pico);
  row.set_ended_us(event.ended_us);
  row.set_witness_state(MatchState(db, request_id));
  return row;
}

}  // namespace gantry::billing
