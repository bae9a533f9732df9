// gantry profile …: who a party is on paper.
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/document/figures.h"
#include "billing/invoice/arithmetic.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Invoices = v1::InvoiceAdmin::Stub;

constexpr int64_t kMicroPerPpm = 100;  // of a percentage in millionths

struct ProfileOptions {
  std::string party, idempotency_key;
  // Not given: as it was.
  std::optional<std::string> legal_name, country, vat_id, registration, email, tax, tax_note, buys_tax, buys_tax_note,
      prefix, reference;
  std::optional<std::vector<std::string>> address, pay_to;
  std::optional<uint32_t> terms_days;
  bool json = false;
};

// "S:19", "AE"; "": unspecified.
absl::StatusOr<v1::TaxTerms> ParseTax(const std::string& text) {
  v1::TaxTerms terms;
  if (text.empty()) return terms;
  const size_t colon = text.find(':');
  const std::string code = text.substr(0, colon);
  for (int c = v1::TAX_CATEGORY_S; c <= v1::TAX_CATEGORY_O; ++c) {
    const auto category = static_cast<v1::TaxCategory>(c);
    if (code == billing::TaxCategoryCode(category)) terms.set_category(category);
  }
  const auto wrong = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "tax `", text, "` is not valid: expected S:PERCENT such as S:19, or Z, E, AE, K, G or O without one"));
  };
  if (terms.category() == v1::TAX_CATEGORY_UNSPECIFIED) return wrong();
  if (colon == std::string::npos) return terms;
  const absl::StatusOr<int64_t> percent = ParseMicro(text.substr(colon + 1));
  if (!percent.ok() || *percent % kMicroPerPpm != 0) return wrong();
  terms.set_rate_ppm(*percent / kMicroPerPpm);
  return terms;
}

absl::Status SetTax(const std::optional<std::string>& tax, const std::optional<std::string>& note,
                    v1::TaxTerms* terms) {
  if (tax) {
    GANTRY_ASSIGN_OR_RETURN(*terms, ParseTax(*tax));
  }
  if (note) terms->set_note(*note);
  return absl::OkStatus();
}

std::string TaxText(const v1::TaxTerms& terms) {
  if (terms.category() == v1::TAX_CATEGORY_UNSPECIFIED) return "";
  std::string text = billing::TaxCategoryCode(terms.category());
  if (terms.rate_ppm() > 0) absl::StrAppend(&text, ":", document::Exact(terms.rate_ppm(), 4, 0));
  return text;
}

std::string TaxWithNote(const v1::TaxTerms& terms) {
  return terms.note().empty() ? TaxText(terms) : absl::StrCat(TaxText(terms), ", ", terms.note());
}

void SetLines(const std::optional<std::vector<std::string>>& lines,
              google::protobuf::RepeatedPtrField<std::string>* to) {
  if (!lines) return;
  to->Clear();
  for (const std::string& line : *lines) {
    if (!line.empty()) *to->Add() = line;
  }
}

bool NothingGiven(const ProfileOptions& o) {
  return !o.legal_name && !o.country && !o.vat_id && !o.registration && !o.email && !o.tax && !o.tax_note &&
         !o.buys_tax && !o.buys_tax_note && !o.prefix && !o.reference && !o.address && !o.pay_to && !o.terms_days;
}

absl::Status Apply(const ProfileOptions& options, v1::BillingProfile* profile) {
  if (options.legal_name) profile->set_legal_name(*options.legal_name);
  if (options.country) profile->set_country(*options.country);
  if (options.vat_id) profile->set_vat_id(*options.vat_id);
  if (options.registration) profile->set_registration(*options.registration);
  if (options.email) profile->set_email(*options.email);
  if (options.prefix) profile->set_series_prefix(*options.prefix);
  if (options.reference) profile->set_buyer_reference(*options.reference);
  if (options.terms_days) profile->set_terms_days(*options.terms_days);
  SetLines(options.address, profile->mutable_address_lines());
  SetLines(options.pay_to, profile->mutable_payment_lines());
  GANTRY_RETURN_IF_ERROR(SetTax(options.tax, options.tax_note, profile->mutable_sells_with()));
  return SetTax(options.buys_tax, options.buys_tax_note, profile->mutable_buys_with());
}

nlohmann::ordered_json ProfileJson(const v1::BillingProfile& profile) {
  return {{"party", profile.party_name()},
          {"version", profile.version()},
          {"set", FormatTimeJson(profile.set_us())},
          {"legal_name", profile.legal_name()},
          {"address_lines", std::vector<std::string>(profile.address_lines().begin(), profile.address_lines().end())},
          {"country", profile.country()},
          {"vat_id", profile.vat_id()},
          {"registration", profile.registration()},
          {"email", profile.email()},
          {"payment_lines", std::vector<std::string>(profile.payment_lines().begin(), profile.payment_lines().end())},
          {"terms_days", profile.terms_days()},
          {"sells_with", TaxText(profile.sells_with())},
          {"sells_with_note", profile.sells_with().note()},
          {"series_prefix", profile.series_prefix()},
          {"buys_with", TaxText(profile.buys_with())},
          {"buys_with_note", profile.buys_with().note()},
          {"buyer_reference", profile.buyer_reference()}};
}

std::string ProfileText(const v1::BillingProfile& profile) {
  Table table({"PROFILE OF", profile.party_name()});
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) table.Add({name, value});
  };
  add("version", profile.version() == 0 ? "none was set" : absl::StrCat(profile.version()));
  add("legal name", profile.legal_name());
  add("address", absl::StrJoin(profile.address_lines(), ", "));
  add("country", profile.country());
  add("VAT id", profile.vat_id());
  add("registration", profile.registration());
  add("e-mail", profile.email());
  add("pay to", absl::StrJoin(profile.payment_lines(), ", "));
  add("terms", absl::StrCat(profile.terms_days(), " days"));
  add("sells with tax", TaxWithNote(profile.sells_with()));
  add("series prefix", profile.series_prefix());
  add("buys with tax", TaxWithNote(profile.buys_with()));
  add("reference", profile.buyer_reference());
  return table.Render();
}

absl::StatusOr<int> Show(const ProfileOptions& options, const Invocation& invocation) {
  v1::GetBillingProfileRequest request;
  request.set_party_name(options.party);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::BillingProfile profile, client.Call(&Invoices::GetBillingProfile, request));
  *invocation.out << (options.json ? ProfileJson(profile).dump(2) + "\n" : ProfileText(profile));
  return 0;
}

absl::StatusOr<int> Set(const ProfileOptions& options, const Invocation& invocation) {
  if (NothingGiven(options)) {
    return absl::InvalidArgumentError("what is to be set? see: gantry profile set --help");
  }
  v1::BillingProfile unchecked;
  GANTRY_RETURN_IF_ERROR(Apply(options, &unchecked));  // refused before anything is asked of billing
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::GetBillingProfileRequest now;
  now.set_party_name(options.party);
  v1::SetBillingProfileRequest request;
  GANTRY_ASSIGN_OR_RETURN(*request.mutable_profile(), client.Call(&Invoices::GetBillingProfile, now));
  // Billing's own; the same content must be the same request.
  request.mutable_profile()->clear_version();
  request.mutable_profile()->clear_set_us();
  GANTRY_RETURN_IF_ERROR(Apply(options, request.mutable_profile()));
  GANTRY_ASSIGN_OR_RETURN(const v1::BillingProfile profile,
                          client.CallOnce(&Invoices::SetBillingProfile, request, options.idempotency_key));
  *invocation.out << (options.json ? ProfileJson(profile).dump(2) + "\n" : ProfileText(profile));
  return 0;
}

}  // namespace

void AddProfileCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<ProfileOptions>();
  CLI::App* group = AddGroup(app, "profile", "who a party is on invoices: set, show");

  CLI::App* set = AddCommand(
      *group, invocation, "set", "change what is given and keep the rest; invoices issued before stay as they are",
      "gantry profile set house --legal-name \"Haus der Maschinen GmbH\" --address \"Lindenstraße 12\" \\\n"
      "    --address \"10969 Berlin\" --country DE --vat-id DE123456789 --tax S:19 --terms-days 14 \\\n"
      "    --pay-to \"IBAN DE02 1203 0000 0000 2020 51\"\n"
      "gantry profile set acme --legal-name \"Acme GmbH\" --country AT --vat-id ATU12345678 --buys-tax AE\n"
      "gantry profile set alpine --prefix ALP- --tax S:20",
      [=, &invocation] { return Set(*options, invocation); });
  set->add_option("PARTY", options->party, "house, reseller or tenant")->required();
  set->add_option("--legal-name", options->legal_name, "at most 256 bytes")->type_name("TEXT");
  set->add_option("--address", options->address, "a line; at most 6 of them")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  set->add_option("--country", options->country, "two letters, ISO 3166-1")->type_name("CC");
  set->add_option("--vat-id", options->vat_id, "without blanks")->type_name("ID");
  set->add_option("--registration", options->registration, "register and number")->type_name("TEXT");
  set->add_option("--email", options->email, "where documents go")->type_name("ADDRESS");
  set->add_option("--pay-to", options->pay_to, "how to pay it: a line; at most 6")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  set->add_option("--terms-days", options->terms_days, "its invoices are due after so many days; 0..365")
      ->type_name("N");
  set->add_option("--tax", options->tax,
                  "how it sells: S:PERCENT, Z (0 %), E (exempt), AE (reverse charge), K (intra-community), G (export), "
                  "O (not subject)")
      ->type_name("TAX");
  set->add_option("--tax-note", options->tax_note, "printed: why there is no tax")->type_name("TEXT");
  set->add_option("--prefix", options->prefix, "of its invoice numbers: 1..12 of A-Z, 0-9, -; no digit last")
      ->type_name("P");
  set->add_option("--buys-tax", options->buys_tax, "how it buys; default: as its seller sells")->type_name("TAX");
  set->add_option("--buys-tax-note", options->buys_tax_note, "printed")->type_name("TEXT");
  set->add_option("--reference", options->reference, "of a buyer, printed: purchase order")->type_name("TEXT");
  set->add_flag("--json", options->json, "as JSON");
  AddIdempotencyKey(*set, &options->idempotency_key);

  CLI::App* show = AddCommand(*group, invocation, "show", "what is in force",
                              "gantry profile show house\ngantry profile show acme --json",
                              [=, &invocation] { return Show(*options, invocation); });
  show->add_option("PARTY", options->party, "house, reseller or tenant")->required();
  show->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
