// The single checks of an audit; each adds what it found to the report.
#pragma once

#include <string>

#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// A check named `name`: it holds when `failure` is empty.
void Report(v1::AuditReport* report, const char* name, const std::string& failure, const std::string& figures);

// money.cc: the file, accounts, holds, lots.
void CheckFile(Database& db, v1::AuditReport* report);
void CheckAccounts(Database& db, v1::AuditReport* report);
void CheckHeld(Database& db, v1::AuditReport* report);
void CheckLots(Database& db, v1::AuditReport* report);
void CheckUsageIsBooked(Database& db, v1::AuditReport* report);

// replay.cc: all usage is rated again in its order, hop by hop, and summed up again.
void CheckRating(Database& db, v1::AuditReport* report);

// records.cc: what must never change, invoices, witnesses.
void CheckPlans(Database& db, v1::AuditReport* report);
void CheckChains(Database& db, v1::AuditReport* report);
void CheckInvoices(Database& db, v1::AuditReport* report);
void CheckWitnesses(Database& db, v1::AuditReport* report);

// invoices.cc: what invoices say of themselves, of the ledger and of what was paid.
void CheckInvoiceBooks(Database& db, v1::AuditReport* report);

}  // namespace gantry::billing
