#include "billing/invoice/invoice.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/catalog/periods.h"
#include "billing/catalog/plans.h"
#include "billing/parties/party_tree.h"
#include "billing/rating/rating.h"
#include "billing/store/chain.h"
#include "billing/store/lineage.h"
#include "billing/usage/rollup.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

struct Totals {
  __int128 pico = 0;
  int64_t net_minor = 0;
  int64_t requests = 0;
};

absl::Status AddLine(v1::Invoice* invoice, v1::InvoiceLine line, __int128 amount_pico, Totals* totals) {
  if (amount_pico > INT64_MAX || amount_pico < -INT64_MAX) {
    return absl::OutOfRangeError("an invoice line is larger than 9.2 million units");
  }
  line.set_amount_pico(static_cast<int64_t>(amount_pico));
  line.set_net_minor(RoundToMinor(amount_pico, static_cast<int>(invoice->minor_digits())));
  totals->pico += amount_pico;
  totals->net_minor += line.net_minor();
  *invoice->add_lines() = std::move(line);
  return absl::OkStatus();
}

// The lines of one version, then what of them is free.
absl::Status AddVersion(Database& db, const std::vector<RollupRow>& rows, v1::Invoice* invoice, Totals* totals) {
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, rows[0].plan_version_id));
  __int128 gross = 0;
  for (const RollupRow& row : rows) {
    const PriceLine& line = terms->lines[static_cast<size_t>(row.line)];
    gross += row.amount_pico;
    if (line.token_class == TokenClass::kRequest) {
      totals->requests += row.quantity;
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
    GANTRY_RETURN_IF_ERROR(AddLine(invoice, std::move(added), row.amount_pico, totals));
  }
  const __int128 allowed = static_cast<__int128>(terms->allowance_micro) * 1'000'000;
  const __int128 free = std::min(gross, allowed);
  if (free <= 0) return absl::OkStatus();
  v1::InvoiceLine line;
  line.set_kind("allowance");
  line.set_plan_version_id(rows[0].plan_version_id.ToBytes());
  line.set_quantity(1);
  return AddLine(invoice, std::move(line), -free, totals);
}

absl::StatusOr<v1::Invoice> Draft(Database& db, const PartyRow& party, const std::string& label) {
  GANTRY_ASSIGN_OR_RETURN(const Period period, PeriodNamed(db, party, label));
  if (party.depth == 0) return absl::InvalidArgumentError("the house buys from nobody");
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller, PartyByNo(db, party.parent_no));
  v1::Invoice invoice;
  invoice.set_state("draft");
  invoice.set_party_name(party.name);
  invoice.set_legal_name(party.legal_name);
  invoice.set_seller(seller.legal_name.empty() ? seller.name : seller.legal_name);
  invoice.set_period(label);
  invoice.set_period_from_us(period.from_us);
  invoice.set_period_to_us(period.to_us);
  invoice.set_time_zone(party.time_zone);
  invoice.set_currency(party.currency);
  invoice.set_minor_digits(static_cast<uint32_t>(MinorDigits(party.currency)));
  Totals totals;
  const std::vector<RollupRow> rows = RollupOf(db, party.party_no, period.period);
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    while (end < rows.size() && rows[end].plan_version_id == rows[begin].plan_version_id) ++end;
    const auto first = rows.begin() + static_cast<std::ptrdiff_t>(begin);
    GANTRY_RETURN_IF_ERROR(
        AddVersion(db, {first, first + static_cast<std::ptrdiff_t>(end - begin)}, &invoice, &totals));
  }
  const absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsAt(db, party.party_no, period.to_us - 1);
  const __int128 committed = terms.ok() ? static_cast<__int128>((*terms)->commitment_micro) * 1'000'000 : 0;
  if (committed > totals.pico) {
    v1::InvoiceLine line;
    line.set_kind("commitment");
    line.set_plan_version_id((*terms)->version_id.ToBytes());
    line.set_quantity(1);
    GANTRY_RETURN_IF_ERROR(AddLine(&invoice, std::move(line), committed - totals.pico, &totals));
  }
  if (totals.pico > INT64_MAX || totals.pico < -INT64_MAX) return absl::OutOfRangeError("the invoice is too large");
  invoice.set_net_minor(totals.net_minor);
  invoice.set_total_minor(totals.net_minor);
  invoice.set_amount_pico(static_cast<int64_t>(totals.pico));
  invoice.set_requests(static_cast<uint64_t>(std::max<int64_t>(totals.requests, 0)));
  return invoice;
}

absl::StatusOr<bool> ReadFinal(Database& db, const PartyRow& party, int64_t period, v1::Invoice* invoice) {
  Rows rows = db.Query("SELECT content FROM invoice WHERE party_no = ? AND period = ?", party.party_no, period);
  if (!rows.Next()) return false;
  if (!invoice->ParseFromString(rows.Text(0))) return absl::DataLossError("a final invoice cannot be read");
  return true;
}

}  // namespace

int MinorDigits(const std::string& currency) {
  static constexpr std::array kNone = {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG",
                                       "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"};
  static constexpr std::array kThree = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"};
  const auto among = [&](const auto& list) { return std::find(list.begin(), list.end(), currency) != list.end(); };
  return among(kNone) ? 0 : among(kThree) ? 3 : 2;
}

absl::StatusOr<v1::Invoice> GetInvoice(Database& db, const v1::GetInvoiceRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(const int64_t period, ParsePeriod(request.period()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(bool is_final, ReadFinal(db, party, period, &invoice));
  if (is_final) return invoice;
  return Draft(db, party, request.period());
}

absl::StatusOr<v1::Invoice> FinalizeInvoice(Database& db, const v1::FinalizeInvoiceRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(const int64_t number_of_period, ParsePeriod(request.period()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(bool is_final, ReadFinal(db, party, number_of_period, &invoice));
  if (is_final) return invoice;
  GANTRY_ASSIGN_OR_RETURN(const Period named, PeriodNamed(db, party, request.period()));
  if (now_us < named.to_us) {
    return absl::FailedPreconditionError(absl::StrCat("period ", request.period(), " is not over"));
  }
  // Stored from now on, whether or not there was any usage.
  GANTRY_ASSIGN_OR_RETURN(const Period period, PeriodAt(db, party, named.from_us));
  {
    Rows rows = db.Query("SELECT max(booked_us) FROM transfer");
    if (rows.Next() && rows.Int(0) > now_us) {
      return absl::FailedPreconditionError("billing's clock is behind its last transfer; set the clock first");
    }
  }
  {
    Rows rows = db.Query(
        "SELECT count(*) FROM unmatched m JOIN usage_event u USING (request_id) JOIN rating r ON r.event_seq = u.seq "
        "WHERE m.state = 'waiting' AND r.buyer_no = ? AND r.period = ?",
        party.party_no, period.period);
    if (rows.Next() && rows.Int(0) > 0) {
      return absl::FailedPreconditionError(absl::StrCat(rows.Int(0), " requests of the period wait for a witness"));
    }
  }
  GANTRY_ASSIGN_OR_RETURN(invoice, Draft(db, party, request.period()));
  const std::string series = absl::StrCat("G", request.period().substr(0, 4), SeriesMark(db));
  int64_t number = 1;
  {
    Rows rows = db.Query("SELECT coalesce(max(number), 0) + 1 FROM invoice WHERE series = ?", series);
    if (rows.Next()) number = rows.Int(0);
  }
  invoice.set_state("final");
  invoice.set_number(absl::StrFormat("%s-%06d", series, number));
  const std::string content = invoice.SerializeAsString();
  db.Execute(
      "INSERT INTO invoice (party_no, period, series, number, content, hash, issued_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
      party.party_no, period.period, series, number, Blob{content}, Blob{Sha256(content)}, now_us);
  db.Execute("UPDATE billing_period SET closed = 1 WHERE party_no = ? AND period = ?", party.party_no, period.period);
  return invoice;
}

}  // namespace gantry::billing
