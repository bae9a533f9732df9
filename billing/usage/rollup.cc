#include "billing/usage/rollup.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPicoPerUnit = 1'000'000'000'000;

}  // namespace

void AddToRollup(Database& db, const RollupKey& key, int64_t model_no, const std::vector<Charge>& charges) {
  for (const Charge& charge : charges) {
    int64_t units = charge.amount_pico / kPicoPerUnit, pico = charge.amount_pico % kPicoPerUnit;
    if (pico < 0) {
      pico += kPicoPerUnit;
      --units;
    }
    db.Execute(
        "INSERT INTO usage_rollup (buyer_no, period, version_no, position, model_no, quantity, amount_units, "
        "amount_pico) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "quantity = quantity + excluded.quantity, "
        "amount_units = amount_units + excluded.amount_units + (amount_pico + excluded.amount_pico) / 1000000000000, "
        "amount_pico = (amount_pico + excluded.amount_pico) % 1000000000000",
        key.buyer_no, key.period, key.version_no, charge.line, model_no, charge.quantity, units, pico);
  }
}

int64_t UnitsOfLine(Database& db, const RollupKey& key, int line) {
  Rows rows = db.Query(
      "SELECT coalesce(sum(quantity), 0) FROM usage_rollup WHERE buyer_no = ? AND period = ? AND version_no = ? "
      "AND position = ?",
      key.buyer_no, key.period, key.version_no, line);
  return rows.Next() ? rows.Int(0) : 0;
}

__int128 GrossOfVersion(Database& db, const RollupKey& key) {
  Rows rows = db.Query(
      "SELECT coalesce(sum(amount_units), 0), coalesce(sum(amount_pico), 0) FROM usage_rollup "
      "WHERE buyer_no = ? AND period = ? AND version_no = ?",
      key.buyer_no, key.period, key.version_no);
  return rows.Next() ? static_cast<__int128>(rows.Int(0)) * kPicoPerUnit + rows.Int(1) : 0;
}

std::vector<RollupRow> RollupOf(Database& db, int64_t buyer_no, int64_t period) {
  std::vector<RollupRow> result;
  Rows rows = db.Query(
      "SELECT v.plan_version_id, r.position, m.name, r.quantity, r.amount_units, r.amount_pico FROM usage_rollup r "
      "JOIN plan_version v USING (version_no) JOIN model m USING (model_no) "
      "WHERE r.buyer_no = ? AND r.period = ? AND (r.quantity <> 0 OR r.amount_units <> 0 OR r.amount_pico <> 0) "
      "ORDER BY r.version_no, r.position, m.name",
      buyer_no, period);
  while (rows.Next()) {
    result.push_back({.plan_version_id = rows.Id(0),
                      .line = static_cast<int>(rows.Int(1)),
                      .model = rows.Text(2),
                      .quantity = rows.Int(3),
                      .amount_pico = static_cast<__int128>(rows.Int(4)) * kPicoPerUnit + rows.Int(5)});
  }
  return result;
}

}  // namespace gantry::billing
