// Slices that an earlier process of this gateway left open: given back once billing has taken every record that names
// them, since those are settled against what stays set aside. Nothing is ever drawn from them. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "gateway/admission/credit_book.h"
#include "services/common/ids.h"

namespace gantry::gateway {

class OrphanSlices : public std::enable_shared_from_this<OrphanSlices> {
 public:
  struct Slice {
    Id16 id;
    uint32_t records = 0;  // that billing has not acked
  };
  // `client` outlives the object; `on_closed` is called for each slice that billing has closed.
  static std::shared_ptr<OrphanSlices> Create(const std::vector<Slice>& slices, CreditClient* client,
                                              std::function<void(const Id16&)> on_closed);

  // Billing has taken a record that names this slice.
  void RecordAcked(const Id16& slice);
  // Once a second: tries to return those without open records.
  void Tick();
  int left() const;

 private:
  struct State {
    uint32_t records = 0;
    bool closing = false;
  };
  OrphanSlices(CreditClient* client, std::function<void(const Id16&)> on_closed)
      : client_(client), on_closed_(std::move(on_closed)) {}
  void Close(const Id16& slice);

  CreditClient* const client_;
  const std::function<void(const Id16&)> on_closed_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, State> slices_ ABSL_GUARDED_BY(mu_);
};

// Whether billing's answer to the closing of a slice ends the matter: it is closed, or billing knows of no such slice.
bool ClosingIsOver(const absl::Status& status);

}  // namespace gantry::gateway
