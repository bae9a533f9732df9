#include "billing/usage/losses.h"

#include <utility>
#include <vector>

#include "billing/ledger/ledger.h"
#include "billing/usage/hops.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

absl::Status BookLoss(UsageBook& book, const Id16& request_id, const WorkersCount& count, int64_t now_us) {
  UsageEvent event{.record_id = DerivedId(request_id, "unbilled"),
                   .request_id = request_id,
                   .outcome = v1::USAGE_OUTCOME_UNBILLED,
                   .prompt_tokens = count.prompt_tokens,
                   .cached_tokens = count.cached_tokens,
                   .output_tokens = count.output_tokens,
                   .received_us = now_us};
  HopInput input{.pinned_us = now_us, .ended_us = now_us};
  {
    Rows rows = book.db().Query(
        "SELECT p.party_id, w.model_no, m.name, w.ended_us FROM witness w JOIN party p USING (party_no) "
        "JOIN model m USING (model_no) WHERE w.request_id = ? AND p.depth > 0 ORDER BY w.seq LIMIT 1",
        request_id);
    if (!rows.Next()) return absl::OkStatus();
    absl::StatusOr<PartyRow> tenant = PartyById(book.db(), rows.Id(0));
    if (!tenant.ok()) return tenant.status();
    input.tenant = *std::move(tenant);
    event.model_no = rows.Int(1);
    input.model = rows.Text(2);
    event.ended_us = rows.Int(3);
  }
  event.party_no = input.tenant.party_no;
  absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = book.TermsAt(input.tenant.party_no, now_us);
  if (!terms.ok()) return absl::IsNotFound(terms.status()) ? absl::OkStatus() : terms.status();
  input.terms = {*terms};
  input.parts.push_back({{.input = count.prompt_tokens - count.cached_tokens,
                          .cached_input = count.cached_tokens,
                          .output = count.output_tokens,
                          .requests = 1},
                         count.prompt_tokens});
  GANTRY_ASSIGN_OR_RETURN(const std::vector<Hop> hops, RateHops(book, input));
  InsertEvent(book, {}, &event);  // of no hop: nobody is charged
  const int64_t micro = hops[0].net_pico / 1'000'000;
  if (micro <= 0) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const PartyRow house, book.House());
  const std::string& currency = (*terms)->currency;
  Journal& journal = book.journal();
  journal.Post({.debit_account = journal.Open(house.party_no, "unbilled_loss", currency).account_no,
                .credit_account = journal.Open(hops[0].seller_no, "revenue", currency).account_no,
                .amount_micro = micro,
                .kind = TransferKind::kUnbilled,
                .source = event.seq,
                .reference = "no gateway reported it in time",
                .booked_us = now_us});
  return absl::OkStatus();
}

absl::Status ReverseLoss(UsageBook& book, const UsageEvent& loss, int64_t event_seq, int64_t now_us) {
  int64_t house = 0, seller = 0, micro = 0;
  std::string currency;
  {
    Rows rows = book.db().Query(
        "SELECT a.party_no, s.party_no, a.currency, t.amount_micro FROM transfer t JOIN account a "
        "ON a.account_no = t.debit_account JOIN account s ON s.account_no = t.credit_account "
        "WHERE a.type = 'unbilled_loss' AND t.source = ? AND t.kind > 3",
        loss.seq);
    if (!rows.Next()) return absl::OkStatus();
    house = rows.Int(0);
    seller = rows.Int(1);
    currency = rows.Text(2);
    micro = rows.Int(3);
  }
  Journal& journal = book.journal();
  journal.Post({.debit_account = journal.Open(seller, "revenue", currency).account_no,
                .credit_account = journal.Open(house, "unbilled_loss", currency).account_no,
                .amount_micro = micro,
                .kind = TransferKind::kUsageReturned,
                .source = event_seq,
                .reference = "the gateway reported it after all",
                .booked_us = now_us});
  return absl::OkStatus();
}

}  // namespace gantry::billing
