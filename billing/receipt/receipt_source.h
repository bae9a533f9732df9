// Where receipts find their facts: the one place that knows the tables of usage, prices and parties.
//
// Facts of one event never change once it is in the books, and events are only added at the end: a reader may take them
// page by page in transactions of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "billing/receipt/receipt.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct ReceiptSource {
  // Facts of the next events after `event_seq`, at most `events` of them, each with all its hops, in order.
  std::function<std::vector<ReceiptFacts>(Database&, int64_t event_seq, int64_t events)> after;
  // The same of one buyer alone.
  std::function<std::vector<ReceiptFacts>(Database&, const Id16& buyer, int64_t event_seq, int64_t events)> of_buyer;
  // Of one request, all its hops and corrections, in order.
  std::function<std::vector<ReceiptFacts>(Database&, const Id16& request_id)> of_request;
  std::function<int64_t(Database&)> last_event_seq;
  std::function<Id16(Database&)> house;
};

ReceiptSource ReceiptsFromBooks();

}  // namespace gantry::billing
