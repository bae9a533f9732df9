#include "billing/invoice/draft.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/arithmetic.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/left_over.h"
#include "billing/invoice/profile.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lots.h"
#include "billing/rating/rating.h"
#include "billing/usage/rollup.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPicoPerMicro = 1'000'000;
constexpr size_t kLateRowsMax = 400;  // beyond, late usage is shown by month

// The invoice while lines are added to it.
class Lines {
 public:
  explicit Lines(v1::Invoice* invoice) : invoice_(invoice) {}

  __int128 pico() const { return pico_; }
  int64_t net_minor() const { return net_minor_; }

  absl::Status Add(v1::InvoiceLine line, __int128 amount_pico) {
    if (amount_pico > INT64_MAX || amount_pico < -INT64_MAX) {
      return absl::OutOfRangeError("an invoice line is larger than 9.2 million units");
    }
    line.set_amount_pico(static_cast<int64_t>(amount_pico));
    line.set_net_minor(RoundToMinor(amount_pico, static_cast<int>(invoice_->minor_digits())));
    pico_ += amount_pico;
    net_minor_ += line.net_minor();
    *invoice_->add_lines() = std::move(line);
    return absl::OkStatus();
  }
  // One that is an amount and nothing else.
  absl::Status Add(const char* kind, __int128 amount_pico, const std::string& plan_version_id = "") {
    v1::InvoiceLine line;
    line.set_kind(kind);
    line.set_plan_version_id(plan_version_id);
    line.set_quantity(1);
    return Add(std::move(line), amount_pico);
  }

 private:
  v1::Invoice* invoice_;
  __int128 pico_ = 0;
  int64_t net_minor_ = 0;
};

// The usage of one version, then what of it is free.
absl::Status AddVersion(Database& db, const std::vector<RollupRow>& rows, Lines* lines, int64_t* requests) {
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, rows[0].plan_version_id));
  __int128 gross = 0;
  for (const RollupRow& row : rows) {
    const PriceLine& line = terms->lines[static_cast<size_t>(row.line)];
    gross += row.amount_pico;
    if (line.token_class == TokenClass::kRequest) {
      *requests += row.quantity;
      // Nobody sells requests for nothing: a line of them says something only when they have a price.
      if (row.amount_pico == 0) continue;
    }
    v1::InvoiceLine added;
    added.set_kind("usage");
    added.set_model(row.model);
    added.set_token_class(ProtoOf(line.token_class));
    added.set_plan_version_id(row.plan_version_id.ToBytes());
    added.set_quantity(row.quantity);
    const v1::PriceLine priced = ToProto(line);
    added.set_price_micro_per_m(priced.price_micro_per_m());
    added.set_mode(priced.mode());
    added.set_context_from(priced.context_from());
    added.set_context_to(priced.context_to());
    GANTRY_RETURN_IF_ERROR(lines->Add(std::move(added), row.amount_pico));
  }
  // As it was rated (BeyondAllowance): also what is taken back goes to the allowance first.
  const __int128 free = std::min(gross, static_cast<__int128>(terms->allowance_micro) * kPicoPerMicro);
  if (terms->allowance_micro == 0 || free == 0) return absl::OkStatus();
  return lines->Add("allowance", -free, rows[0].plan_version_id.ToBytes());
}

// What of a buyer's usage in a period the house has paid, beyond what it was given back.
int64_t UnheldOf(Database& db, const PartyRow& party, int64_t period) {
  // The plus keeps SQLite from the index of revenue: what the house bears is little, what is earned is everything.
  Rows rows = db.Query(
      "WITH house AS (SELECT account_no FROM account WHERE party_no = (SELECT party_no FROM party WHERE kind = 1) "
      "  AND type = 'late_unheld' AND currency = ?3), "
      "revenue AS (SELECT account_no FROM account WHERE party_no = ?4 AND type = 'revenue' AND currency = ?3) "
      "SELECT (SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t JOIN rating r ON r.event_seq = t.source "
      "  WHERE t.debit_account IN house AND t.kind = 4 AND t.kind > 3 AND +t.credit_account IN revenue AND r.buyer_no "
      "= ?1 "
      "  AND r.period = ?2) - "
      "(SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t JOIN rating r ON r.event_seq = t.source "
      "  WHERE t.credit_account IN house AND t.kind = 6 AND t.kind > 3 AND +t.debit_account IN revenue AND r.buyer_no "
      "= ?1 "
      "  AND r.period = ?2)",
      party.party_no, period, party.currency, party.parent_no);
  return rows.Next() ? rows.Int(0) : 0;
}

// Promotional credit that is there now, whatever used it.
int64_t PromotionLeft(Database& db, int64_t account_no) {
  Rows rows = db.Query(
      "SELECT coalesce(sum(left_micro), 0) FROM credit_lot WHERE account_no = ? AND kind = 1 AND left_micro > 0",
      account_no);
  return rows.Next() ? rows.Int(0) : 0;
}

void AddLateUsage(Database& db, const PartyRow& party, int64_t period, v1::Invoice* invoice) {
  std::vector<v1::LateUsage> late;
  Rows rows = db.Query(
      "SELECT u.ended_us, m.name, u.requests, u.prompt_tokens, u.cached_tokens, u.output_tokens, r.amount_pico "
      "FROM late_usage l JOIN usage_event u ON u.seq = l.event_seq JOIN model m USING (model_no) "
      "JOIN rating r ON r.event_seq = l.event_seq AND r.buyer_no = l.buyer_no "
      "WHERE l.buyer_no = ? AND l.period = ? ORDER BY u.ended_us, m.name",
      party.party_no, period);
  const auto add = [](std::vector<v1::LateUsage>* to, const v1::LateUsage& row) {
    const auto same = std::find_if(to->rbegin(), to->rend(), [&](const v1::LateUsage& other) {
      return other.day() != row.day() || other.model() == row.model();
    });
    if (same == to->rend() || same->day() != row.day()) {
      to->push_back(row);
      return;
    }
    same->set_requests(same->requests() + row.requests());
    same->set_prompt_tokens(same->prompt_tokens() + row.prompt_tokens());
    same->set_cached_tokens(same->cached_tokens() + row.cached_tokens());
    same->set_output_tokens(same->output_tokens() + row.output_tokens());
    same->set_amount_pico(same->amount_pico() + row.amount_pico());
  };
  while (rows.Next()) {
    v1::LateUsage row;
    row.set_day(FormatDay(DayAt(rows.Int(0), party.time_zone)));
    row.set_model(rows.Text(1));
    row.set_requests(rows.Int(2));
    row.set_prompt_tokens(rows.Int(3));
    row.set_cached_tokens(rows.Int(4));
    row.set_output_tokens(rows.Int(5));
    row.set_amount_pico(rows.Int(6));
    add(&late, row);
  }
  if (late.size() > kLateRowsMax) {
    std::vector<v1::LateUsage> months;
    for (v1::LateUsage& row : late) {
      row.set_day(row.day().substr(0, 7));
      add(&months, row);
    }
    late = std::move(months);
  }
  for (v1::LateUsage& row : late) *invoice->add_late_usage() = std::move(row);
}

// Lines of usage, of what the house bears and of the minimum; sets the amounts that follow from them.
absl::Status AddCharges(Database& db, const PartyRow& party, const Period& period, const LeftOver& left, Draft* draft,
                        Lines* lines) {
  InvoiceAmounts& amounts = draft->amounts;
  int64_t requests = 0;
  const std::vector<RollupRow> rows = RollupOf(db, party.party_no, period.period);
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    while (end < rows.size() && rows[end].plan_version_id == rows[begin].plan_version_id) ++end;
    const auto first = rows.begin() + static_cast<std::ptrdiff_t>(begin);
    GANTRY_RETURN_IF_ERROR(AddVersion(db, {first, first + static_cast<std::ptrdiff_t>(end - begin)}, lines, &requests));
  }
  draft->invoice.set_requests(static_cast<uint64_t>(std::max<int64_t>(requests, 0)));
  const __int128 usage = lines->pico() + left.usage_residue_pico;
  if (usage > INT64_MAX || usage < -INT64_MAX) return absl::OutOfRangeError("the invoice is too large");
  // Down, whatever its sign.
  const auto whole = static_cast<int64_t>(usage);
  amounts.usage_micro = whole / kPicoPerMicro - (whole % kPicoPerMicro < 0 ? 1 : 0);
  amounts.usage_residue_pico =
      static_cast<int64_t>(lines->pico() - static_cast<__int128>(amounts.usage_micro) * kPicoPerMicro);

  const absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsAt(db, party.party_no, period.to_us - 1);
  const __int128 committed = terms.ok() ? static_cast<__int128>((*terms)->commitment_micro) * kPicoPerMicro : 0;
  if (committed > 0 && committed > lines->pico()) {
    const __int128 lacks = committed - lines->pico();
    GANTRY_RETURN_IF_ERROR(lines->Add("commitment", lacks, (*terms)->version_id.ToBytes()));
    amounts.commitment_micro = static_cast<int64_t>(lacks / kPicoPerMicro);
  }
  amounts.unheld_micro = UnheldOf(db, party, period.period);
  if (amounts.unheld_micro == 0) return absl::OkStatus();
  return lines->Add("unheld", -static_cast<__int128>(amounts.unheld_micro) * kPicoPerMicro);
}

// What was paid by credit that was given, and what is carried from and to other invoices.
absl::Status AddDeductions(Database& db, const PartyRow& party, const Period& period, const LeftOver& left,
                           Draft* draft, Lines* lines) {
  InvoiceAmounts& amounts = draft->amounts;
  const int64_t account_no = ReadFunds(db, party).account_no;
  const auto charged_micro = static_cast<int64_t>(std::max<__int128>(lines->pico(), 0) / kPicoPerMicro);
  if (account_no != 0) {
    if (charged_micro > 0) {
      amounts.commitment_from_promotion_micro = std::min(PromotionLeft(db, account_no), amounts.commitment_micro);
    }
    // Credit that was given after the period has paid for usage of later ones.
    const int64_t used = LotUseOf(db, account_no, LotKind::kPromotional, period.to_us).used_micro;
    // Less than earlier invoices have deducted: it came back by a correction, and this one takes the deduction back.
    const int64_t came_back = std::min<int64_t>(left.not_deducted_micro, 0);
    const int64_t deductible = (came_back < 0 ? came_back : std::max<int64_t>(used - left.promoted_micro, 0)) +
                               amounts.commitment_from_promotion_micro;
    amounts.promotion_micro = std::min(deductible, charged_micro);
  }
  if (amounts.promotion_micro != 0) {
    GANTRY_RETURN_IF_ERROR(lines->Add("promotion", -static_cast<__int128>(amounts.promotion_micro) * kPicoPerMicro));
  }
  if (lines->pico() > 0) {
    amounts.carried_micro = std::min<int64_t>(left.carried_micro, static_cast<int64_t>(lines->pico() / kPicoPerMicro));
  } else {
    amounts.carried_micro = static_cast<int64_t>((lines->pico() - (kPicoPerMicro - 1)) / kPicoPerMicro);
  }
  // Lines are rounded one by one, so their sum may come to less than nothing although they do not.
  const __int128 carried = -static_cast<__int128>(amounts.carried_micro) * kPicoPerMicro;
  const int64_t net = lines->net_minor() + RoundToMinor(carried, static_cast<int>(draft->invoice.minor_digits()));
  if (net < 0) amounts.carried_micro += net * MicroPerMinor(draft->invoice.minor_digits());
  if (amounts.carried_micro == 0) return absl::OkStatus();
  return lines->Add("carried", -static_cast<__int128>(amounts.carried_micro) * kPicoPerMicro);
}

absl::Status AddTotals(const v1::TaxTerms& tax, const Lines& lines, Draft* draft) {
  v1::Invoice& invoice = draft->invoice;
  std::vector<TaxedLine> taxed;
  for (v1::InvoiceLine& line : *invoice.mutable_lines()) {
    line.set_tax_category(tax.category());
    line.set_tax_rate_ppm(tax.rate_ppm());
    taxed.push_back({line.net_minor(), tax.category(), tax.rate_ppm()});
  }
  GANTRY_ASSIGN_OR_RETURN(const DocumentTotals totals, TotalsOf(taxed));
  for (const TaxSum& sum : totals.taxes) {
    v1::TaxGroup* group = invoice.add_taxes();
    group->set_category(sum.category);
    group->set_rate_ppm(sum.rate_ppm);
    group->set_taxable_minor(sum.taxable_minor);
    group->set_tax_minor(sum.tax_minor);
    group->set_note(tax.note());
  }
  if (lines.pico() > INT64_MAX || lines.pico() < -INT64_MAX) return absl::OutOfRangeError("the invoice is too large");
  invoice.set_amount_pico(static_cast<int64_t>(lines.pico()));
  invoice.set_net_minor(totals.net_minor);
  invoice.set_tax_minor(totals.tax_minor);
  invoice.set_total_minor(totals.gross_minor);
  invoice.set_due_minor(totals.gross_minor);

  InvoiceAmounts& amounts = draft->amounts;
  const int64_t micro_per_minor = MicroPerMinor(invoice.minor_digits());
  const __int128 net_micro = static_cast<__int128>(totals.net_minor) * micro_per_minor;
  const __int128 tax_micro = static_cast<__int128>(totals.tax_minor) * micro_per_minor;
  const __int128 rounding = net_micro + amounts.promotion_micro + amounts.carried_micro - amounts.usage_micro +
                            amounts.unheld_micro - amounts.commitment_micro;
  if (net_micro + tax_micro > INT64_MAX || rounding > INT64_MAX || rounding < -INT64_MAX) {
    return absl::OutOfRangeError("the invoice is too large");
  }
  amounts.tax_micro = static_cast<int64_t>(tax_micro);
  amounts.rounding_micro = static_cast<int64_t>(rounding);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Draft> MakeDraft(Database& db, const PartyRow& party, const Period& period) {
  if (party.depth == 0) return absl::InvalidArgumentError("the house buys from nobody");
  Draft draft;
  GANTRY_ASSIGN_OR_RETURN(draft.seller, PartyByNo(db, party.parent_no));
  GANTRY_ASSIGN_OR_RETURN(draft.seller_profile, ProfileOf(db, draft.seller));
  GANTRY_ASSIGN_OR_RETURN(const v1::BillingProfile buyer, ProfileOf(db, party));
  v1::Invoice& invoice = draft.invoice;
  invoice.set_kind("invoice");
  invoice.set_state("draft");
  invoice.set_party_name(party.name);
  invoice.set_legal_name(buyer.legal_name());
  invoice.set_seller(draft.seller_profile.legal_name());
  invoice.set_seller_name(draft.seller.name);
  *invoice.mutable_seller_details() = PartyOnPaper(draft.seller_profile);
  *invoice.mutable_buyer_details() = PartyOnPaper(buyer);
  invoice.set_buyer_reference(buyer.buyer_reference());
  *invoice.mutable_payment_lines() = draft.seller_profile.payment_lines();
  invoice.set_period(FormatPeriod(period.period));
  invoice.set_period_from_us(period.from_us);
  invoice.set_period_to_us(period.to_us);
  invoice.set_time_zone(party.time_zone);
  invoice.set_currency(party.currency);
  invoice.set_minor_digits(static_cast<uint32_t>(MinorDigits(party.currency)));
  Lines lines(&invoice);
  const LeftOver left = LeftOverOf(db, party);
  GANTRY_RETURN_IF_ERROR(AddCharges(db, party, period, left, &draft, &lines));
  GANTRY_RETURN_IF_ERROR(AddDeductions(db, party, period, left, &draft, &lines));
  GANTRY_RETURN_IF_ERROR(AddTotals(TaxBetween(draft.seller_profile, buyer), lines, &draft));
  AddLateUsage(db, party, period.period, &invoice);
  return draft;
}

}  // namespace gantry::billing
