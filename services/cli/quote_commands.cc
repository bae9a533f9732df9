// gantry quote …: prices offered to buyers, with a letter, and their acceptance.
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "billing/quote/promise_letter.h"
#include "billing/quote/quote_letter.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/output_file.h"
#include "services/cli/plan_file.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Quotes = v1::QuoteAdmin::Stub;

struct QuoteOptions {
  std::string file, seller, open_until, starts_on, promised_until, tax, number, by, output, kind = "peer";
  std::string idempotency_key;
  std::vector<std::string> buyers, conditions, seller_address;
  bool json = false;
};

std::string StateName(v1::QuoteState state) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::QuoteState_Name(state), "QUOTE_STATE_"));
}

nlohmann::ordered_json ToJson(const v1::Quote& quote) {
  const v1::QuoteTerms& terms = quote.terms();
  return {{"number", quote.number()},
          {"state", StateName(quote.state())},
          {"seller", quote.seller_name()},
          {"buyer", quote.buyer().name()},
          {"buyer_legal_name", quote.buyer().legal_name()},
          {"plan", terms.plan()},
          {"currency", terms.currency()},
          {"commitment_micro", terms.commitment_micro()},
          {"allowance_micro", terms.allowance_micro()},
          {"open_until", terms.open_until()},
          {"starts_on", terms.starts_on()},
          {"promised_until", terms.promised_until()},
          {"time_zone", quote.time_zone()},
          {"drafted", FormatTimeJson(quote.drafted_us())},
          {"sent", FormatTimeJson(quote.sent_us())},
          {"ended", FormatTimeJson(quote.ended_us())},
          {"accepted_by", quote.accepted_by()}};
}

int Show(const std::vector<v1::Quote>& quotes, bool json, const Invocation& invocation) {
  if (json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Quote& quote : quotes) list.push_back(ToJson(quote));
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table({"NUMBER", "STATE", "BUYER", "PLAN", "CURRENCY", "OPEN UNTIL", "STARTS", "PROMISED UNTIL"});
  for (const v1::Quote& quote : quotes) {
    const v1::QuoteTerms& terms = quote.terms();
    table.Add({quote.number(), StateName(quote.state()), quote.buyer().name(), terms.plan(), terms.currency(),
               terms.open_until(), terms.starts_on(), terms.promised_until()});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> Draft(const QuoteOptions& options, const Invocation& invocation) {
  std::ifstream file(options.file);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot read ", options.file));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  GANTRY_ASSIGN_OR_RETURN(const v1::PublishPlanVersionRequest plan, ParsePlanFile(text, options.file));
  if (plan.valid_from_us() != 0 || plan.promise_until_us() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.file, ": valid_from and promise_until of a quote are --starts and --promised-until"));
  }
  v1::DraftQuotesRequest request;
  request.set_seller_name(options.seller);
  for (const std::string& line : options.seller_address) request.add_seller_address(line);
  for (const std::string& text_of_buyer : options.buyers) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text_of_buyer, absl::MaxSplits('=', 1));
    v1::QuoteBuyer* buyer = request.add_buyers();
    buyer->set_name(parts.first);
    buyer->set_legal_name(parts.second);
    if (!parts.second.empty()) {
      buyer->set_kind(options.kind == "reseller" ? v1::PARTY_KIND_RESELLER
                      : options.kind == "tenant" ? v1::PARTY_KIND_TENANT
                                                 : v1::PARTY_KIND_PEER);
    }
  }
  v1::QuoteTerms* terms = request.mutable_terms();
  terms->set_plan(plan.plan());
  terms->set_currency(plan.currency());
  *terms->mutable_lines() = plan.lines();
  terms->set_commitment_micro(plan.commitment_micro());
  terms->set_allowance_micro(plan.allowance_micro());
  terms->set_open_until(options.open_until);
  terms->set_starts_on(options.starts_on);
  terms->set_promised_until(options.promised_until);
  terms->set_tax(options.tax);
  for (const std::string& condition : options.conditions) terms->add_conditions(condition);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::QuoteList list,
                          client.CallOnce(&Quotes::DraftQuotes, request, options.idempotency_key));
  return Show({list.quotes().begin(), list.quotes().end()}, options.json, invocation);
}

absl::StatusOr<int> List(const QuoteOptions& options, const Invocation& invocation) {
  v1::ListQuotesRequest request;
  request.set_seller_name(options.seller);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::QuoteList list, client.Call(&Quotes::ListQuotes, request));
  return Show({list.quotes().begin(), list.quotes().end()}, options.json, invocation);
}

absl::StatusOr<int> ShowLetter(const QuoteOptions& options, const Invocation& invocation) {
  const bool html = absl::EndsWith(options.output, ".html");
  if (!html && options.output.empty()) {
    return absl::InvalidArgumentError("a PDF is not for the terminal: --output FILE, or --output - for a pipe");
  }
  v1::GetQuoteRequest request;
  request.set_number(options.number);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Quote quote, client.Call(&Quotes::GetQuote, request));
  const billing::PromiseLetter letter = billing::LetterOf(quote);
  GANTRY_ASSIGN_OR_RETURN(const document::Rendering page,
                          html ? billing::PromiseLetterHtml(letter) : billing::PromiseLetterPdf(letter));
  for (const std::string& warning : page.warnings) *invocation.err << "warning: " << warning << "\n";
  GANTRY_RETURN_IF_ERROR(WriteOutput(options.output, page.bytes, *invocation.out));
  return 0;
}

// send, accept, withdraw: the quote as it is then.
template <typename Request>
absl::StatusOr<int> Turn(grpc::Status (Quotes::*method)(grpc::ClientContext*, const Request&, v1::Quote*),
                         Request request, const QuoteOptions& options, const Invocation& invocation) {
  request.set_number(options.number);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Quote quote, client.CallOnce(method, request, options.idempotency_key));
  return Show({quote}, options.json, invocation);
}

}  // namespace

void AddQuoteCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<QuoteOptions>();
  CLI::App* group = AddGroup(app, "quote", "prices offered to buyers, promised for a time");
  const auto add = [&](const char* name, const char* summary, const char* examples, auto run) {
    CLI::App* command =
        AddCommand(*group, invocation, name, summary, examples, [=, &invocation] { return run(*options, invocation); });
    command->add_flag("--json", options->json, "as JSON");
    return command;
  };

  CLI::App* draft =
      add("draft", "make the same offer to one buyer or several",
          "gantry plan publish --example > partners.toml     # prices, tiers, commitment, allowance\n"
          "gantry quote draft --file partners.toml --to acme --to \"beta=Beta GmbH\" --open-until 2026-12-31 "
          "--starts 2027-01-01 --promised-until 2027-12-31\n"
          "gantry quote letter Q-2026-000001 --output offer.pdf",
          Draft);
  draft->add_option("--file", options->file, "a plan as `gantry plan publish --file` takes it")
      ->required()
      ->type_name("FILE");
  draft->add_option("--to", options->buyers, "a buyer's name; NAME=LEGAL NAME for one that is made when it accepts")
      ->required()
      ->type_name("BUYER");
  draft->add_option("--kind", options->kind, "of buyers that are made: peer (default), reseller or tenant")
      ->type_name("KIND")
      ->check(CLI::IsMember({"peer", "reseller", "tenant"}));
  draft->add_option("--open-until", options->open_until, "last day to accept, YYYY-MM-DD in the seller's time zone")
      ->required()
      ->type_name("DAY");
  draft->add_option("--starts", options->starts_on, "first day of the plan")->required()->type_name("DAY");
  draft->add_option("--promised-until", options->promised_until, "last day on which no price may rise")
      ->required()
      ->type_name("DAY");
  draft->add_option("--seller", options->seller, "house or reseller; default: the house")->type_name("NAME");
  draft->add_option("--seller-address", options->seller_address, "a line of the letter's head; several")
      ->type_name("LINE");
  draft->add_option("--tax", options->tax, "what the letter says of tax: \"Prices are net of VAT.\"")
      ->type_name("TEXT");
  draft->add_option("--condition", options->conditions, "a further paragraph of the letter; several")
      ->type_name("TEXT");
  AddIdempotencyKey(*draft, &options->idempotency_key);

  CLI::App* list = add("list", "quotes of a seller, newest first", "gantry quote list\ngantry quote list --json", List);
  list->add_option("--seller", options->seller, "house or reseller; default: the house")->type_name("NAME");

  CLI::App* letter = add("letter", "the letter that promises the prices, as PDF or HTML",
                         "gantry quote letter Q-2026-000001 --output offer.pdf", ShowLetter);
  letter->add_option("NUMBER", options->number, "as `gantry quote list` shows it")->required();
  letter->add_option("--output", options->output, "write here; a name that ends in .html gives HTML")
      ->type_name("FILE");

  const auto add_turn = [&](const char* name, const char* summary, auto run) {
    CLI::App* command = add(name, summary, absl::StrCat("gantry quote ", name, " Q-2026-000001").c_str(), run);
    command->add_option("NUMBER", options->number, "as `gantry quote list` shows it")->required();
    AddIdempotencyKey(*command, &options->idempotency_key);
    return command;
  };
  add_turn("send", "open a draft for acceptance; nothing of it changes any more",
           [](const QuoteOptions& o, const Invocation& i) {
             return Turn(&Quotes::SendQuote, v1::SendQuoteRequest(), o, i);
           });
  CLI::App* accept = add_turn("accept", "publish the plan and subscribe the buyer, once",
                              [](const QuoteOptions& o, const Invocation& i) {
                                v1::AcceptQuoteRequest request;
                                request.set_accepted_by(o.by);
                                return Turn(&Quotes::AcceptQuote, request, o, i);
                              });
  accept->add_option("--by", options->by, "who signed")->required()->type_name("TEXT");
  add_turn("withdraw", "take an offer back that is not accepted", [](const QuoteOptions& o, const Invocation& i) {
    return Turn(&Quotes::WithdrawQuote, v1::WithdrawQuoteRequest(), o, i);
  });
}

}  // namespace gantry::cli
