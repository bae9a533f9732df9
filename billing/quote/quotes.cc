#include "billing/quote/quotes.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/outbox/outbox.h"
#include "billing/parties/party_tree.h"
#include "billing/quote/quote_letter.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kBuyersMax = 100;
constexpr int kAddressLinesMax = 8;
constexpr int kConditionsMax = 16;
constexpr size_t kPlanNameLimit = 40;

absl::StatusOr<absl::CivilDay> ParseDay(const char* field, const std::string& text) {
  absl::CivilDay day;
  if (text.size() == 10 && absl::ParseCivilTime(text, &day)) return day;
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected a day such as 2027-01-31, found `", text, "`"));
}

absl::StatusOr<absl::TimeZone> ZoneNamed(const std::string& name) {
  absl::TimeZone zone;
  if (absl::LoadTimeZone(name, &zone)) return zone;
  return absl::InternalError(absl::StrCat("the time zone ", name, " is not in this machine's tzdata"));
}

int64_t BeginOf(absl::CivilDay day, const absl::TimeZone& zone) {
  return absl::ToUnixMicros(absl::FromCivil(day, zone));
}

absl::Status CheckText(const char* field, const std::string& text, size_t limit) {
  if (text.size() <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected at most ", limit, " bytes, found ", text.size()));
}

absl::Status CheckLimits(const v1::DraftQuotesRequest& request) {
  if (request.buyers_size() < 1 || request.buyers_size() > kBuyersMax) {
    return absl::InvalidArgumentError(absl::StrCat("buyers: expected 1..", kBuyersMax));
  }
  const v1::QuoteTerms& terms = request.terms();
  if (terms.plan().empty() || terms.plan().size() > kPlanNameLimit) {
    return absl::InvalidArgumentError(absl::StrCat("plan: expected a name of 1..", kPlanNameLimit, " bytes"));
  }
  if (terms.conditions_size() > kConditionsMax) {
    return absl::InvalidArgumentError(absl::StrCat("conditions: expected at most ", kConditionsMax));
  }
  GANTRY_RETURN_IF_ERROR(CheckText("tax", terms.tax(), 500));
  for (const std::string& condition : terms.conditions()) {
    GANTRY_RETURN_IF_ERROR(CheckText("conditions", condition, 1000));
  }
  const auto check_address = [](const char* field, const auto& lines) -> absl::Status {
    if (lines.size() > kAddressLinesMax) {
      return absl::InvalidArgumentError(absl::StrCat(field, ": expected at most ", kAddressLinesMax, " lines"));
    }
    for (const std::string& line : lines) GANTRY_RETURN_IF_ERROR(CheckText(field, line, 200));
    return absl::OkStatus();
  };
  GANTRY_RETURN_IF_ERROR(check_address("seller_address", request.seller_address()));
  for (const v1::QuoteBuyer& buyer : request.buyers()) {
    GANTRY_RETURN_IF_ERROR(check_address("address", buyer.address()));
  }
  return absl::OkStatus();
}

// A buyer that exists buys from the seller; one that does not is described well enough to be made.
absl::StatusOr<v1::QuoteBuyer> CheckBuyer(Database& db, v1::QuoteBuyer buyer, const PartyRow& seller,
                                          const std::string& currency) {
  const absl::StatusOr<PartyRow> known = PartyByName(db, buyer.name());
  if (!known.ok()) {
    if (!absl::IsNotFound(known.status())) return known.status();
    if (buyer.legal_name().empty() || buyer.kind() == v1::PARTY_KIND_UNSPECIFIED) {
      return absl::InvalidArgumentError(
          absl::StrCat("buyers: there is no party `", buyer.name(), "`; a new one needs legal_name and kind"));
    }
    return buyer;
  }
  if (known->parent_no != seller.party_no) {
    return absl::FailedPreconditionError(
        absl::StrCat("buyers: `", buyer.name(), "` does not buy from `", seller.name, "`"));
  }
  if (known->currency != currency) {
    return absl::FailedPreconditionError(
        absl::StrCat("currency: `", buyer.name(), "` buys in ", known->currency, ", the offer is in ", currency));
  }
  if (known->status == v1::PARTY_STATUS_CLOSED) {
    return absl::FailedPreconditionError(absl::StrCat("buyers: `", buyer.name(), "` is closed"));
  }
  buyer.set_legal_name(known->legal_name.empty() ? known->name : known->legal_name);
  buyer.set_kind(known->kind);
  return buyer;
}

struct Stored {
  int64_t quote_no = 0;
  int64_t open_until_us = 0;
  v1::Quote quote;
};

// Columns as Read reads them.
#define QUOTE_COLUMNS                                                                                               \
  "q.quote_no, q.content, q.state, q.drafted_us, q.open_until_us, q.sent_us, q.ended_us, q.accepted_by, q.number, " \
  "v.plan_version_id"

absl::StatusOr<Stored> Read(const Rows& rows, int64_t now_us) {
  Stored stored{.quote_no = rows.Int(0), .open_until_us = rows.Int(4)};
  v1::Quote& quote = stored.quote;
  if (!quote.ParseFromString(rows.Text(1))) return absl::DataLossError("a stored quote cannot be read");
  quote.set_number(rows.Text(8));
  quote.set_state(static_cast<v1::QuoteState>(rows.Int(2)));
  if (quote.state() == v1::QUOTE_STATE_SENT && now_us >= stored.open_until_us) {
    quote.set_state(v1::QUOTE_STATE_EXPIRED);
  }
  quote.set_drafted_us(rows.Int(3));
  quote.set_sent_us(rows.Int(5));
  quote.set_ended_us(rows.Int(6));
  quote.set_accepted_by(rows.Text(7));
  quote.set_plan_version_id(rows.Text(9));
  return stored;
}

absl::StatusOr<Stored> Find(Database& db, const std::string& number, int64_t now_us) {
  Rows rows = db.Query(
      "SELECT " QUOTE_COLUMNS " FROM quote q LEFT JOIN plan_version v USING (version_no) WHERE q.number = ?", number);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("number: there is no quote `", number, "`"));
  return Read(rows, now_us);
}

absl::Status NotInState(const v1::Quote& quote, const char* expected) {
  return absl::FailedPreconditionError(
      absl::StrCat("quote ", quote.number(), " is ",
                   absl::AsciiStrToLower(v1::QuoteState_Name(quote.state()).substr(sizeof("QUOTE_STATE_") - 1)),
                   "; expected ", expected));
}

v1::PublishPlanVersionRequest PlanOf(const v1::Quote& quote) {
  const v1::QuoteTerms& terms = quote.terms();
  v1::PublishPlanVersionRequest plan;
  plan.set_plan(absl::StrCat(terms.plan(), "-", absl::AsciiStrToLower(quote.number())));
  plan.set_currency(terms.currency());
  *plan.mutable_lines() = terms.lines();
  plan.set_markup_of(terms.markup_of());
  plan.set_markup_ppm(terms.markup_ppm());
  plan.set_seller_name(quote.seller_name());
  plan.set_commitment_micro(terms.commitment_micro());
  plan.set_allowance_micro(terms.allowance_micro());
  return plan;
}

}  // namespace

absl::StatusOr<v1::QuoteList> DraftQuotes(Database& db, const v1::DraftQuotesRequest& request, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckLimits(request));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller,
                          request.seller_name().empty() ? HouseOf(db) : PartyByName(db, request.seller_name()));
  GANTRY_ASSIGN_OR_RETURN(const absl::TimeZone zone, ZoneNamed(seller.time_zone));
  GANTRY_ASSIGN_OR_RETURN(const absl::CivilDay open_until, ParseDay("open_until", request.terms().open_until()));
  GANTRY_ASSIGN_OR_RETURN(const absl::CivilDay starts_on, ParseDay("starts_on", request.terms().starts_on()));
  GANTRY_ASSIGN_OR_RETURN(const absl::CivilDay promised, ParseDay("promised_until", request.terms().promised_until()));
  const absl::CivilDay today = absl::ToCivilDay(absl::FromUnixMicros(now_us), zone);
  if (open_until < today) return absl::InvalidArgumentError("open_until: expected today or a later day");
  if (promised < open_until || promised < starts_on) {
    return absl::InvalidArgumentError("promised_until: expected a day not before open_until and starts_on");
  }

  v1::Quote draft;
  draft.set_seller_name(seller.name);
  draft.set_seller_legal_name(seller.legal_name.empty() ? seller.name : seller.legal_name);
  *draft.mutable_seller_address() = request.seller_address();
  *draft.mutable_terms() = request.terms();
  draft.set_time_zone(seller.time_zone);
  // What acceptance would publish must be publishable now; its lines are what is offered.
  GANTRY_ASSIGN_OR_RETURN(const PlanTerms plan, CheckPlanVersion(db, PlanOf(draft), now_us));
  v1::QuoteTerms* terms = draft.mutable_terms();
  terms->clear_lines();
  for (const PriceLine& line : plan.lines) *terms->add_lines() = ToProto(line);
  terms->clear_markup_of();
  terms->clear_markup_ppm();

  v1::QuoteList list;
  for (const v1::QuoteBuyer& buyer : request.buyers()) {
    v1::Quote quote = draft;
    GANTRY_ASSIGN_OR_RETURN(*quote.mutable_buyer(), CheckBuyer(db, buyer, seller, terms->currency()));
    int64_t quote_no = 1;
    {
      Rows rows = db.Query("SELECT coalesce(max(quote_no), 0) + 1 FROM quote");
      if (rows.Next()) quote_no = rows.Int(0);
    }
    quote.set_number(absl::StrFormat("Q-%d-%06d", today.year(), quote_no));
    quote.set_state(v1::QUOTE_STATE_DRAFT);
    quote.set_drafted_us(now_us);
    GANTRY_RETURN_IF_ERROR(PromiseLetterDocument(LetterOf(quote)).status());
    db.Execute(
        "INSERT INTO quote (quote_no, number, seller_no, buyer_name, content, state, drafted_us, open_until_us) "
        "VALUES (?, ?, ?, ?, ?, 1, ?, ?)",
        quote_no, quote.number(), seller.party_no, buyer.name(), Blob{quote.SerializeAsString()}, now_us,
        BeginOf(open_until + 1, zone));
    *list.add_quotes() = std::move(quote);
  }
  return list;
}

absl::StatusOr<v1::Quote> GetQuote(Database& db, const std::string& number, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(Stored stored, Find(db, number, now_us));
  return std::move(stored.quote);
}

absl::StatusOr<v1::QuoteList> ListQuotes(Database& db, const v1::ListQuotesRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller,
                          request.seller_name().empty() ? HouseOf(db) : PartyByName(db, request.seller_name()));
  v1::QuoteList list;
  Rows rows = db.Query("SELECT " QUOTE_COLUMNS
                       " FROM quote q LEFT JOIN plan_version v USING (version_no) WHERE q.seller_no = ? "
                       "ORDER BY q.quote_no DESC LIMIT 1000",
                       seller.party_no);
  while (rows.Next()) {
    GANTRY_ASSIGN_OR_RETURN(Stored stored, Read(rows, now_us));
    *list.add_quotes() = std::move(stored.quote);
  }
  return list;
}

absl::StatusOr<v1::Quote> SendQuote(Database& db, const v1::SendQuoteRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const Stored stored, Find(db, request.number(), now_us));
  if (stored.quote.state() == v1::QUOTE_STATE_SENT) return stored.quote;
  if (stored.quote.state() != v1::QUOTE_STATE_DRAFT) return NotInState(stored.quote, "a draft");
  if (now_us >= stored.open_until_us) {
    return absl::FailedPreconditionError(absl::StrCat("quote ", request.number(), " was open until ",
                                                      stored.quote.terms().open_until(), "; draft a new one"));
  }
  db.Execute("UPDATE quote SET state = 2, sent_us = ? WHERE quote_no = ?", now_us, stored.quote_no);
  return GetQuote(db, request.number(), now_us);
}

absl::StatusOr<v1::Quote> AcceptQuote(Database& db, const v1::AcceptQuoteRequest& request, int64_t now_us) {
  if (request.accepted_by().empty() || request.accepted_by().size() > 140) {
    return absl::InvalidArgumentError("accepted_by: expected 1..140 bytes: who accepts");
  }
  GANTRY_ASSIGN_OR_RETURN(const Stored stored, Find(db, request.number(), now_us));
  const v1::Quote& quote = stored.quote;
  if (quote.state() == v1::QUOTE_STATE_ACCEPTED) return quote;
  if (quote.state() != v1::QUOTE_STATE_SENT) return NotInState(quote, "one that was sent and is open");

  GANTRY_ASSIGN_OR_RETURN(const absl::TimeZone zone, ZoneNamed(quote.time_zone()));
  GANTRY_ASSIGN_OR_RETURN(const absl::CivilDay starts_on, ParseDay("starts_on", quote.terms().starts_on()));
  GANTRY_ASSIGN_OR_RETURN(const absl::CivilDay promised, ParseDay("promised_until", quote.terms().promised_until()));
  const int64_t starts_us = BeginOf(starts_on, zone) > now_us ? BeginOf(starts_on, zone) : 0;
  v1::PublishPlanVersionRequest plan = PlanOf(quote);
  plan.set_valid_from_us(starts_us);
  plan.set_promise_until_us(BeginOf(promised + 1, zone));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion version, PublishPlanVersion(db, plan, now_us));

  const absl::StatusOr<PartyRow> known = PartyByName(db, quote.buyer().name());
  if (known.ok()) {
    // Looked at when it was drafted; its seller or currency cannot change, but somebody else may have taken the name.
    GANTRY_ASSIGN_OR_RETURN(const PartyRow seller, PartyByName(db, quote.seller_name()));
    GANTRY_RETURN_IF_ERROR(CheckBuyer(db, quote.buyer(), seller, quote.terms().currency()).status());
    v1::SubscribeRequest subscribe;
    subscribe.set_party_name(quote.buyer().name());
    subscribe.set_plan(version.plan());
    subscribe.set_from_us(starts_us);
    GANTRY_RETURN_IF_ERROR(Subscribe(db, subscribe, now_us).status());
  } else {
    v1::CreatePartyRequest create;
    create.set_kind(quote.buyer().kind());
    create.set_name(quote.buyer().name());
    create.set_legal_name(quote.buyer().legal_name());
    create.set_currency(quote.terms().currency());
    create.set_parent_name(quote.seller_name());
    create.set_plan(version.plan());
    GANTRY_RETURN_IF_ERROR(CreateParty(db, create, now_us).status());
  }
  db.Execute(
      "UPDATE quote SET state = 3, ended_us = ?, accepted_by = ?, version_no = (SELECT version_no FROM plan_version "
      "WHERE plan_version_id = ?) WHERE quote_no = ?",
      now_us, request.accepted_by(), Blob{version.plan_version_id()}, stored.quote_no);
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller, PartyByName(db, quote.seller_name()));
  OutboxMessage message{
      .topic = "quote.accepted",
      .party_id = seller.party_id,
      .title = absl::StrCat("Quote ", quote.number(), " was accepted"),
      .text = absl::StrCat(request.accepted_by(), " accepted it for ", quote.buyer().name(), "; the plan ",
                           version.plan(), " holds from ", starts_us == 0 ? "now" : quote.terms().starts_on(), " on.")};
  message.data["quote"] = quote.number();
  message.data["buyer_name"] = quote.buyer().name();
  message.data["plan"] = version.plan();
  GANTRY_RETURN_IF_ERROR(Enqueue(db, message, now_us).status());
  return GetQuote(db, request.number(), now_us);
}

absl::StatusOr<v1::Quote> WithdrawQuote(Database& db, const v1::WithdrawQuoteRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const Stored stored, Find(db, request.number(), now_us));
  if (stored.quote.state() == v1::QUOTE_STATE_WITHDRAWN) return stored.quote;
  if (stored.quote.state() == v1::QUOTE_STATE_ACCEPTED) return NotInState(stored.quote, "one that is not accepted");
  db.Execute("UPDATE quote SET state = 4, ended_us = ? WHERE quote_no = ?", now_us, stored.quote_no);
  return GetQuote(db, request.number(), now_us);
}

}  // namespace gantry::billing
