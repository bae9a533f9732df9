// The lines and totals of a period's invoice, computed from roll-ups, profiles and what earlier invoices left over.
//
// In this order: usage, one line per plan version, price line and model; what of a version's usage is free; usage that
// the house bears because its money had been given back (R9); what lacks to the minimum; what was paid by promotional
// credit; what invoices below zero have left to later ones. An invoice is never below zero: the rest is carried over.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/catalog/periods.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

// In micro-units, as table `invoice` keeps them:
//   net + promotion + carried = what the customer's account is debited without tax
//                             = usage - unheld + commitment + rounding
struct InvoiceAmounts {
  int64_t usage_micro = 0;         // beyond allowances
  int64_t usage_residue_pico = 0;  // exact usage - usage_micro; the next invoice's usage_micro takes it
  int64_t unheld_micro = 0;        // of the usage: paid by the house
  int64_t commitment_micro = 0;
  int64_t commitment_from_promotion_micro = 0;  // of the commitment: what promotional credit will pay
  int64_t promotion_micro = 0;                  // < 0: what earlier invoices deducted and has come back
  int64_t carried_micro = 0;                    // > 0: taken from earlier ones; < 0: left to later ones
  int64_t rounding_micro = 0;
  int64_t tax_micro = 0;
};

struct Draft {
  v1::Invoice invoice;  // state "draft"; no number, no days
  InvoiceAmounts amounts;
  PartyRow seller;
  v1::BillingProfile seller_profile;
};

// Reads only. INVALID_ARGUMENT: the house buys from nobody, or no period. OUT_OF_RANGE: amounts beyond 64 bits.
absl::StatusOr<Draft> MakeDraft(Database& db, const PartyRow& party, const Period& period);

}  // namespace gantry::billing
