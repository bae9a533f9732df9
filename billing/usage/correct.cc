#include "billing/usage/correct.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/key_budget.h"
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
  std::vector<UsageEvent> events = EventsOf(db, request_id);
  if (events.empty()) return absl::NotFoundError(absl::StrCat("no usage of request ", request_id.ToHex()));
  // The record that was billed: the first, or the one that came after a loss had been booked.
  const UsageEvent* billed = nullptr;
  Counts now;
  int64_t billed_requests = 0;
  for (const UsageEvent& event : events) {
    if (event.outcome == v1::USAGE_OUTCOME_UNBILLED) continue;
    if (billed == nullptr) billed = &event;
    now.prompt += event.prompt_tokens;
    now.cached += event.cached_tokens;
    now.output += event.output_tokens;
    billed_requests += event.requests;
  }
  if (billed == nullptr) {
    return absl::FailedPreconditionError(
        "no gateway has reported the request: nothing was billed that could be corrected");
  }
  const Counts right{static_cast<int64_t>(request.prompt_tokens()), static_cast<int64_t>(request.cached_tokens()),
                     static_cast<int64_t>(request.output_tokens())};
  if (right.prompt == now.prompt && right.cached == now.cached && right.output == now.output) {
    return absl::FailedPreconditionError("the request has these counts already");
  }

  UsageBook book(db);
  HopInput input{.pinned_us = billed->received_us, .ended_us = billed->ended_us};
  GANTRY_ASSIGN_OR_RETURN(input.tenant, PartyByNo(db, billed->party_no));
  GANTRY_ASSIGN_OR_RETURN(input.terms, TermsOfEvent(db, billed->seq));
  {
    Rows rows = db.Query("SELECT name FROM model WHERE model_no = ?", billed->model_no);
    if (rows.Next()) input.model = rows.Text(0);
  }
  if (billed_requests > 0) input.parts.push_back(PartOf(now, -1));
  input.parts.push_back(PartOf(right, 1));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<Hop> hops, RateHops(book, input));
  UsageEvent event{.record_id = DerivedId(billed->record_id, absl::StrCat("revision ", events.size())),
                   .request_id = request_id,
                   .revision = static_cast<int64_t>(events.size()),
                   .party_no = billed->party_no,
                   .key_no = billed->key_no,
                   .model_no = billed->model_no,
                   .outcome = v1::USAGE_OUTCOME_CORRECTION,
                   .prompt_tokens = right.prompt - now.prompt,
                   .cached_tokens = right.cached - now.cached,
                   .output_tokens = right.output - now.output,
                   .requests = billed_requests > 0 ? 0 : 1,
                   .ended_us = billed->ended_us,
                   .received_us = now_us};
  InsertEvent(book, hops, &event);
  GANTRY_ASSIGN_OR_RETURN(
      const Charged charged,
      BookHops(book, hops,
               {.event_seq = event.seq, .request_id = request_id, .model_no = billed->model_no, .now_us = now_us}));
  GiveBackToBudget(db, event.seq, billed->key_no, billed->ended_us, charged.returned_micro);
  events.push_back(event);
  MatchWitnesses(db, request_id, events, WitnessesOf(db, request_id), now_us);
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
