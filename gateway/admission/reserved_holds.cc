// The book when money is short (R6): holds of single requests, and slices that billing calls back.
#include <algorithm>
#include <optional>
#include <utility>

#include "gantry/v1/billing.pb.h"
#include "gantry/v1/lease.pb.h"
#include "gateway/admission/credit_book.h"

namespace gantry::gateway {
namespace {

// After billing refused an extension, or did not answer, it is not asked again at once: frames come often.
constexpr absl::Duration kExtendPause = absl::Milliseconds(250);
// A record that has not come through by then is not waited for: what it pays for is not free.
constexpr absl::Duration kRecordWait = absl::Seconds(2);

// Whether billing's answer ends the matter of a hold that nobody needs. Voiding one that was never reserved makes its
// id unusable: the reservation may still be on its way.
bool VoidingIsOver(const absl::Status& status) {
  return status.ok() || absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status);
}

}  // namespace

// ---- holds of single requests ----

void CreditBook::Obtain(const CreditNeed& need, const Id16& request_id,
                        std::function<void(absl::StatusOr<std::unique_ptr<Hold>>)> done) {
  const auto reserving = [this, purse = need.purse] {
    absl::MutexLock lock(&mu_);
    return options_.monotonic() < accounts_[purse].reserve_until;
  };
  if (reserving()) return StartReserve(need, request_id, std::move(done));
  Refill(need.purse, need.minimum_micro(),
         [self = shared_from_this(), reserving, need, request_id, done = std::move(done)](const absl::Status& status) {
           if (!status.ok()) return done(status);
           if (reserving()) return self->StartReserve(need, request_id, done);
           done(std::unique_ptr<Hold>());
         });
}

void CreditBook::StartReserve(const CreditNeed& need, const Id16& request_id,
                              std::function<void(absl::StatusOr<std::unique_ptr<Hold>>)> done) {
  const Id16 hold_id = NewTimeOrderedId();
  v1::ReserveRequest request;
  request.set_hold_id(hold_id.ToBytes());
  request.set_gateway_id(options_.gateway_id.ToBytes());
  request.set_gateway_epoch(options_.gateway_epoch);
  request.set_party_id(need.purse.party.ToBytes());
  request.set_key_id(need.key.ToBytes());
  request.set_request_id(request_id.ToBytes());
  request.set_plan_version_id(need.plan_version.ToBytes());
  request.set_amount_micro(std::max<int64_t>(1, need.minimum_micro()));
  client_->Reserve(request, [self = shared_from_this(), need, hold_id,
                             done = std::move(done)](const absl::StatusOr<v1::HoldResponse>& response) {
    if (!response.ok()) {
      if (absl::IsDeadlineExceeded(response.status()) || absl::IsUnavailable(response.status())) {
        self->Void(hold_id, need.purse);  // harmless if there is none
      }
      return done(response.status());
    }
    {
      absl::MutexLock lock(&self->mu_);
      self->reserved_.insert_or_assign(
          hold_id, Reserved{.purse = need.purse, .held = response->held_micro(), .used = need.micro, .wake = nullptr});
      ++self->reserved_total_;
    }
    done(std::unique_ptr<Hold>(
        new Hold(self, need.purse, hold_id, /*reserved=*/true, need.micro, need.extension_micro)));
  });
}

void CreditBook::Hold::OnGrown(std::function<void()> wake) {
  if (!reserved_) return;
  absl::MutexLock lock(&book_->mu_);
  const auto it = book_->reserved_.find(credit_);
  if (it != book_->reserved_.end()) it->second.wake = std::move(wake);
}

bool CreditBook::ExtendReserved(Hold* hold, int64_t micro) {
  std::optional<v1::ExtendHoldRequest> request;
  bool extended = false;
  {
    absl::MutexLock lock(&mu_);
    const auto it = reserved_.find(hold->credit_);
    if (it == reserved_.end()) return false;
    Reserved& state = it->second;
    extended = state.held - state.used >= micro;
    if (extended) {
      state.used += micro;
      hold->held_ += micro;
    }
    // The next extension is to be there when it is needed.
    const int64_t room = state.held - state.used;
    const int64_t missing = (extended ? hold->extension_ : std::max(micro, hold->extension_)) - room;
    if (missing > 0 && !state.asking && options_.monotonic() >= state.pause_until) {
      // An extension whose outcome is unknown is asked for again as it was.
      if (state.asked == 0) state.asked = missing;
      state.asking = true;
      request.emplace();
      request->set_hold_id(hold->credit_.ToBytes());
      request->set_extension(state.extensions + 1);
      request->set_add_micro(state.asked);
    }
  }
  if (request.has_value()) {
    client_->ExtendHold(
        *request, [self = shared_from_this(), id = hold->credit_](const absl::StatusOr<v1::HoldResponse>& response) {
          self->OnExtended(id, response);
        });
  }
  return extended;
}

void CreditBook::OnExtended(const Id16& hold, const absl::StatusOr<v1::HoldResponse>& response) {
  std::function<void()> wake;
  {
    absl::MutexLock lock(&mu_);
    const auto it = reserved_.find(hold);
    if (it == reserved_.end()) return;  // the request has ended
    Reserved& state = it->second;
    state.asking = false;
    if (response.ok()) {
      state.held = response->held_micro();
      ++state.extensions;
      state.asked = 0;
      wake = state.wake;
    } else {
      state.pause_until = options_.monotonic() + kExtendPause;
      const bool unknown = absl::IsDeadlineExceeded(response.status()) || absl::IsUnavailable(response.status());
      if (!unknown) state.asked = 0;
    }
  }
  if (wake) wake();
}

void CreditBook::Void(const Id16& hold, const Purse& purse) {
  {
    absl::MutexLock lock(&mu_);
    reserved_.erase(hold);
    voids_.insert_or_assign(hold, Voiding{purse});
  }
  SendVoids();
}

void CreditBook::RecordRefused(const Id16& credit) {
  std::optional<Purse> purse;
  {
    absl::MutexLock lock(&mu_);
    const auto it = ended_.find(credit);
    if (it != ended_.end()) {
      purse = it->second.purse;
      ended_.erase(it);
    }
  }
  purse.has_value() ? Void(credit, *purse) : RecordAcked(credit);
}

void CreditBook::SendVoids() {
  std::vector<Id16> due;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [id, voiding] : voids_) {
      if (std::exchange(voiding.sent, true)) continue;
      due.push_back(id);
    }
  }
  for (const Id16& id : due) {
    v1::VoidHoldRequest request;
    request.set_hold_id(id.ToBytes());
    request.set_reason("nothing was served");
    client_->VoidHold(request, [self = shared_from_this(), id](const absl::StatusOr<v1::HoldResponse>& response) {
      {
        absl::MutexLock lock(&self->mu_);
        const auto it = self->voids_.find(id);
        if (it == self->voids_.end()) return;
        if (VoidingIsOver(response.status())) {
          self->voids_.erase(it);
        } else {
          it->second.sent = false;  // the next Tick tries again
        }
      }
      self->CheckRecalls();
    });
  }
}

int64_t CreditBook::reserved_total() const {
  absl::MutexLock lock(&mu_);
  return reserved_total_;
}

// ---- slices that billing calls back ----

void CreditBook::Recall(const v1::Recall& recall, std::function<void()> done) {
  std::vector<Purse> purses;
  {
    absl::MutexLock lock(&mu_);
    for (const v1::Purse& named : recall.purses()) {
      const Purse wanted(Id16::FromBytes(named.party_id()).value_or(Id16{}),
                         Id16::FromBytes(named.key_id()).value_or(Id16{}));
      for (auto& [purse, account] : accounts_) {
        if (purse.party != wanted.party || (!wanted.key.IsZero() && purse.key != wanted.key)) continue;
        purses.push_back(purse);
        account.reserve_until = options_.monotonic() + options_.reserve_for;
        for (Slice& slice : account.slices) slice.retired = slice.recalled = true;
      }
    }
    recalls_.push_back({purses, std::move(done)});
  }
  for (const Purse& purse : purses) ReturnFree(purse, /*recalled_only=*/true, nullptr);
  CloseFinished();
  UndoLostGrants();
  SendVoids();
  CheckRecalls();
}

void CreditBook::GiveBack(const Purse& purse) {
  ReturnFree(purse, /*recalled_only=*/true, nullptr);
  CloseFinished();
}

bool CreditBook::SettledLocked(const Purse& purse) const {
  const absl::Duration now = options_.monotonic();
  const auto it = accounts_.find(purse);
  if (it != accounts_.end()) {
    const Account& account = it->second;
    if (account.refilling || account.returning > 0) return false;
    for (const Slice& slice : account.slices) {
      const bool waiting = slice.retired && slice.open_holds == 0;
      if (waiting && (slice.unacked == 0 || now - slice.settled_at < kRecordWait)) return false;
    }
  }
  return std::none_of(ended_.begin(), ended_.end(),
                      [&](const auto& e) { return e.second.purse == purse && now - e.second.at < kRecordWait; }) &&
         std::none_of(voids_.begin(), voids_.end(), [&](const auto& v) { return v.second.purse == purse; }) &&
         std::none_of(lost_grants_.begin(), lost_grants_.end(),
                      [&](const auto& lost) { return lost.second.purse == purse; });
}

void CreditBook::CheckRecalls() {
  std::vector<std::function<void()>> over;
  {
    absl::MutexLock lock(&mu_);
    if (recalls_.empty()) return;
    for (auto it = recalls_.begin(); it != recalls_.end();) {
      const bool settled =
          std::all_of(it->purses.begin(), it->purses.end(),
                      [&](const Purse& purse) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return SettledLocked(purse); });
      if (!settled) {
        ++it;
        continue;
      }
      over.push_back(std::move(it->done));
      it = recalls_.erase(it);
    }
  }
  for (const auto& done : over) done();
}

}  // namespace gantry::gateway
