// What the invoices of a party leave to its next one, or at its end to credit notes.
#pragma once

#include <cstdint>

#include "billing/parties/party_tree.h"
#include "billing/store/database.h"

namespace gantry::billing {

struct LeftOver {
  int64_t usage_residue_pico = 0;
  int64_t carried_micro = 0;   // below zero, not yet taken
  int64_t promoted_micro = 0;  // promotional credit that they deducted
  // What promotional lots have lost to all but expiry, less what was deducted. Below 0: that much was deducted and came
  // back since.
  int64_t not_deducted_micro = 0;
};
// Of all that are not void, less what credit notes have taken of it. Reads the tables: no journal is open.
LeftOver LeftOverOf(Database& db, const PartyRow& party);

}  // namespace gantry::billing
