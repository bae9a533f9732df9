#include "gateway/admission/credit_book.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "engine/base/check.h"
#include "gantry/v1/billing.pb.h"
#include "gateway/admission/orphan_slices.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {
constexpr double kLifeSpent = 0.9;                             // R9
constexpr absl::Duration kBackgroundPause = absl::Seconds(5);  // after billing said no
// A grant whose answer was lost may still be on its way through billing for so long.
constexpr absl::Duration kLostGrantSettles = absl::Seconds(10);
// So long before a slice's end running requests take what they may still need: longer than any gap between frames.
constexpr absl::Duration kLastCall = absl::Minutes(1);
constexpr int64_t kMaxSliceMicro = 1'000'000'000'000'000;  // 10^9 units: past any honest balance
}  // namespace

std::shared_ptr<CreditBook> CreditBook::Create(Options options, CreditClient* client) {
  return std::shared_ptr<CreditBook>(new CreditBook(std::move(options), client));
}

CreditBook::CreditBook(Options options, CreditClient* client) : options_(std::move(options)), client_(client) {}
CreditBook::~CreditBook() = default;

// ---- holds ----

CreditBook::Hold::~Hold() {
  if (!open_) return;
  if (reserved_) {
    book_->Void(credit_, purse_);
    return;
  }
  bool wanted_back = false;
  {
    absl::MutexLock lock(&book_->mu_);
    if (Slice* slice = book_->FindLocked(purse_, credit_)) {
      slice->held -= held_;
      slice->extensions -= extension_;
      --slice->open_holds;
      wanted_back = slice->recalled;
    }
  }
  if (wanted_back) book_->GiveBack(purse_);
}

bool CreditBook::Hold::Extend(int64_t micro) {
  if (reserved_) return book_->ExtendReserved(this, micro);
  {
    absl::MutexLock lock(&book_->mu_);
    Slice* slice = book_->FindLocked(purse_, credit_);
    if (slice == nullptr || !open_ || book_->options_.monotonic() >= slice->spend_until || slice->free() < micro) {
      return false;
    }
    slice->held += micro;
    held_ += micro;
  }
  book_->RefillAhead(purse_);
  return true;
}

bool CreditBook::Hold::LastCall() const {
  if (reserved_) return false;
  absl::MutexLock lock(&book_->mu_);
  const Slice* slice = book_->FindLocked(purse_, credit_);
  return slice != nullptr && book_->options_.monotonic() >= slice->last_call;
}

void CreditBook::Hold::Complete() {
  bool wanted_back = false;
  if (!reserved_) {
    absl::MutexLock lock(&book_->mu_);
    if (Slice* slice = book_->FindLocked(purse_, credit_)) {
      slice->extensions -= extension_;
      wanted_back = slice->recalled && extension_ > 0;
    }
  }
  extension_ = 0;
  if (wanted_back) book_->GiveBack(purse_);
}

void CreditBook::Hold::Settle(int64_t cost_micro) {
  bool wanted_back = false;
  {
    absl::MutexLock lock(&book_->mu_);
    GANTRY_CHECK(open_, "a hold is settled once");
    open_ = false;
    const absl::Duration now = book_->options_.monotonic();
    if (reserved_) {
      book_->reserved_.erase(credit_);
      book_->ended_.insert_or_assign(credit_, Ended{purse_, now});
      return;
    }
    Slice* slice = book_->FindLocked(purse_, credit_);
    if (slice == nullptr) return;
    slice->held -= held_;
    slice->extensions -= extension_;
    --slice->open_holds;
    // The hold covers the cost by construction; a slice is never overdrawn on paper whatever happens.
    slice->spent += std::min(cost_micro, held_);
    ++slice->unacked;
    slice->settled_at = now;
    wanted_back = slice->recalled;
  }
  if (wanted_back) book_->GiveBack(purse_);
}

std::unique_ptr<CreditBook::Hold> CreditBook::Draw(const Purse& purse, int64_t micro, int64_t extension_micro) {
  std::unique_ptr<Hold> hold;
  {
    absl::MutexLock lock(&mu_);
    auto it = accounts_.find(purse);
    if (it == accounts_.end()) return nullptr;
    const absl::Duration now = options_.monotonic();
    Slice* best = nullptr;
    for (Slice& slice : it->second.slices) {
      if (slice.retired || now >= slice.draw_until) continue;
      if (slice.free() - slice.extensions < micro + extension_micro) continue;
      if (best == nullptr || slice.free() - slice.extensions > best->free() - best->extensions) best = &slice;
    }
    if (best == nullptr) return nullptr;
    best->held += micro;
    best->extensions += extension_micro;
    ++best->open_holds;
    hold.reset(new Hold(shared_from_this(), purse, best->id, /*reserved=*/false, micro, extension_micro));
  }
  RefillAhead(purse);
  return hold;
}

// ---- refills ----

bool CreditBook::WantsMoreLocked(const Account& account) const {
  const absl::Duration now = options_.monotonic();
  if (now < account.reserve_until) return false;
  int64_t usable = 0;
  for (const Slice& slice : account.slices) {
    if (!slice.retired && now < slice.draw_until) usable += std::max<int64_t>(0, slice.free());
  }
  return usable < options_.slice_micro / 2 && now >= account.no_background_until;
}

void CreditBook::RefillAhead(const Purse& purse) {
  {
    absl::MutexLock lock(&mu_);
    Account& account = accounts_[purse];
    if (account.refilling || !WantsMoreLocked(account)) return;
    account.refilling = true;
    account.refill_minimum = 1;
  }
  StartRefill(purse, /*minimum=*/1, /*consolidated=*/true);
}

void CreditBook::Refill(const Purse& purse, int64_t minimum_micro, std::function<void(absl::Status)> done) {
  {
    absl::MutexLock lock(&mu_);
    Account& account = accounts_[purse];
    account.waiters.push_back({minimum_micro, std::move(done)});
    if (account.refilling) return;  // FinishRefill asks again if that was not enough
    account.refilling = true;
    account.refill_minimum = minimum_micro;
  }
  StartRefill(purse, minimum_micro, /*consolidated=*/false);
}

void CreditBook::StartRefill(const Purse& purse, int64_t minimum, bool consolidated) {
  const Id16 slice_id = NewTimeOrderedId();
  v1::GrantSliceRequest request;
  request.set_slice_id(slice_id.ToBytes());
  request.set_gateway_id(options_.gateway_id.ToBytes());
  request.set_gateway_epoch(options_.gateway_epoch);
  request.set_party_id(purse.party.ToBytes());
  if (!purse.key.IsZero()) request.set_key_id(purse.key.ToBytes());
  minimum = std::clamp<int64_t>(minimum, 1, kMaxSliceMicro);
  request.set_minimum_micro(minimum);
  request.set_wanted_micro(std::max(minimum, options_.slice_micro));
  const absl::Duration sent = options_.monotonic();
  client_->GrantSlice(request, [self = shared_from_this(), purse, minimum, consolidated, slice_id,
                                sent](absl::StatusOr<v1::GrantSliceResponse> response) {
    self->OnGranted(purse, minimum, consolidated, slice_id, sent, response);
  });
}

void CreditBook::OnGranted(const Purse& purse, int64_t minimum, bool consolidated, const Id16& slice_id,
                           absl::Duration sent, const absl::StatusOr<v1::GrantSliceResponse>& response) {
  if (response.ok() && response->reserve()) {
    {
      absl::MutexLock lock(&mu_);
      accounts_[purse].reserve_until = options_.monotonic() + options_.reserve_for;
    }
    return FinishRefill(purse, absl::OkStatus());
  }
  if (response.ok()) {
    absl::Status written =
        options_.on_grant ? options_.on_grant(slice_id, purse.party, response->granted_micro()) : absl::OkStatus();
    Slice slice;
    slice.id = slice_id;
    slice.granted = response->granted_micro();
    const absl::Duration life = absl::Milliseconds(response->ttl_ms()) * kLifeSpent;
    slice.spend_until = sent + life;
    slice.last_call = slice.spend_until - std::min(kLastCall, life / 4);
    // A life shorter than two requests is halved between drawing and growing.
    slice.draw_until = sent + std::max(life / 2, life - options_.request_life);
    slice.retired = !written.ok();
    bool wanted_back = false;
    {
      absl::MutexLock lock(&mu_);
      // A grant that was on its way when billing called its slices back.
      wanted_back = std::any_of(recalls_.begin(), recalls_.end(), [&](const PendingRecall& recall) {
        return std::find(recall.purses.begin(), recall.purses.end(), purse) != recall.purses.end();
      });
      slice.recalled = wanted_back;
      slice.retired = slice.retired || wanted_back;
      accounts_[purse].slices.push_back(slice);
      purse_of_slice_.insert_or_assign(slice_id, purse);
    }
    if (!written.ok()) {
      CloseFinished();
      return FinishRefill(purse, absl::UnavailableError(written.message()));
    }
    if (wanted_back) GiveBack(purse);
    return FinishRefill(purse, absl::OkStatus());
  }
  // What is left of the money may lie in our own slices, each too small: put it together once, then ask again.
  const bool gone = absl::IsFailedPrecondition(response.status()) || absl::IsOutOfRange(response.status());
  if (gone && !consolidated) {
    bool returning = ReturnFree(purse, /*recalled_only=*/false, [self = shared_from_this(), purse, minimum] {
      self->StartRefill(purse, minimum, /*consolidated=*/true);
    });
    if (returning) return;
  }
  if (absl::IsDeadlineExceeded(response.status()) || absl::IsUnavailable(response.status())) {
    absl::MutexLock lock(&mu_);
    lost_grants_.insert_or_assign(slice_id, LostGrant{purse, sent});
  }
  FinishRefill(purse, response.status());
}

void CreditBook::FinishRefill(const Purse& purse, const absl::Status& status) {
  std::vector<Waiter> waiters;
  int64_t again = 0;
  {
    absl::MutexLock lock(&mu_);
    Account& account = accounts_[purse];
    if (!status.ok()) account.no_background_until = options_.monotonic() + kBackgroundPause;
    // A background refill asks for little; whoever came meanwhile and needs more gets a refill of its own.
    std::vector<Waiter> larger;
    const bool gone = absl::IsFailedPrecondition(status) || absl::IsOutOfRange(status);
    const bool holds_of_their_own = options_.monotonic() < account.reserve_until;
    for (Waiter& waiter : account.waiters) {
      (!holds_of_their_own && waiter.minimum > account.refill_minimum && (status.ok() || gone) ? larger : waiters)
          .push_back(std::move(waiter));
    }
    account.waiters = std::move(larger);
    for (const Waiter& waiter : account.waiters) again = std::max(again, waiter.minimum);
    account.refilling = again > 0;
    account.refill_minimum = again;
  }
  for (Waiter& waiter : waiters) waiter.done(status);
  CheckRecalls();
  if (again > 0) StartRefill(purse, again, /*consolidated=*/false);
}

bool CreditBook::ReturnFree(const Purse& purse, bool recalled_only, std::function<void()> done) {
  std::vector<v1::ReturnSliceRequest> requests;
  {
    absl::MutexLock lock(&mu_);
    Account& account = accounts_[purse];
    for (Slice& slice : account.slices) {
      if (recalled_only && !slice.recalled) continue;
      int64_t give = slice.free() - slice.extensions;
      // One that nothing uses any more is closed instead.
      if (slice.closing || give <= 0 || (slice.recalled && slice.open_holds == 0 && slice.unacked == 0)) continue;
      slice.returned += give;
      v1::ReturnSliceRequest request;
      request.set_slice_id(slice.id.ToBytes());
      request.set_returned_micro(slice.returned);
      requests.push_back(std::move(request));
    }
    account.returning += static_cast<int>(requests.size());
  }
  if (requests.empty()) return false;
  auto left = std::make_shared<std::atomic<size_t>>(requests.size());
  for (const v1::ReturnSliceRequest& request : requests) {
    client_->ReturnSlice(
        request, [self = shared_from_this(), purse, left, done](const absl::StatusOr<v1::ReturnSliceResponse>&) {
          {
            absl::MutexLock lock(&self->mu_);
            --self->accounts_[purse].returning;
          }
          if (left->fetch_sub(1) != 1) return;
          if (done) done();
          self->CheckRecalls();
        });
  }
  return true;
}

// ---- the end of slices ----

CreditBook::Slice* CreditBook::FindLocked(const Purse& purse, const Id16& slice_id) {
  auto it = accounts_.find(purse);
  if (it == accounts_.end()) return nullptr;
  for (Slice& slice : it->second.slices) {
    if (slice.id == slice_id) return &slice;
  }
  return nullptr;
}

void CreditBook::RecordAcked(const Id16& credit) {
  bool wanted_back = false;
  {
    absl::MutexLock lock(&mu_);
    const auto it = purse_of_slice_.find(credit);
    if (it == purse_of_slice_.end()) {
      if (ended_.erase(credit) == 0 || recalls_.empty()) return;
    } else {
      Slice* slice = FindLocked(it->second, credit);
      if (slice != nullptr && slice->unacked > 0) --slice->unacked;
      wanted_back = slice != nullptr && slice->recalled && slice->unacked == 0 && slice->open_holds == 0;
    }
  }
  if (wanted_back) CloseFinished();
  CheckRecalls();
}

void CreditBook::Tick() {
  {
    absl::MutexLock lock(&mu_);
    const absl::Duration now = options_.monotonic();
    for (auto& [purse, account] : accounts_) {
      for (Slice& slice : account.slices) {
        if (now >= slice.spend_until || slice.free() <= 0) slice.retired = true;
        // Nothing can be drawn and nothing that runs needs it.
        if (now >= slice.draw_until && slice.open_holds == 0) slice.retired = true;
      }
    }
  }
  CloseFinished();
  UndoLostGrants();
  SendVoids();
  CheckRecalls();
}

// Returned unspent under its own id, which is harmless if the grant never was. Tried until billing has answered, and
// once more after every grant that was still under way must have been done.
void CreditBook::UndoLostGrants() {
  std::vector<std::pair<Id16, LostGrant>> lost;
  {
    absl::MutexLock lock(&mu_);
    lost.assign(lost_grants_.begin(), lost_grants_.end());
  }
  for (const auto& [slice_id, grant] : lost) {
    v1::ReturnSliceRequest undo;
    undo.set_slice_id(slice_id.ToBytes());
    undo.set_close(true);
    client_->ReturnSlice(undo, [self = shared_from_this(), id = slice_id,
                                asked = grant.sent](const absl::StatusOr<v1::ReturnSliceResponse>& response) {
      const bool never_was =
          absl::IsNotFound(response.status()) && self->options_.monotonic() > asked + kLostGrantSettles;
      if (!response.ok() && !never_was) return;
      {
        absl::MutexLock lock(&self->mu_);
        self->lost_grants_.erase(id);
      }
      self->CheckRecalls();
    });
  }
}

void CreditBook::ReturnAll() {
  {
    absl::MutexLock lock(&mu_);
    for (auto& [purse, account] : accounts_) {
      for (Slice& slice : account.slices) slice.retired = true;
    }
  }
  CloseFinished();
  UndoLostGrants();
  SendVoids();
}

void CreditBook::CloseFinished() {
  std::vector<v1::ReturnSliceRequest> requests;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [purse, account] : accounts_) {
      for (Slice& slice : account.slices) {
        // Not before billing has every record of it: they are settled against what stays set aside.
        if (!slice.retired || slice.closing || slice.open_holds > 0 || slice.unacked > 0) continue;
        slice.closing = true;
        slice.returned += slice.free();
        v1::ReturnSliceRequest request;
        request.set_slice_id(slice.id.ToBytes());
        request.set_returned_micro(slice.returned);
        request.set_close(true);
        requests.push_back(std::move(request));
      }
    }
  }
  for (const v1::ReturnSliceRequest& request : requests) {
    const Id16 slice_id = *Id16::FromBytes(request.slice_id());
    client_->ReturnSlice(
        request, [self = shared_from_this(), slice_id](const absl::StatusOr<v1::ReturnSliceResponse>& response) {
          const bool over = ClosingIsOver(response.status());
          if (!response.ok()) {
            Log(LogLevel::kWarning, "returning a slice failed",
                {{"slice", slice_id.ToHex()}, {"error", response.status().message()}, {"again", !over}});
          }
          {
            absl::MutexLock lock(&self->mu_);
            auto it = self->purse_of_slice_.find(slice_id);
            if (it == self->purse_of_slice_.end()) return;
            Slice* slice = self->FindLocked(it->second, slice_id);
            if (!over) {
              if (slice != nullptr) slice->closing = false;  // the next Tick tries again
              return;
            }
            std::erase_if(self->accounts_.find(it->second)->second.slices,
                          [&](const Slice& s) { return s.id == slice_id; });
            self->purse_of_slice_.erase(it);
          }
          if (self->options_.on_closed) self->options_.on_closed(slice_id);
          self->CheckRecalls();
        });
  }
}

CreditBook::Totals CreditBook::TotalsOf(const Purse& purse) const {
  absl::MutexLock lock(&mu_);
  Totals totals;
  auto it = accounts_.find(purse);
  if (it == accounts_.end()) return totals;
  for (const Slice& slice : it->second.slices) {
    totals.granted_micro += slice.granted;
    totals.held_micro += slice.held;
    totals.spent_micro += slice.spent;
    totals.returned_micro += slice.returned;
    ++totals.slices;
  }
  return totals;
}

int CreditBook::closing() const {
  absl::MutexLock lock(&mu_);
  int count = static_cast<int>(voids_.size());
  for (const auto& [purse, account] : accounts_) {
    for (const Slice& slice : account.slices) count += slice.retired && slice.open_holds == 0 && slice.unacked == 0;
  }
  return count;
}

int CreditBook::open_slices() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(purse_of_slice_.size());
}

}  // namespace gantry::gateway
