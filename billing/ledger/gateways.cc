#include "billing/ledger/gateways.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

void AddMoney(Database& db, int64_t gateway_no, int64_t freed_after_us, v1::GatewayStatus* status) {
  std::map<std::string, v1::GatewayMoney> money;
  bool fenced = false;
  const auto add = [&](Rows rows, uint32_t* count) {
    while (rows.Next()) {
      v1::GatewayMoney& sum = money[rows.Text(0)];
      sum.set_set_aside_micro(sum.set_aside_micro() + rows.Int(1));
      if (rows.Int(2) == 1) {
        sum.set_fenced_micro(sum.fenced_micro() + rows.Int(1));
        fenced = true;
      }
      *count += static_cast<uint32_t>(rows.Int(3));
    }
  };
  uint32_t slices = 0, holds = 0;
  add(db.Query("SELECT p.currency, sum(s.granted_micro - s.spent_micro - s.returned_micro), "
               "s.gateway_epoch < g.epoch, count(*) FROM slice s JOIN gateway g USING (gateway_no) "
               "JOIN party p ON p.party_no = s.party_no WHERE s.gateway_no = ? AND s.open = 1 GROUP BY 1, 3",
               gateway_no),
      &slices);
  add(db.Query("SELECT p.currency, sum(h.held_micro), h.gateway_epoch < g.epoch, count(*) FROM hold h "
               "JOIN gateway g USING (gateway_no) JOIN party p ON p.party_no = h.party_no "
               "WHERE h.gateway_no = ? AND h.state = 1 GROUP BY 1, 3",
               gateway_no),
      &holds);
  status->set_open_slices(slices);
  status->set_open_holds(holds);
  for (auto& [currency, sum] : money) {
    sum.set_currency(currency);
    *status->add_money() = std::move(sum);
  }
  if (fenced) status->set_freed_us(status->since_us() + freed_after_us);
}

struct Row {
  int64_t gateway_no;
  v1::GatewayStatus status;
};

std::vector<Row> ReadAll(Database& db) {
  std::vector<Row> all;
  Rows rows = db.Query(
      "SELECT g.gateway_no, g.gateway_id, g.epoch, g.since_us, coalesce(e.left_us, 0), coalesce(e.forgotten_us, 0) "
      "FROM gateway g LEFT JOIN gateway_end e USING (gateway_no) ORDER BY g.gateway_no");
  while (rows.Next()) {
    Row row{.gateway_no = rows.Int(0), .status = {}};
    row.status.set_gateway_id(rows.Text(1));
    row.status.set_epoch(static_cast<uint64_t>(rows.Int(2)));
    row.status.set_since_us(rows.Int(3));
    row.status.set_left_us(rows.Int(4));
    row.status.set_forgotten_us(rows.Int(5));
    all.push_back(std::move(row));
  }
  return all;
}

}  // namespace

std::vector<v1::GatewayStatus> ListGateways(Database& db, int64_t freed_after_us) {
  std::vector<v1::GatewayStatus> list;
  for (Row& row : ReadAll(db)) {
    AddMoney(db, row.gateway_no, freed_after_us, &row.status);
    list.push_back(std::move(row.status));
  }
  return list;
}

absl::StatusOr<v1::GatewayStatus> FindGateway(Database& db, const Id16& gateway_id, int64_t freed_after_us) {
  for (Row& row : ReadAll(db)) {
    if (row.status.gateway_id() != gateway_id.ToBytes()) continue;
    AddMoney(db, row.gateway_no, freed_after_us, &row.status);
    return std::move(row.status);
  }
  return absl::NotFoundError(
      absl::StrCat("no gateway ", gateway_id.ToHex(), "; `gantry gateway list` shows those that there are"));
}

absl::Status ForgetGateway(Database& db, const Id16& gateway_id, int64_t now_us) {
  int64_t number = 0;
  {
    Rows rows = db.Query("SELECT gateway_no FROM gateway WHERE gateway_id = ?", gateway_id);
    if (rows.Next()) number = rows.Int(0);
  }
  if (number == 0) return FindGateway(db, gateway_id, 0).status();
  // Epochs are microseconds since 1970 or more (services/common/instance.h): its next start is larger.
  db.Execute("UPDATE gateway SET epoch = max(epoch + 1, ?), since_us = ? WHERE gateway_no = ?", now_us, now_us, number);
  db.Execute("INSERT OR REPLACE INTO gateway_end (gateway_no, left_us, forgotten_us) VALUES (?, 0, ?)", number, now_us);
  return absl::OkStatus();
}

void NoteLeft(Database& db, int64_t gateway_no, int64_t now_us) {
  db.Execute("INSERT OR REPLACE INTO gateway_end (gateway_no, left_us, forgotten_us) VALUES (?, ?, 0)", gateway_no,
             now_us);
}

void NoteReturned(Database& db, int64_t gateway_no) {
  db.Execute("DELETE FROM gateway_end WHERE gateway_no = ?", gateway_no);
}

std::vector<Id16> GatewaysThatMayRun(Database& db) {
  std::vector<Id16> gateways;
  Rows rows = db.Query("SELECT gateway_id FROM gateway WHERE gateway_no NOT IN (SELECT gateway_no FROM gateway_end)");
  while (rows.Next()) gateways.push_back(rows.Id(0));
  return gateways;
}

}  // namespace gantry::billing
