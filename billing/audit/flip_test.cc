// Whatever changes in the ledger's tables is noticed, and the audit says in which row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/audit/audit.h"
#include "billing/catalog/admin_log.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/invoice_test_util.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "billing/testing/books.h"
#include "billing/usage/correct.h"
#include "billing/usage/witness_match.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

// A month in which something of everything has happened, closed with an invoice.
void Everything(Books& books) {
  ChargeTax(books);
  books.NewReseller("north", 50'000'000, 100'000);
  const Id16 shop = books.NewTenant("shop", 5'000'000, "north");
  books.Do([&](Database& db) -> absl::Status {
    absl::StatusOr<PartyRow> party = PartyById(db, books.tenant());
    if (!party.ok()) return party.status();
    const Credit gift{.amount_micro = 700'000,
                      .kind = LotKind::kPromotional,
                      .priority = -1,
                      .expires_us = books.now_us() + 86'400'000'000};
    return PostCredit(db, *party, gift, books.now_us());
  });
  const Id16 slice = books.Slice(2'000'000), above = books.SliceOf(shop, 2'000'000);
  const auto usage = [&](const Id16& of, const Id16& party, uint64_t prompt, uint64_t generated) {
    v1::UsageRecord record = books.Record(of, prompt, 567);
    record.set_party_id(party.ToBytes());
    record.set_plan_version_id(books.PlanOf(party).ToBytes());
    books.Append(record);
    books.Append(books.Witness(record, generated));
    return record;
  };
  const v1::UsageRecord first = usage(slice, books.tenant(), 1234, 567);
  usage(above, shop, 200'000, 567);  // enough for a cent of tax
  // A hold of its own, settled by its usage, and one that was given back.
  for (const bool used : {true, false}) {
    v1::UsageRecord record = books.Record(Id16{}, 2000, 800);
    record.clear_slice_id();
    record.set_party_id(shop.ToBytes());
    record.set_plan_version_id(books.PlanOf(shop).ToBytes());
    books.Do([&](Database& db) -> absl::Status {
      v1::ReserveRequest request;
      request.set_hold_id(record.hold_id());
      request.set_gateway_id(books.gateway().ToBytes());
      request.set_gateway_epoch(1);
      request.set_party_id(record.party_id());
      request.set_key_id(record.key_id());
      request.set_request_id(record.request_id());
      request.set_plan_version_id(record.plan_version_id());
      request.set_amount_micro(900);
      absl::Status status = Reserve(db, request, books.now_us()).status();
      if (!status.ok() || used) return status;
      v1::VoidHoldRequest end;
      end.set_hold_id(record.hold_id());
      return VoidHold(db, end, books.now_us()).status();
    });
    if (!used) continue;
    books.Append(record);
    books.Append(books.Witness(record, 800));
  }
  // With a budget of its own.
  const v1::Key key = books.NewKey(600'000, v1::BUDGET_PERIOD_MONTH);
  const Id16 budgeted = books.SliceOf(books.tenant(), 500'000, 1, key.key_id());
  v1::UsageRecord counted = books.Record(budgeted, 1234, 567);
  counted.set_key_id(key.key_id());
  books.Append(counted);
  books.Append(books.Witness(counted, 567));
  for (const v1::UsageRecord& record : {first, counted}) {
    books.Do([&](Database& db) -> absl::Status {
      v1::CorrectUsageRequest request;
      request.set_request_id(record.request_id());
      request.set_prompt_tokens(1234);
      request.set_cached_tokens(200);
      request.set_output_tokens(567);
      request.set_reason("test");
      return CorrectUsage(db, request, books.now_us()).status();
    });
  }
  // A loss of the house, and credit that expires.
  v1::WitnessRecord alone = books.Witness(books.Record(slice, 300, 40), 40);
  alone.set_party_id(books.tenant().ToBytes());
  books.Append(alone);
  for (const Id16& id : {slice, above, budgeted}) {
    books.Do([&](Database& db) {
      v1::ReturnSliceRequest request;
      request.set_slice_id(id.ToBytes());
      request.set_close(true);
      return ReturnSlice(db, request, books.now_us()).status();
    });
  }
  books.Advance(2 * int64_t{86'400'000'000});
  books.Do([&](Database& db) -> absl::Status {
    absl::Status status = ExpireWaiting(db, books.now_us() - 1, books.now_us());
    return status.ok() ? ExpireLots(db, books.now_us(), 10).status() : status;
  });
  books.Advance(40 * int64_t{86'400'000'000});
  for (const char* party : {"demo", "shop", "north"}) {
    books.Do([&](Database& db) {
      v1::FinalizeInvoiceRequest request;
      request.set_party_name(party);
      request.set_period("2026-11");
      return FinalizeInvoice(db, request, books.now_us()).status();
    });
  }
  books.Do([&](Database& db) {
    v1::SetPartyStatusRequest request;
    return Once(db,
                {.method = "SetPartyStatus",
                 .idempotency_key = "k",
                 .object = "demo",
                 .now_us = books.now_us(),
                 .request = &request},
                &request, [] { return absl::OkStatus(); });
  });
}

struct Table {
  const char* name;
  std::vector<const char*> key;  // columns; the row's name in findings is their values
  const char* separator;
  const char* where;
  std::vector<const char*> not_covered;
};
const std::vector<Table>& Ledger() {
  static const auto* tables = new std::vector<Table>{
      {"transfer", {"seq"}, "", "1", {}},
      {"account", {"account_no"}, "", "1", {}},
      {"credit_lot", {"lot_no"}, "", "1", {}},
      {"lot_use", {"event_seq", "account_no", "lot_no"}, "/", "1", {}},
      {"posting_use", {"transfer_seq", "lot_no"}, "/", "1", {}},
      {"usage_event", {"seq"}, "", "1", {}},
      {"rating", {"event_seq", "level"}, "/", "1", {}},
      {"usage_rollup", {"buyer_no", "period", "version_no", "position", "model_no"}, "", "1", {}},
      // Beside what was issued, which its hash covers: a memo of when.
      {"invoice", {"series", "number"}, "-", "1", {"issued_us"}},
      {"audit_log", {"seq"}, "", "1", {}},
      {"slice", {"slice_id"}, "", "open = 0", {}},
      {"hold", {"hold_id"}, "", "state <> 1", {}},
      {"credit_hop", {"credit_id"}, "", "open = 0", {}},
      // Where a period ends is as the time zone database had it then.
      {"budget_use", {"budget_no", "from_us"}, "/", "1", {"to_us"}},
      {"credit_budget", {"credit_id"}, "", "1", {}},
      {"budget_return", {"event_seq"}, "", "1", {}},
      {"witness", {"seq"}, "", "1", {}},
  };
  return *tables;
}

std::string RollupName(const std::vector<std::string>& key) {
  return absl::StrCat("buyer ", key[0], ", period ", key[1], ", version ", key[2], ", line ", key[3], ", model ",
                      key[4]);
}

std::string NameOf(const Table& table, const std::vector<std::string>& key) {
  if (key.size() == 5) return RollupName(key);
  return absl::StrJoin(key, table.separator);
}

// Whether a finding speaks of the table and the row.
bool Names(const AuditResult& audit, const Table& table, const std::string& name) {
  for (const Finding& finding : audit.findings) {
    const std::string text = absl::StrCat(finding.row, ": ", finding.detail);
    const size_t at = text.find(table.name);
    if (at != std::string::npos && absl::StrContains(text.substr(at), name)) return true;
    // All ratings of an event are hashed with it.
    if (table.name == absl::string_view("rating") &&
        absl::StrContains(text, absl::StrCat("rating ", name.substr(0, name.find('/')), "/*"))) {
      return true;
    }
  }
  return false;
}

class Flips : public testing::Test {
 protected:
  Flips() {
    Everything(books_);
    books_.Do([](Database&) { return absl::OkStatus(); });
    file_ = books_.dir() + "/flipped.db";
    EXPECT_TRUE(books_.store().CopyAndWait(file_).ok());
  }
  std::unique_ptr<Database> Open(const std::string& path) {
    absl::StatusOr<std::unique_ptr<Database>> db = Database::Open(path, Database::Mode::kWriter);
    EXPECT_TRUE(db.ok()) << db.status();
    return *std::move(db);
  }
  static std::vector<std::string> Texts(Rows rows, int columns) {
    std::vector<std::string> texts;
    while (rows.Next()) {
      for (int i = 0; i < columns; ++i) texts.push_back(rows.Text(i));
    }
    return texts;
  }

  // Names of all rows, from what shows the columns of the key.
  static std::vector<std::string> KeysOf(Database& db, const Table& table, const std::vector<std::string>& show) {
    std::vector<std::string> names;
    Rows rows = db.QueryText(absl::StrCat("SELECT ", absl::StrJoin(show, ", "), " FROM ", table.name));
    while (rows.Next()) {
      std::vector<std::string> key;
      for (size_t i = 0; i < show.size(); ++i) key.push_back(rows.Text(static_cast<int>(i)));
      names.push_back(NameOf(table, key));
    }
    return names;
  }

  Books books_;
  std::string file_;
};

TEST_F(Flips, ChangedColumnsAreNamed) {
  std::unique_ptr<Database> db = Open(file_);
  for (const std::string& trigger : Texts(db->Query("SELECT name FROM sqlite_schema WHERE type = 'trigger'"), 1)) {
    db->Script(absl::StrCat("DROP TRIGGER ", trigger).c_str());
  }
  db->Script("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF");
  ASSERT_TRUE(AuditBooks(*db).report.ok()) << AuditBooks(*db).report.DebugString();
  int flips = 0, impossible = 0;
  for (const Table& table : Ledger()) {
    const std::vector<std::string> columns =
        Texts(db->QueryText(absl::StrCat("SELECT name FROM pragma_table_info('", table.name, "')")), 1);
    const std::string key = absl::StrJoin(table.key, ", ");
    // Integers as numbers, bytes in hex, as findings have them and as SQL takes them.
    const auto shown = [](const std::string& column) {
      return absl::StrCat("iif(typeof(", column, ") = 'blob', lower(hex(", column, ")), ", column, ")");
    };
    std::vector<std::string> show, quote;
    for (const char* column : table.key) {
      show.push_back(shown(column));
      quote.push_back(absl::StrCat("'", column, " = ' || quote(", column, ")"));
    }
    const auto per_row = static_cast<int>(table.key.size()) + 1;
    // The whole key: that of a credit hop has the party too.
    const std::string where = table.name == absl::string_view("credit_hop")
                                  ? std::string("'credit_id = ' || quote(credit_id) || ' AND party_no = ' || party_no")
                                  : absl::StrJoin(quote, " || ' AND ' || ");
    const std::vector<std::string> rows =
        Texts(db->QueryText(absl::StrCat("SELECT ", absl::StrJoin(show, ", "), ", ", where, " FROM ", table.name,
                                         " WHERE ", table.where)),
              per_row);
    ASSERT_FALSE(rows.empty()) << table.name;
    const std::vector<std::string> keys = KeysOf(*db, table, show);
    for (size_t r = 0; r < rows.size(); r += static_cast<size_t>(per_row)) {
      const std::vector<std::string> before(rows.begin() + static_cast<std::ptrdiff_t>(r),
                                            rows.begin() + static_cast<std::ptrdiff_t>(r) + per_row - 1);
      const std::string& row = rows[r + static_cast<size_t>(per_row) - 1];
      for (const std::string& column : columns) {
        if (std::find(table.not_covered.begin(), table.not_covered.end(), column) != table.not_covered.end()) continue;
        for (const char* change : {"+ 1", "- 1", "* 1024 + 513"}) {
          if (!engine::LongTests() && change[0] != '+') continue;
          db->Script("BEGIN");
          db->QueryText(absl::StrCat("UPDATE ", table.name, " SET ", column, " = CASE typeof(", column,
                                     ") WHEN 'integer' THEN ", column, " ", change, " WHEN 'text' THEN ", column,
                                     " || 'x' WHEN 'blob' THEN CAST(iif(substr(", column,
                                     ", 1, 1) = x'5a', x'a5', x'5a') || substr(", column, ", 2) AS BLOB) ELSE 7 END",
                                     " WHERE ", row))
              .Next();
          if (!db->ok()) {
            ++impossible;  // another row has that key
            db->TakeError().IgnoreError();
          } else {
            ++flips;
            const AuditResult audit = AuditBooks(*db);
            EXPECT_FALSE(audit.report.ok()) << table.name << " " << row << ": " << column << " " << change;
            // By its key, or by the one that it got.
            bool named = Names(audit, table, NameOf(table, before));
            for (const std::string& key_now : KeysOf(*db, table, show)) {
              named |= std::find(keys.begin(), keys.end(), key_now) == keys.end() && Names(audit, table, key_now);
            }
            EXPECT_TRUE(named) << table.name << " " << NameOf(table, before) << ": " << column << " " << change << "\n"
                               << audit.report.DebugString();
          }
          db->Script("ROLLBACK");
          ASSERT_TRUE(db->TakeError().ok());
          if (testing::Test::HasFailure() && flips > 2000) return;
        }
      }
    }
  }
  ASSERT_TRUE(AuditBooks(*db).report.ok());
  std::printf("%d changed columns, all noticed and named; %d others would have broken a key\n", flips, impossible);
}

// What the ledger's tables hold, by queries that know their columns.
using Queries = std::map<std::string, std::string>;
Queries QueriesOf(Database& db) {
  Queries queries;
  for (const Table& table : Ledger()) {
    std::vector<std::string> columns;
    Rows rows = db.QueryText(absl::StrCat("SELECT name FROM pragma_table_info('", table.name, "')"));
    while (rows.Next()) {
      const std::string name = rows.Text(0);
      if (std::find(table.not_covered.begin(), table.not_covered.end(), name) == table.not_covered.end()) {
        columns.push_back(absl::StrCat("quote(", name, ")"));
      }
    }
    queries[table.name] = absl::StrCat("SELECT ", absl::StrJoin(columns, " || ',' || "), " FROM ", table.name,
                                       " NOT INDEXED WHERE ", table.where, " ORDER BY 1");
  }
  return queries;
}
std::map<std::string, std::string> Content(Database& db, const Queries& queries) {
  std::map<std::string, std::string> content;
  for (const auto& [table, query] : queries) {
    std::string text;
    Rows rows = db.QueryText(query);
    while (rows.Next()) absl::StrAppend(&text, rows.View(0), "\n");
    content[table] = std::move(text);
  }
  return content;
}

TEST_F(Flips, AChangedByteOfTheFileIsNoticedOrChangesNothing) {
  std::string bytes;
  {
    std::unique_ptr<Database> db = Open(file_);
    ASSERT_TRUE(db->Checkpoint(true, std::chrono::milliseconds(100)).ok());
  }
  {
    std::ifstream in(file_, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  ASSERT_GT(bytes.size(), 100'000u);
  Queries queries;
  std::map<std::string, std::string> before;
  {
    std::unique_ptr<Database> db = Open(file_);
    queries = QueriesOf(*db);
    before = Content(*db, queries);
    ASSERT_TRUE(db->TakeError().ok());
  }
  // Most of so small a file is free space.
  std::vector<size_t> used;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != 0) used.push_back(i);
  }
  std::mt19937_64 random(7);
  int noticed = 0, harmless = 0;
  const int flips = engine::LongTests() ? 20'000 : 300;
  const std::string path = books_.dir() + "/byte.db";
  for (int i = 0; i < flips; ++i) {
    std::string changed = bytes;
    const size_t at = used[random() % used.size()];
    changed[at] = static_cast<char>(changed[at] ^ (1 + static_cast<int>(random() % 255)));
    for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(path + end);
    std::ofstream(path, std::ios::binary) << changed;
    absl::StatusOr<std::unique_ptr<Database>> db = Database::Open(path, Database::Mode::kOffline);
    if (!db.ok()) {
      ++noticed;
      continue;
    }
    bool well = true;
    {
      Rows rows = (*db)->Query("PRAGMA integrity_check(1)");
      well = rows.Next() && rows.Text(0) == "ok";
    }
    well = (*db)->TakeError().ok() && well;
    if (well) {
      well = AuditBooks(**db).report.ok();
      well = (*db)->TakeError().ok() && well;
    }
    if (!well) {
      ++noticed;
      continue;
    }
    const std::map<std::string, std::string> after = Content(**db, queries);
    if (!(*db)->TakeError().ok()) {
      ++noticed;  // a table has another shape: no statement of ours works on it
      continue;
    }
    ++harmless;
    for (const auto& [table, content] : before) {
      EXPECT_EQ(after.at(table), content) << "byte " << at << " changed " << table << " unnoticed";
    }
  }
  std::printf("%d bytes changed: %d noticed, %d in what no row of the ledger stands on\n", flips, noticed, harmless);
  EXPECT_GT(noticed, flips / 20);
}

}  // namespace
}  // namespace gantry::billing
