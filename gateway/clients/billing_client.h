// The gateway's lines to billing: credit calls, the usage stream, and the watch streams that keep keys and prices
// current (leases: lease_line.h). Each comes back by itself after billing was away.
#pragma once

#include <memory>

#include "gateway/admission/credit_book.h"
#include "services/common/ids.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace gantry::gateway {

class KeyTable;
class PriceTable;
class UsageJournal;

// Calls have a deadline of 3 s.
std::unique_ptr<CreditClient> MakeCreditClient(std::shared_ptr<grpc::Channel> billing);

// Runs until destroyed. All arguments outlive it.
class BillingStreams {
 public:
  virtual ~BillingStreams() = default;
  // Whether usage is being taken and keys arrive.
  virtual bool connected() const = 0;
};
std::unique_ptr<BillingStreams> StartBillingStreams(std::shared_ptr<grpc::Channel> billing, const Id16& gateway_id,
                                                    uint64_t gateway_epoch, KeyTable* keys, PriceTable* prices,
                                                    UsageJournal* journal);

}  // namespace gantry::gateway
