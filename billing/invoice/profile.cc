#include "billing/invoice/profile.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/invoice/arithmetic.h"
#include "billing/invoice/series.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kLineBytesMax = 128;
constexpr int kLinesMax = 6;
constexpr uint32_t kTermsDaysMax = 365;

absl::Status CheckText(const char* field, const std::string& text, size_t bytes_max) {
  const bool printable = std::none_of(text.begin(), text.end(), absl::ascii_iscntrl);
  if (printable && text.size() <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": expected at most ", bytes_max, " bytes on one line, found ", text.size()));
}

template <typename Lines>
absl::Status CheckLines(const char* field, const Lines& lines) {
  if (lines.size() > kLinesMax) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": expected at most ", kLinesMax, ", found ", lines.size()));
  }
  for (const std::string& line : lines) GANTRY_RETURN_IF_ERROR(CheckText(field, line, kLineBytesMax));
  return absl::OkStatus();
}

absl::Status Check(const v1::BillingProfile& profile) {
  GANTRY_RETURN_IF_ERROR(CheckText("legal_name", profile.legal_name(), 256));
  GANTRY_RETURN_IF_ERROR(CheckLines("address_lines", profile.address_lines()));
  GANTRY_RETURN_IF_ERROR(CheckLines("payment_lines", profile.payment_lines()));
  GANTRY_RETURN_IF_ERROR(CheckText("registration", profile.registration(), kLineBytesMax));
  GANTRY_RETURN_IF_ERROR(CheckText("buyer_reference", profile.buyer_reference(), kLineBytesMax));
  const std::string& country = profile.country();
  if (!country.empty() && (country.size() != 2 || !std::all_of(country.begin(), country.end(), absl::ascii_isupper))) {
    return absl::InvalidArgumentError(
        absl::StrCat("country: expected two letters of ISO 3166-1 such as DE, found `", country, "`"));
  }
  const std::string& vat = profile.vat_id();
  const auto of_vat_id = [](char c) { return absl::ascii_isupper(c) || absl::ascii_isdigit(c); };
  if (!vat.empty() && (vat.size() > 20 || vat.size() < 4 || !std::all_of(vat.begin(), vat.end(), of_vat_id))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vat_id: expected 4..20 letters A-Z and digits without blanks such as DE123456789, found `", vat, "`"));
  }
  const std::string& email = profile.email();
  const size_t at = email.find('@');
  const bool is_address = at != std::string::npos && at > 0 && at + 1 < email.size() && email.size() <= 254 &&
                          std::none_of(email.begin(), email.end(), [](char c) {
                            return absl::ascii_isspace(c) || absl::ascii_iscntrl(c) || c == ',' || c == ';';
                          });
  if (!email.empty() && !is_address) {
    return absl::InvalidArgumentError(absl::StrCat("email: expected one address, found `", email, "`"));
  }
  if (profile.terms_days() > kTermsDaysMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("terms_days: expected 0..", kTermsDaysMax, ", found ", profile.terms_days()));
  }
  GANTRY_RETURN_IF_ERROR(CheckTaxTerms(profile.sells_with(), "sells_with"));
  return CheckTaxTerms(profile.buys_with(), "buys_with");
}

}  // namespace

absl::StatusOr<v1::BillingProfile> SetBillingProfile(Database& db, const v1::SetBillingProfileRequest& request,
                                                     int64_t now_us) {
  v1::BillingProfile profile = request.profile();
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, profile.party_name()));
  GANTRY_RETURN_IF_ERROR(Check(profile));
  if (!profile.series_prefix().empty()) {
    GANTRY_RETURN_IF_ERROR(CheckSeriesPrefix(db, party, profile.series_prefix()));
  }
  int64_t version = 1;
  {
    Rows rows =
        db.Query("SELECT coalesce(max(version), 0) + 1 FROM billing_profile WHERE party_no = ?", party.party_no);
    if (rows.Next()) version = rows.Int(0);
  }
  profile.set_version(static_cast<uint32_t>(version));
  profile.set_set_us(now_us);
  db.Execute("INSERT INTO billing_profile (party_no, version, content, series_prefix, set_us) VALUES (?, ?, ?, ?, ?)",
             party.party_no, version, Blob{profile.SerializeAsString()}, profile.series_prefix(), now_us);
  return ProfileOf(db, party);
}

absl::StatusOr<v1::BillingProfile> GetBillingProfile(Database& db, const std::string& party_name) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, party_name));
  return ProfileOf(db, party);
}

absl::StatusOr<v1::BillingProfile> ProfileOf(Database& db, const PartyRow& party) {
  v1::BillingProfile profile;
  profile.set_terms_days(kTermsDaysDefault);
  {
    Rows rows = db.Query("SELECT content FROM billing_profile WHERE party_no = ? ORDER BY version DESC LIMIT 1",
                         party.party_no);
    if (rows.Next() && !profile.ParseFromString(rows.Text(0))) {
      return absl::DataLossError(absl::StrCat("the billing profile of `", party.name, "` cannot be read"));
    }
  }
  profile.set_party_name(party.name);
  if (profile.legal_name().empty()) profile.set_legal_name(party.legal_name.empty() ? party.name : party.legal_name);
  return profile;
}

v1::InvoiceParty PartyOnPaper(const v1::BillingProfile& profile) {
  v1::InvoiceParty party;
  party.set_name(profile.legal_name());
  *party.mutable_address_lines() = profile.address_lines();
  party.set_country(profile.country());
  party.set_vat_id(profile.vat_id());
  party.set_registration(profile.registration());
  party.set_email(profile.email());
  return party;
}

v1::TaxTerms TaxBetween(const v1::BillingProfile& seller, const v1::BillingProfile& buyer) {
  v1::TaxTerms terms = seller.sells_with();
  if (buyer.buys_with().category() != v1::TAX_CATEGORY_UNSPECIFIED) terms = buyer.buys_with();
  // Nothing was ever said about tax: none is charged, and nothing is claimed about why.
  if (terms.category() == v1::TAX_CATEGORY_UNSPECIFIED) {
    terms.set_category(v1::TAX_CATEGORY_O);
    return terms;
  }
  if (terms.note().empty()) terms.set_note(StandardTaxNote(terms.category()));
  return terms;
}

}  // namespace gantry::billing
