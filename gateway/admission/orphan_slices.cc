#include "gateway/admission/orphan_slices.h"

#include <utility>

#include "gantry/v1/billing.pb.h"
#include "services/common/log.h"

namespace gantry::gateway {

bool ClosingIsOver(const absl::Status& status) {
  return status.ok() || absl::IsNotFound(status) || absl::IsFailedPrecondition(status) ||
         absl::IsInvalidArgument(status);
}

std::shared_ptr<OrphanSlices> OrphanSlices::Create(const std::vector<Slice>& slices, CreditClient* client,
                                                   std::function<void(const Id16&)> on_closed) {
  auto orphans = std::shared_ptr<OrphanSlices>(new OrphanSlices(client, std::move(on_closed)));
  absl::MutexLock lock(&orphans->mu_);
  for (const Slice& slice : slices) orphans->slices_[slice.id].records = slice.records;
  return orphans;
}

void OrphanSlices::RecordAcked(const Id16& slice) {
  absl::MutexLock lock(&mu_);
  auto it = slices_.find(slice);
  if (it != slices_.end() && it->second.records > 0) --it->second.records;
}

void OrphanSlices::Tick() {
  std::vector<Id16> due;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [id, state] : slices_) {
      if (state.records > 0 || state.closing) continue;
      state.closing = true;
      due.push_back(id);
    }
  }
  for (const Id16& id : due) Close(id);
}

void OrphanSlices::Close(const Id16& id) {
  v1::ReturnSliceRequest request;
  request.set_slice_id(id.ToBytes());
  // What was spent of it only billing knows: closing gives back whatever the records have left.
  request.set_close(true);
  client_->ReturnSlice(request,
                       [self = shared_from_this(), id](const absl::StatusOr<v1::ReturnSliceResponse>& response) {
                         const bool over = ClosingIsOver(response.status());
                         if (!response.ok()) {
                           Log(LogLevel::kWarning, "returning a slice of an earlier process failed",
                               {{"slice", id.ToHex()}, {"error", response.status().message()}, {"again", !over}});
                         }
                         {
                           absl::MutexLock lock(&self->mu_);
                           if (over) {
                             self->slices_.erase(id);
                           } else {
                             self->slices_[id].closing = false;
                           }
                         }
                         if (over && self->on_closed_) self->on_closed_(id);
                       });
}

int OrphanSlices::left() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(slices_.size());
}

}  // namespace gantry::gateway
