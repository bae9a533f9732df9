#include "billing/lease/recall_desk.h"

#include <algorithm>

#include "absl/time/time.h"

namespace gantry::billing {

RecallDesk::RecallDesk(Options options) : options_(options), watcher_([this] { Watch(); }) {}

RecallDesk::~RecallDesk() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  watcher_.join();
  Calls calls;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [key, round] : rounds_) {
      for (Done& done : round.done) calls.emplace_back(std::move(done), false);
      for (Done& done : round.next.done) calls.emplace_back(std::move(done), false);
    }
  }
  for (auto& [done, answered] : calls) done(answered);
}

RecallDesk::Key RecallDesk::KeyOf(const CreditScope& scope) {
  return {scope.kind == CreditScope::kBudget ? 1 : 0, scope.no};
}

void RecallDesk::Attach(const Id16& gateway, std::shared_ptr<GatewayLine> line) {
  absl::MutexLock lock(&mu_);
  lines_[gateway] = std::move(line);
}

void RecallDesk::Detach(const Id16& gateway) {
  Calls calls;
  {
    absl::MutexLock lock(&mu_);
    lines_.erase(gateway);
    StrikeLocked(gateway, 0, /*answered=*/false, &calls);
  }
  for (auto& [done, answered] : calls) done(answered);
}

void RecallDesk::CallBack(const CreditScope& scope, const std::vector<Lender>& lenders, Done done) {
  Calls calls;
  {
    absl::MutexLock lock(&mu_);
    Round& round = rounds_[KeyOf(scope)];
    for (const Lender& lender : lenders) {
      std::vector<Purse>& purses = round.next.purses[lender.gateway_id];
      const Purse purse{lender.party_id, lender.key_id};
      if (std::find(purses.begin(), purses.end(), purse) == purses.end()) purses.push_back(purse);
    }
    round.next.done.push_back(std::move(done));
    if (stopping_) {
      for (Done& waiter : round.next.done) calls.emplace_back(std::move(waiter), false);
      round.next = {};
    } else if (round.number == 0) {
      BeginLocked(&round, &calls);
    }
    changed_.Signal();
  }
  for (auto& [waiter, answered] : calls) waiter(answered);
}

void RecallDesk::BeginLocked(Round* round, Calls* calls) {
  Waiting waiting = std::exchange(round->next, {});
  round->number = ++last_number_;
  round->done = std::move(waiting.done);
  round->all_answered = true;
  round->open.clear();
  round->deadline = Clock::now() + options_.round_limit;
  for (const auto& [gateway, purses] : waiting.purses) {
    const auto line = lines_.find(gateway);
    if (line == lines_.end()) {
      round->all_answered = false;
      continue;
    }
    v1::GatewayOrder order;
    order.mutable_recall()->set_number(round->number);
    for (const Purse& purse : purses) {
      v1::Purse* named = order.mutable_recall()->add_purses();
      named->set_party_id(purse.party.ToBytes());
      if (!purse.key.IsZero()) named->set_key_id(purse.key.ToBytes());
    }
    round->open.insert(gateway);
    line->second->Send(std::move(order));
  }
  if (round->open.empty()) EndLocked(round, calls);
}

void RecallDesk::EndLocked(Round* round, Calls* calls) {
  for (Done& done : round->done) calls->emplace_back(std::move(done), round->all_answered);
  round->done.clear();
  round->number = 0;
  round->reserve_until = Clock::now() + options_.reserve_for;
  if (!round->next.done.empty()) BeginLocked(round, calls);
}

void RecallDesk::StrikeLocked(const Id16& gateway, uint64_t number, bool answered, Calls* calls) {
  for (auto& [key, round] : rounds_) {
    if (round.number == 0 || (number != 0 && round.number != number)) continue;
    if (round.open.erase(gateway) == 0) continue;
    round.all_answered = round.all_answered && answered;
    if (round.open.empty()) EndLocked(&round, calls);
  }
}

void RecallDesk::Answered(const Id16& gateway, uint64_t number) {
  if (number == 0) return;
  Calls calls;
  {
    absl::MutexLock lock(&mu_);
    StrikeLocked(gateway, number, /*answered=*/true, &calls);
  }
  for (auto& [done, answered] : calls) done(answered);
}

bool RecallDesk::CalledBack(const CreditScope& scope) const {
  absl::MutexLock lock(&mu_);
  const auto round = rounds_.find(KeyOf(scope));
  if (round == rounds_.end()) return false;
  return round->second.number != 0 || Clock::now() < round->second.reserve_until;
}

int64_t RecallDesk::rounds() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int64_t>(last_number_);
}

// Ends rounds that somebody does not answer, and forgets those that are over.
void RecallDesk::Watch() {
  Calls calls;
  absl::MutexLock lock(&mu_);
  while (!stopping_) {
    const Clock::time_point now = Clock::now();
    Clock::time_point next = Clock::time_point::max();
    for (auto it = rounds_.begin(); it != rounds_.end();) {
      Round& round = it->second;
      if (round.number != 0 && now >= round.deadline) {
        round.all_answered = false;
        round.open.clear();
        EndLocked(&round, &calls);
      }
      if (round.number == 0 && now >= round.reserve_until) {
        it = rounds_.erase(it);
        continue;
      }
      next = std::min(next, round.number != 0 ? round.deadline : round.reserve_until);
      ++it;
    }
    if (!calls.empty()) {
      Calls due = std::exchange(calls, {});
      mu_.Unlock();
      for (auto& [done, answered] : due) done(answered);
      mu_.Lock();
    } else if (next == Clock::time_point::max()) {
      changed_.Wait(&mu_);
    } else {
      changed_.WaitWithTimeout(&mu_, absl::FromChrono(std::max(next - now, Clock::duration(0))));
    }
  }
}

}  // namespace gantry::billing
