// Who a party is on paper: legal name, address, tax, bank. Each change is a new version; an invoice holds a copy of
// what was in force when it was issued.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

inline constexpr uint32_t kTermsDaysDefault = 14;  // of a seller that never set a profile

// NOT_FOUND: no such party. INVALID_ARGUMENT names the field. ALREADY_EXISTS: another seller has the prefix, or one
// that would make the same numbers.
absl::StatusOr<v1::BillingProfile> SetBillingProfile(Database& db, const v1::SetBillingProfileRequest& request,
                                                     int64_t now_us);
absl::StatusOr<v1::BillingProfile> GetBillingProfile(Database& db, const std::string& party_name);

// What is in force. Version 0 when none was ever set: legal name and terms alone.
absl::StatusOr<v1::BillingProfile> ProfileOf(Database& db, const PartyRow& party);

// A profile as documents print it.
v1::InvoiceParty PartyOnPaper(const v1::BillingProfile& profile);
// How a sale between the two is taxed: the buyer's terms, else the seller's, else not at all (O). The note is what is
// printed.
v1::TaxTerms TaxBetween(const v1::BillingProfile& seller, const v1::BillingProfile& buyer);

}  // namespace gantry::billing
