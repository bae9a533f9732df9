// Admission's limits per minute and concurrency: counted here, or leased from billing (R8).
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gantry/v1/lease.pb.h"
#include "gateway/admission/admission.h"

namespace gantry::gateway {
namespace {

// What this gateway may do alone after billing's last order (proto Leases).
constexpr absl::Duration kAloneFor = absl::Seconds(60);
// How long a refusal by billing is believed: no longer than its window, and so long that billing is not asked for
// every request that comes.
constexpr absl::Duration kFullFor = absl::Milliseconds(250);
constexpr absl::Duration kSlotsFullFor = absl::Milliseconds(20);
constexpr absl::Duration kIdleSlots = absl::Seconds(5);
constexpr size_t kWaitingMax = 10'000;  // requests, until billing has said how this gateway counts

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Milliseconds(duration) / 1000.0, " s");
}
uint64_t Ms(absl::Duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(duration)));
}
Refusal LimitsUnknown() {
  return {RefusalReason::kBillingAway, "The limits of this key cannot be checked now.", absl::Seconds(2), {}};
}

}  // namespace

// ---- one request ----

Admission::KeyState& Admission::StateLocked(const Id16& key_id) {
  std::unique_ptr<KeyState>& slot = states_[key_id];
  if (slot == nullptr) slot = std::make_unique<KeyState>();
  return *slot;
}

Admission::Counting Admission::CountingLocked() const {
  if (!report_) return Counting::kAlone;
  if (counting_ == Counting::kAlone && monotonic_() > alone_until_) return Counting::kUnknown;
  return counting_;
}

LimitState Admission::LimitsLocked(const KeyInfo& key, KeyState* state) const {
  const absl::Duration now = monotonic_();
  LimitState out;
  out.requests_limit = key.requests_per_minute;
  out.tokens_limit = key.tokens_per_minute;
  if (CountingLocked() == Counting::kAlone) {
    out.requests_used = state->requests.used(now);
    out.requests_reset = state->requests.reset(now);
    out.tokens_used = state->tokens.used(now);
    out.tokens_reset = state->tokens.reset(now);
  } else {
    out.requests_used = state->leased_requests.used_by_all(now);
    out.requests_reset = state->leased_requests.reset(now);
    out.tokens_used = state->leased_tokens.used_by_all(now);
    out.tokens_reset = state->leased_tokens.reset(now);
  }
  return out;
}

Refusal Admission::RefuseLocked(const KeyInfo& key, KeyState* state, v1::WindowLimit limit, uint64_t tokens) const {
  const LimitState limits = LimitsLocked(key, state);
  switch (limit) {
    case v1::WINDOW_LIMIT_SLOTS: {
      const uint32_t used = CountingLocked() == Counting::kAlone ? state->running : state->slots_by_all;
      return {RefusalReason::kConcurrency,
              absl::StrCat("Rate limit reached for this key on concurrent requests: limit ", key.concurrency, ", used ",
                           used, ". Try again when a request has ended."),
              absl::Seconds(1), limits};
    }
    case v1::WINDOW_LIMIT_REQUESTS:
      return {RefusalReason::kRequests,
              absl::StrCat("Rate limit reached for this key on requests per minute: limit ", key.requests_per_minute,
                           ", used ", limits.requests_used, ". Resets in ", Seconds(limits.requests_reset), "."),
              limits.requests_reset, limits};
    case v1::WINDOW_LIMIT_TOKENS:
      return {
          RefusalReason::kTokens,
          absl::StrCat("Rate limit reached for this key on tokens per minute: limit ", key.tokens_per_minute, ", used ",
                       limits.tokens_used, ", requested ", tokens, ". Resets in ", Seconds(limits.tokens_reset), "."),
          // A request that is larger than the whole window never fits.
          tokens > key.tokens_per_minute ? absl::ZeroDuration() : limits.tokens_reset, limits};
    default:
      return LimitsUnknown();
  }
}

std::variant<std::monostate, v1::WindowLimit, NeedsPermits> Admission::JudgeLocked(
    const std::shared_ptr<const KeyInfo>& key, KeyState* state, const Taking& taking) {
  const absl::Duration now = monotonic_();
  const bool slots = key->concurrency > 0 && taking.slots > 0;
  const bool requests = key->requests_per_minute > 0 && taking.requests > 0;
  const bool tokens = key->tokens_per_minute > 0;
  if (CountingLocked() == Counting::kAlone) {
    if (slots && state->running >= key->concurrency) return v1::WINDOW_LIMIT_SLOTS;
    if (requests && !state->requests.Fits(now, taking.requests, key->requests_per_minute)) {
      return v1::WINDOW_LIMIT_REQUESTS;
    }
    if (tokens && !state->tokens.Fits(now, taking.tokens, key->tokens_per_minute)) return v1::WINDOW_LIMIT_TOKENS;
    return std::monostate{};
  }
  if (!slots && !requests && !tokens) return std::monostate{};
  if (tokens && taking.tokens > key->tokens_per_minute) return v1::WINDOW_LIMIT_TOKENS;
  NeedsPermits needs{.key = key};
  if (slots && state->running + taking.slots > state->slots) needs.slots = taking.slots;
  if (requests && state->leased_requests.left(now) < taking.requests) needs.requests = taking.requests;
  // All of them, not what is missing: the rest of a lease may be called back while the answer is on its way.
  if (tokens && state->leased_tokens.left(now) < taking.tokens) needs.tokens = taking.tokens;
  if (needs.slots == 0 && needs.requests == 0 && needs.tokens == 0) return std::monostate{};
  const bool same = (state->full_by == v1::WINDOW_LIMIT_SLOTS && needs.slots > 0) ||
                    (state->full_by == v1::WINDOW_LIMIT_REQUESTS && needs.requests > 0) ||
                    (state->full_by == v1::WINDOW_LIMIT_TOKENS && needs.tokens > 0) ||
                    state->full_by == v1::WINDOW_LIMIT_UNKNOWN;
  if (same && now < state->full_until) return state->full_by;
  return needs;
}

void Admission::TakeLocked(const KeyInfo& key, KeyState* state, const Taking& taking, Permit* permit) {
  const absl::Duration now = monotonic_();
  permit->admitted_at_ = state->used_at = now;
  state->running += taking.slots;
  if (CountingLocked() == Counting::kAlone) {
    if (taking.requests > 0) state->requests.Take(now, taking.requests);
    state->tokens.Take(now, taking.tokens);
    return;
  }
  if (key.requests_per_minute > 0) state->leased_requests.Take(taking.requests);
  if (key.tokens_per_minute > 0) {
    state->leased_tokens.Take(taking.tokens);
    permit->tokens_window_ = state->leased_tokens.number();
  }
}

void Admission::Release(Permit* permit) {
  uint64_t owed = 0;
  {
    absl::MutexLock lock(&mu_);
    auto it = states_.find(permit->key_->key_id);
    if (it == states_.end()) return;
    KeyState& state = *it->second;
    const absl::Duration now = monotonic_();
    state.permits.erase(permit);
    state.used_at = now;
    if (permit->counted_) --state.running;
    active_.fetch_sub(1, std::memory_order_relaxed);
    const uint64_t reserved = permit->reserved_tokens_, used = permit->used_tokens_;
    if (CountingLocked() == Counting::kAlone) {
      state.tokens.Correct(now, permit->admitted_at_, reserved, used);
    } else if (permit->key_->tokens_per_minute > 0) {
      if (used < reserved) state.leased_tokens.GiveBack(now, permit->tokens_window_, reserved - used);
      if (used > reserved) owed = state.leased_tokens.TakeUpTo(now, used - reserved);
    }
  }
  if (owed == 0 || !report_) return;
  v1::GatewayReport report;
  report.mutable_tokens_owed()->set_key_id(permit->key_->key_id.ToBytes());
  report.mutable_tokens_owed()->set_tokens(owed);
  report_(report);
}

// ---- leases ----

void Admission::Lease(const NeedsPermits& needs, Leased done) {
  v1::GatewayReport report;
  uint64_t number = 0;
  bool unknown = false;
  {
    absl::MutexLock lock(&mu_);
    const Counting counting = CountingLocked();
    if (counting == Counting::kUnknown && waiting_.size() < kWaitingMax) {
      waiting_.push_back(std::move(done));
      return;
    }
    unknown = counting == Counting::kUnknown;
    if (counting == Counting::kLeased) {
      number = ++last_asked_;
      v1::PermitRequest* request = report.mutable_permit_request();
      request->set_number(number);
      request->set_key_id(needs.key->key_id.ToBytes());
      request->set_requests(needs.requests);
      request->set_tokens(needs.tokens);
      request->set_slots(needs.slots);
      request->set_requests_limit(needs.key->requests_per_minute);
      request->set_tokens_limit(needs.key->tokens_per_minute);
      request->set_slots_limit(needs.key->concurrency);
      asked_[number] = {needs, monotonic_(), std::move(done)};
    }
  }
  if (unknown) return done(LimitsUnknown());
  if (number == 0) return done(std::nullopt);  // alone by now
  if (report_(report)) return;
  {
    absl::MutexLock lock(&mu_);
    const auto it = asked_.find(number);
    if (it == asked_.end()) return;  // the stream has ended, and with it what was asked
    done = std::move(it->second.done);
    asked_.erase(it);
  }
  done(LimitsUnknown());
}

void Admission::Obey(const v1::GatewayOrder& order) {
  {
    absl::MutexLock lock(&mu_);
    alone_until_ = monotonic_() + kAloneFor;
  }
  if (order.has_mode()) SetMode(order.mode());
  if (order.has_permit_answer()) TakeAnswer(order.permit_answer());
  if (order.has_permit_recall()) GiveBack(order.permit_recall());
}

void Admission::SetMode(const v1::WindowMode& mode) {
  std::vector<Leased> resumed;
  v1::GatewayReport report;
  {
    absl::MutexLock lock(&mu_);
    const absl::Duration now = monotonic_();
    if (!mode.alone()) {
      v1::WindowReport* windows = report.mutable_windows();
      windows->set_mode_number(mode.number());
      for (auto& [id, state] : states_) {
        if (counting_ != Counting::kLeased) {
          // All that was counted is used; what was used beyond a window that is over is nobody's any more.
          state->leased_requests.Adopt(now - state->requests.age(now), state->requests.used(now));
          state->leased_tokens.Adopt(now - state->tokens.age(now), state->tokens.used(now));
          state->slots = state->running;
        }
        const uint64_t requests = state->leased_requests.leased(now), tokens = state->leased_tokens.leased(now);
        if (requests == 0 && tokens == 0 && state->slots == 0) continue;
        v1::KeyWindow* window = windows->add_windows();
        window->set_key_id(id.ToBytes());
        window->set_requests(requests);
        window->set_tokens(tokens);
        if (requests > 0) window->set_requests_age_ms(Ms(now - state->leased_requests.start()));
        if (tokens > 0) window->set_tokens_age_ms(Ms(now - state->leased_tokens.start()));
        window->set_slots(state->slots);
      }
      counting_ = Counting::kLeased;
    } else if (counting_ != Counting::kAlone) {
      if (counting_ == Counting::kLeased) {
        for (auto& [id, state] : states_) {
          state->requests.Adopt(state->leased_requests.start(), state->leased_requests.used_here(now));
          state->tokens.Adopt(state->leased_tokens.start(), state->leased_tokens.used_here(now));
        }
      }
      // What the others have used counts on.
      for (const v1::KeyWindow& window : mode.windows()) {
        KeyState& state = StateLocked(Id16::FromBytes(window.key_id()).value_or(Id16{}));
        const auto adopt = [&](RateWindow* counted, uint64_t used, uint64_t age_ms) {
          if (used > counted->used(now)) counted->Adopt(now - absl::Milliseconds(age_ms), used);
        };
        adopt(&state.requests, window.requests(), window.requests_age_ms());
        adopt(&state.tokens, window.tokens(), window.tokens_age_ms());
      }
      counting_ = Counting::kAlone;
    }
    resumed = std::exchange(waiting_, {});
    if (mode.alone()) {
      for (auto& [number, asked] : asked_) resumed.push_back(std::move(asked.done));
      asked_.clear();
    }
  }
  if (!mode.alone()) report_(report);
  for (const Leased& done : resumed) done(std::nullopt);
}

void Admission::TakeAnswer(const v1::PermitAnswer& answer) {
  Leased done;
  std::optional<Refusal> refusal;
  {
    absl::MutexLock lock(&mu_);
    const auto it = asked_.find(answer.number());
    if (it == asked_.end()) return;
    const Asked asked = std::move(it->second);
    asked_.erase(it);
    KeyState& state = StateLocked(asked.needs.key->key_id);
    state.leased_requests.Grant(answer.requests_window(), answer.requests(), answer.requests_used(),
                                asked.sent + absl::Milliseconds(answer.requests_left_ms()));
    state.leased_tokens.Grant(answer.tokens_window(), answer.tokens(), answer.tokens_used(),
                              asked.sent + absl::Milliseconds(answer.tokens_left_ms()));
    state.slots += answer.slots();
    state.slots_by_all = answer.slots_used();
    if (answer.refused() == v1::WINDOW_LIMIT_UNSPECIFIED) {
      state.full_until = -absl::InfiniteDuration();  // what was refused before is no news any more
    } else {
      const absl::Duration now = monotonic_();
      const absl::Duration full_for = answer.refused() == v1::WINDOW_LIMIT_SLOTS ? kSlotsFullFor : kFullFor;
      state.full_by = answer.refused();
      state.full_until = now + full_for;
      if (answer.refused() == v1::WINDOW_LIMIT_REQUESTS) {
        state.full_until = now + std::min(full_for, state.leased_requests.reset(now));
      }
      if (answer.refused() == v1::WINDOW_LIMIT_TOKENS) {
        state.full_until = now + std::min(full_for, state.leased_tokens.reset(now));
      }
      refusal = RefuseLocked(*asked.needs.key, &state, answer.refused(), asked.needs.tokens);
    }
    done = asked.done;
  }
  done(std::move(refusal));
}

void Admission::GiveBack(const v1::PermitRecall& recall) {
  v1::GatewayReport report;
  {
    absl::MutexLock lock(&mu_);
    const absl::Duration now = monotonic_();
    KeyState& state = StateLocked(Id16::FromBytes(recall.key_id()).value_or(Id16{}));
    v1::PermitReturn* back = report.mutable_permit_return();
    back->set_number(recall.number());
    back->set_key_id(recall.key_id());
    back->set_requests_window(state.leased_requests.number());
    back->set_tokens_window(state.leased_tokens.number());
    back->set_requests(state.leased_requests.Return(now));
    back->set_tokens(state.leased_tokens.Return(now));
    back->set_slots(state.slots - std::min(state.slots, state.running));
    state.slots = std::min(state.slots, state.running);
  }
  report_(report);
}

void Admission::Broken() {
  std::vector<Leased> lost;
  {
    absl::MutexLock lock(&mu_);
    for (auto& [number, asked] : asked_) lost.push_back(std::move(asked.done));
    asked_.clear();
  }
  for (const Leased& done : lost) done(LimitsUnknown());
}

void Admission::Tick() {
  std::vector<v1::GatewayReport> reports;
  {
    absl::MutexLock lock(&mu_);
    if (CountingLocked() != Counting::kLeased) return;
    const absl::Duration now = monotonic_();
    for (auto& [id, state] : states_) {
      if (state->slots <= state->running || now - state->used_at < kIdleSlots) continue;
      v1::PermitReturn* back = reports.emplace_back().mutable_permit_return();
      back->set_key_id(id.ToBytes());
      back->set_slots(state->slots - state->running);
      state->slots = state->running;
    }
  }
  for (const v1::GatewayReport& report : reports) report_(report);
}

bool Admission::windows_known() const {
  absl::MutexLock lock(&mu_);
  return CountingLocked() != Counting::kUnknown;
}

}  // namespace gantry::gateway
