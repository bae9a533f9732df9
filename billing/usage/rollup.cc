#include "billing/usage/rollup.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPicoPerUnit = 1'000'000'000'000;

}  // namespace

void Rollups::Add(const RollupKey& key, int64_t model_no, const std::vector<Charge>& charges) {
  for (const Charge& charge : charges) {
    Sum& sum = pending_[{key, charge.line, model_no}];
    sum.quantity += charge.quantity;
    sum.amount += charge.amount_pico;
  }
}

void Rollups::Flush() {
  for (const auto& [where, sum] : pending_) {
    const auto& [key, line, model_no] = where;
    // Rounded down, so that what remains is never negative.
    __int128 units = sum.amount / kPicoPerUnit, pico = sum.amount % kPicoPerUnit;
    if (pico < 0) {
      pico += kPicoPerUnit;
      --units;
    }
    db_.Execute(
        "INSERT INTO usage_rollup (buyer_no, period, version_no, position, model_no, quantity, amount_units, "
        "amount_pico) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "quantity = quantity + excluded.quantity, "
        "amount_units = amount_units + excluded.amount_units + (amount_pico + excluded.amount_pico) / 1000000000000, "
        "amount_pico = (amount_pico + excluded.amount_pico) % 1000000000000",
        key.buyer_no, key.period, key.version_no, line, model_no, sum.quantity, static_cast<int64_t>(units),
        static_cast<int64_t>(pico));
  }
  pending_.clear();
}

int64_t Rollups::UnitsOfLine(const RollupKey& key, int line) {
  Flush();
  Rows rows = db_.Query(
      "SELECT coalesce(sum(quantity), 0) FROM usage_rollup WHERE buyer_no = ? AND period = ? AND version_no = ? "
      "AND position = ?",
      key.buyer_no, key.period, key.version_no, line);
  return rows.Next() ? rows.Int(0) : 0;
}

__int128 Rollups::GrossOfVersion(const RollupKey& key) {
  Flush();
  Rows rows = db_.Query(
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
