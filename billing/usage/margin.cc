#include "billing/usage/margin.h"

#include "billing/catalog/periods.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<v1::MarginReportResponse> MarginReport(Database& db, const v1::MarginReportRequest& request) {
  absl::StatusOr<PartyRow> seller =
      request.seller_name().empty() ? HouseOf(db) : PartyByName(db, request.seller_name());
  if (!seller.ok()) return seller.status();
  GANTRY_ASSIGN_OR_RETURN(const int64_t period, ParsePeriod(request.period()));
  v1::MarginReportResponse response;
  response.set_currency(seller->currency);
  Rows rows = db.Query(
      "SELECT p.name, m.name, sum(u.requests), sum(sold.amount_pico), sum(coalesce(bought.amount_pico, 0)) "
      "FROM rating sold JOIN usage_event u ON u.seq = sold.event_seq JOIN party p ON p.party_no = sold.buyer_no "
      "JOIN model m USING (model_no) "
      "LEFT JOIN rating bought ON bought.event_seq = sold.event_seq AND bought.level = sold.level + 1 "
      "WHERE sold.seller_no = ? AND sold.period = ? GROUP BY p.name, m.name ORDER BY p.name, m.name",
      seller->party_no, period);
  while (rows.Next()) {
    v1::MarginRow* row = response.add_rows();
    row->set_buyer_name(rows.Text(0));
    row->set_model(rows.Text(1));
    row->set_requests(static_cast<uint64_t>(rows.Int(2)));
    row->set_sold_pico(rows.Int(3));
    row->set_bought_pico(rows.Int(4));
  }
  return response;
}

}  // namespace gantry::billing
