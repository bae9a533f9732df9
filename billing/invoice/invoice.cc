#include "billing/invoice/invoice.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/ledger.h"
#include "billing/rating/rating.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

struct Month {
  int64_t from_us, to_us;
};

absl::StatusOr<Month> ParsePeriod(const std::string& period) {
  absl::CivilMonth month;
  if (period.size() != 7 || !absl::ParseCivilTime(period, &month) || month.year() < 2020 || month.year() > 9000) {
    return absl::InvalidArgumentError(absl::StrCat("period: expected YYYY-MM, found `", period, "`"));
  }
  const absl::TimeZone utc = absl::UTCTimeZone();
  return Month{absl::ToUnixMicros(absl::FromCivil(month, utc)), absl::ToUnixMicros(absl::FromCivil(month + 1, utc))};
}

v1::TokenClass ProtoOf(TokenClass token_class) {
  switch (token_class) {
    case TokenClass::kInput:
      return v1::TOKEN_CLASS_INPUT;
    case TokenClass::kCachedInput:
      return v1::TOKEN_CLASS_CACHED_INPUT;
    case TokenClass::kOutput:
      return v1::TOKEN_CLASS_OUTPUT;
    case TokenClass::kRequest:
      return v1::TOKEN_CLASS_REQUEST;
  }
  return v1::TOKEN_CLASS_UNSPECIFIED;
}

struct Group {
  std::string model;
  Id16 plan_version;
  Quantities quantities;
  int64_t amount_pico = 0;
};

std::vector<Group> Groups(Database& db, const v1::Party& party, const std::string& period) {
  std::vector<Group> groups;
  Rows rows = db.Query(
      "SELECT model, plan_version_id, sum(prompt_tokens - cached_tokens), sum(cached_tokens), sum(output_tokens), "
      "sum(requests), sum(amount_pico) FROM usage_event WHERE party_id = ? AND period = ? AND requests = 1 "
      "GROUP BY model, plan_version_id ORDER BY model, plan_version_id",
      Blob{party.party_id()}, period);
  while (rows.Next()) {
    groups.push_back({rows.Text(0), rows.Id(1), {rows.Int(2), rows.Int(3), rows.Int(4), rows.Int(5)}, rows.Int(6)});
  }
  return groups;
}

absl::StatusOr<v1::Invoice> Draft(Database& db, const v1::Party& party, const std::string& period) {
  GANTRY_ASSIGN_OR_RETURN(Month month, ParsePeriod(period));
  GANTRY_ASSIGN_OR_RETURN(House house, HouseOf(db));
  GANTRY_ASSIGN_OR_RETURN(v1::Party seller, FindParty(db, house.party_id));
  v1::Invoice invoice;
  invoice.set_state("draft");
  invoice.set_party_name(party.name());
  invoice.set_legal_name(party.legal_name());
  invoice.set_seller(seller.legal_name().empty() ? seller.name() : seller.legal_name());
  invoice.set_period(period);
  invoice.set_period_from_us(month.from_us);
  invoice.set_period_to_us(month.to_us);
  invoice.set_currency(party.currency());
  const int digits = MinorDigits(party.currency());
  invoice.set_minor_digits(static_cast<uint32_t>(digits));
  int64_t net = 0, pico = 0, requests = 0;
  for (const Group& group : Groups(db, party, period)) {
    GANTRY_ASSIGN_OR_RETURN(std::vector<PriceLine> lines, LinesOf(db, group.plan_version));
    int64_t rated = 0;
    for (TokenClass token_class : kTokenClasses) {
      GANTRY_ASSIGN_OR_RETURN(int64_t price, PriceOf(lines, group.model, token_class));
      const int64_t quantity = group.quantities.of(token_class);
      // Nobody sells requests for nothing: a line of them says something only when they have a price.
      if (quantity == 0 || (token_class == TokenClass::kRequest && price == 0)) continue;
      int64_t amount = 0;
      if (__builtin_mul_overflow(quantity, price, &amount) || __builtin_add_overflow(rated, amount, &rated)) {
        return absl::OutOfRangeError("an invoice line is larger than 9.2 million units");
      }
      v1::InvoiceLine* line = invoice.add_lines();
      line->set_model(group.model);
      line->set_token_class(ProtoOf(token_class));
      line->set_plan_version_id(group.plan_version.ToBytes());
      line->set_quantity(static_cast<uint64_t>(quantity));
      line->set_price_micro_per_m(price);
      line->set_amount_pico(amount);
      line->set_net_minor(RoundToMinor(amount, digits));
      net += line->net_minor();
    }
    if (rated != group.amount_pico) {
      return absl::DataLossError(absl::StrCat("usage of model ", group.model, " was rated with ", group.amount_pico,
                                              " pico-units, its invoice lines give ", rated));
    }
    if (__builtin_add_overflow(pico, rated, &pico)) return absl::OutOfRangeError("the invoice is too large");
    requests += group.quantities.requests;
  }
  invoice.set_net_minor(net);
  invoice.set_total_minor(net);
  invoice.set_amount_pico(pico);
  invoice.set_requests(static_cast<uint64_t>(requests));
  return invoice;
}

absl::StatusOr<bool> ReadFinal(Database& db, const v1::Party& party, const std::string& period, v1::Invoice* invoice) {
  Rows rows = db.Query("SELECT content FROM invoice WHERE party_id = ? AND period = ?", Blob{party.party_id()}, period);
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
  GANTRY_ASSIGN_OR_RETURN(v1::Party party, FindParty(db, request.party_name()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(bool is_final, ReadFinal(db, party, request.period(), &invoice));
  if (is_final) return invoice;
  return Draft(db, party, request.period());
}

absl::StatusOr<v1::Invoice> FinalizeInvoice(Database& db, const v1::FinalizeInvoiceRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(v1::Party party, FindParty(db, request.party_name()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(bool is_final, ReadFinal(db, party, request.period(), &invoice));
  if (is_final) return invoice;
  GANTRY_ASSIGN_OR_RETURN(Month month, ParsePeriod(request.period()));
  if (now_us < month.to_us) {
    return absl::FailedPreconditionError(absl::StrCat("period ", request.period(), " is not over"));
  }
  {
    Rows rows = db.Query("SELECT max(booked_us) FROM transfer");
    if (rows.Next() && rows.Int(0) > now_us) {
      return absl::FailedPreconditionError("billing's clock is behind its last transfer; set the clock first");
    }
  }
  {
    Rows rows = db.Query(
        "SELECT count(*) FROM usage_event u JOIN witness_match m ON m.request_id = u.request_id "
        "WHERE u.party_id = ? AND u.period = ? AND m.state = 'waiting'",
        Blob{party.party_id()}, request.period());
    if (rows.Next() && rows.Int(0) > 0) {
      return absl::FailedPreconditionError(absl::StrCat(rows.Int(0), " requests of the period wait for a witness"));
    }
  }
  GANTRY_ASSIGN_OR_RETURN(invoice, Draft(db, party, request.period()));
  const std::string series = absl::StrCat("G", request.period().substr(0, 4));
  int64_t number = 1;
  {
    Rows rows = db.Query("SELECT coalesce(max(number), 0) + 1 FROM invoice WHERE series = ?", series);
    if (rows.Next()) number = rows.Int(0);
  }
  invoice.set_state("final");
  invoice.set_number(absl::StrFormat("%s-%06d", series, number));
  const std::string content = invoice.SerializeAsString();
  db.Execute(
      "INSERT INTO invoice (party_id, period, series, number, content, hash, issued_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
      Blob{party.party_id()}, request.period(), series, number, Blob{content}, Blob{Sha256(content)}, now_us);
  return invoice;
}

}  // namespace gantry::billing
