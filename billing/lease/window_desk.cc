#include "billing/lease/window_desk.h"

#include <algorithm>
#include <utility>

namespace gantry::billing {
namespace {

// A lease is this part of a limit for each gateway: small enough that the others rarely have to be called back.
constexpr uint64_t kParts = 8;

Id16 IdOf(const std::string& bytes) {
  return Id16::FromBytes(bytes).value_or(Id16{});
}
uint64_t Ms(absl::Duration duration) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(duration)));
}

// How much to lease when `needed` is asked for and `left` is there.
uint64_t Portion(uint64_t needed, uint64_t limit, uint64_t left, size_t gateways) {
  if (needed == 0) return 0;
  return std::max(needed, std::min(left, limit / (kParts * std::max<size_t>(gateways, 1))));
}

}  // namespace

WindowDesk::WindowDesk(Options options) : options_(std::move(options)) {
  // Numbers of an earlier process must not be taken for ours.
  FillRandom(&last_number_, sizeof(last_number_));
  last_number_ >>= 2;
}

// ---- who is there ----

void WindowDesk::Await(const std::vector<Id16>& gateways) {
  absl::MutexLock lock(&mu_);
  for (const Id16& gateway : gateways) {
    gateways_[gateway].gone_at = options_.monotonic();
    gateways_[gateway].unknown = true;
  }
}

void WindowDesk::Attach(const Id16& gateway, bool fresh, std::shared_ptr<GatewayLine> line) {
  absl::MutexLock lock(&mu_);
  Gateway& state = gateways_[gateway];
  state = {.line = std::move(line), .gone_at = absl::ZeroDuration()};
  StrikeLocked(gateway);
  if (fresh) {
    for (auto& [id, key] : keys_) key.slots.erase(gateway);
  }
  RearrangeLocked();
}

void WindowDesk::Detach(const Id16& gateway) {
  absl::MutexLock lock(&mu_);
  const auto it = gateways_.find(gateway);
  if (it == gateways_.end()) return;
  it->second.line = nullptr;
  it->second.unknown = it->second.alone || !it->second.reported;
  it->second.reported = false;
  it->second.gone_at = options_.monotonic();
  for (auto& [id, key] : keys_) std::erase_if(key.asking, [&](const Asking& a) { return a.gateway == gateway; });
  StrikeLocked(gateway);
  RearrangeLocked();
}

void WindowDesk::Remove(const Id16& gateway) {
  absl::MutexLock lock(&mu_);
  gateways_.erase(gateway);
  for (auto& [id, key] : keys_) {
    key.slots.erase(gateway);
    std::erase_if(key.asking, [&](const Asking& a) { return a.gateway == gateway; });
  }
  StrikeLocked(gateway);
  RearrangeLocked();
}

bool WindowDesk::AbsentLocked(const Gateway& gateway) const {
  return gateway.line == nullptr && options_.monotonic() < gateway.gone_at + options_.alone_for + options_.window;
}

bool WindowDesk::KnownLocked(bool* absent) const {
  bool known = true;
  *absent = false;
  for (const auto& [id, gateway] : gateways_) {
    if (gateway.unknown && AbsentLocked(gateway)) {
      known = false;
      *absent = true;
    } else if (gateway.line != nullptr && !gateway.reported) {
      known = false;
    }
  }
  return known;
}

// Tells each gateway how it counts from now on, where that has changed.
void WindowDesk::RearrangeLocked() {
  const bool alone = gateways_.size() == 1;
  for (auto& [id, gateway] : gateways_) {
    if (gateway.line == nullptr || (gateway.mode_number != 0 && gateway.alone == alone)) continue;
    // What it counts must be known before it counts for all.
    if (alone && gateway.mode_number != 0 && !gateway.reported) continue;
    v1::GatewayOrder order;
    gateway.mode_number = ++last_number_;
    gateway.alone = alone;
    gateway.reported = alone;
    order.mutable_mode()->set_number(gateway.mode_number);
    order.mutable_mode()->set_alone(alone);
    if (alone) {
      for (auto& [key_id, key] : keys_) FillWindow(key_id, &key, order.mutable_mode()->add_windows());
      keys_.clear();
    }
    gateway.line->Send(std::move(order));
  }
  ResumeLocked();
}

void WindowDesk::FillWindow(const Id16& key_id, Key* key, v1::KeyWindow* window) {
  RollLocked(&key->requests);
  RollLocked(&key->tokens);
  window->set_key_id(key_id.ToBytes());
  const absl::Duration now = options_.monotonic();
  if (key->requests.used > 0) {
    window->set_requests(key->requests.used);
    window->set_requests_age_ms(Ms(now - key->requests.start));
  }
  if (key->tokens.used > 0) {
    window->set_tokens(key->tokens.used);
    window->set_tokens_age_ms(Ms(now - key->tokens.start));
  }
  window->set_slots(SlotsLocked(*key));
}

void WindowDesk::Report(const Id16& gateway, const v1::WindowReport& report) {
  absl::MutexLock lock(&mu_);
  const auto it = gateways_.find(gateway);
  if (it == gateways_.end() || it->second.line == nullptr || it->second.mode_number != report.mode_number() ||
      it->second.alone) {
    return;
  }
  const absl::Duration now = options_.monotonic();
  for (auto& [id, key] : keys_) key.slots.erase(gateway);
  for (const v1::KeyWindow& window : report.windows()) {
    Key& key = keys_[IdOf(window.key_id())];
    key.used_at = now;
    const auto add = [&](Counter* counter, uint64_t used, uint64_t age_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      RollLocked(counter);
      if (used == 0) return;
      // Of windows that several have counted the one that ends last is kept: none is given more than its limit.
      const absl::Duration start = now - std::min(absl::Milliseconds(age_ms), options_.window);
      if (counter->used == 0 || start > counter->start) counter->start = start;
      if (counter->used == 0) counter->number = ++last_number_;
      counter->used += used;
      key.lessees.insert(gateway);
    };
    // What it had leased before it attached again is in our count already.
    if (!key.lessees.contains(gateway)) {
      add(&key.requests, window.requests(), window.requests_age_ms());
      add(&key.tokens, window.tokens(), window.tokens_age_ms());
    }
    if (window.slots() > 0) key.slots[gateway] = window.slots();
  }
  it->second.reported = true;
  RearrangeLocked();
}

// ---- permits ----

void WindowDesk::RollLocked(Counter* counter) {
  if (options_.monotonic() - counter->start >= options_.window) counter->used = 0;
}

void WindowDesk::TakeLocked(Counter* counter, uint64_t amount) {
  RollLocked(counter);
  if (amount == 0) return;
  if (counter->used == 0) {
    counter->start = options_.monotonic();
    counter->number = ++last_number_;
  }
  counter->used += amount;
}

uint32_t WindowDesk::SlotsLocked(const Key& key) const {
  uint32_t slots = 0;
  for (const auto& [gateway, count] : key.slots) slots += count;
  return slots;
}

v1::WindowLimit WindowDesk::ShortLocked(Key* key, const v1::PermitRequest& request) {
  RollLocked(&key->requests);
  RollLocked(&key->tokens);
  if (key->requests.used == 0 && key->tokens.used == 0) key->lessees.clear();
  if (request.slots() > 0 && SlotsLocked(*key) + request.slots() > request.slots_limit()) return v1::WINDOW_LIMIT_SLOTS;
  const auto full = [](const Counter& counter, uint64_t needed, uint64_t limit) {
    return needed > 0 && (counter.used > limit || needed > limit - counter.used);
  };
  if (full(key->requests, request.requests(), request.requests_limit())) return v1::WINDOW_LIMIT_REQUESTS;
  if (full(key->tokens, request.tokens(), request.tokens_limit())) return v1::WINDOW_LIMIT_TOKENS;
  return v1::WINDOW_LIMIT_UNSPECIFIED;
}

void WindowDesk::Ask(const Id16& gateway, const v1::PermitRequest& request) {
  absl::MutexLock lock(&mu_);
  if (!gateways_.contains(gateway)) return;
  Asking asking{.gateway = gateway, .request = request, .deadline = options_.monotonic() + options_.answer_limit};
  Key& key = keys_[IdOf(request.key_id())];
  key.used_at = options_.monotonic();
  bool absent = false;
  if (!KnownLocked(&absent)) {
    if (absent) {
      v1::PermitAnswer answer;
      answer.set_refused(v1::WINDOW_LIMIT_UNKNOWN);
      return AnswerLocked(&key, asking, std::move(answer));
    }
    key.asking.push_back(std::move(asking));
    return;
  }
  DecideLocked(&key, std::move(asking), /*final=*/false);
}

void WindowDesk::DecideLocked(Key* key, Asking asking, bool final) {
  const v1::WindowLimit shortage = ShortLocked(key, asking.request);
  // When a window runs short each gets what it needs and no more: what is refused then is really used.
  if (shortage == v1::WINDOW_LIMIT_UNSPECIFIED) {
    return GrantLocked(key, asking, /*ahead=*/!final && key->open.empty() && key->asking.empty());
  }
  std::set<Id16> others = key->lessees;
  for (const auto& [gateway, count] : key->slots) others.insert(gateway);
  // Who asks has none of the requests and slots that it asks for, but may have some of the tokens.
  if (shortage != v1::WINDOW_LIMIT_TOKENS) others.erase(asking.gateway);
  const bool somebody = std::any_of(others.begin(), others.end(), [&](const Id16& other) {
    const auto it = gateways_.find(other);
    return it != gateways_.end() && it->second.line != nullptr;
  });
  if (final || !somebody) {
    v1::PermitAnswer answer;
    answer.set_refused(shortage);
    return AnswerLocked(key, asking, std::move(answer));
  }
  // A round that runs began before this request came: it waits for the next.
  asking.round = key->round + 1;
  const Id16 key_id = IdOf(asking.request.key_id());
  const bool running = !key->open.empty();
  if (!running) asking.round = 0;
  key->asking.push_back(std::move(asking));
  if (!running) BeginRoundLocked(key_id, key);
}

void WindowDesk::BeginRoundLocked(const Id16& key_id, Key* key) {
  key->round = ++last_number_;
  key->round_deadline = options_.monotonic() + options_.answer_limit;
  std::set<Id16> asked = key->lessees;
  for (const auto& [gateway, count] : key->slots) asked.insert(gateway);
  for (Asking& asking : key->asking) asking.round = key->round;
  // One who alone asks, and for no tokens, has nothing of what it asks for.
  const Id16 first = key->asking.front().gateway;
  if (std::all_of(key->asking.begin(), key->asking.end(),
                  [&](const Asking& a) { return a.gateway == first && a.request.tokens() == 0; })) {
    asked.erase(first);
  }
  key->open.clear();
  for (const Id16& gateway : asked) {
    const auto it = gateways_.find(gateway);
    if (it == gateways_.end() || it->second.line == nullptr) continue;
    key->open.insert(gateway);
    v1::GatewayOrder order;
    order.mutable_permit_recall()->set_number(key->round);
    order.mutable_permit_recall()->set_key_id(key_id.ToBytes());
    it->second.line->Send(std::move(order));
  }
  if (key->open.empty()) EndRoundLocked(key_id, key);
}

void WindowDesk::EndRoundLocked(const Id16& key_id, Key* key) {
  key->open.clear();
  std::deque<Asking> asking = std::exchange(key->asking, {});
  for (Asking& one : asking) {
    if (one.round == key->round) {
      DecideLocked(key, std::move(one), /*final=*/true);
    } else {
      key->asking.push_back(std::move(one));
    }
  }
  if (!key->asking.empty()) BeginRoundLocked(key_id, key);
}

// A gateway has answered everything that it ever will under this attachment.
void WindowDesk::StrikeLocked(const Id16& gateway) {
  for (auto& [id, key] : keys_) {
    if (key.open.erase(gateway) > 0 && key.open.empty()) EndRoundLocked(id, &key);
  }
}

// Everybody has reported: who waited for that is decided.
void WindowDesk::ResumeLocked() {
  bool absent = false;
  if (!KnownLocked(&absent)) return;
  for (auto& [id, key] : keys_) {
    if (!key.open.empty()) continue;
    std::deque<Asking> asking = std::exchange(key.asking, {});
    for (Asking& one : asking) DecideLocked(&key, std::move(one), /*final=*/false);
  }
}

void WindowDesk::GrantLocked(Key* key, const Asking& asking, bool ahead) {
  const v1::PermitRequest& request = asking.request;
  const size_t gateways = gateways_.size();
  v1::PermitAnswer answer;
  answer.set_requests(request.requests());
  answer.set_tokens(request.tokens());
  if (ahead) {
    answer.set_requests(Portion(request.requests(), request.requests_limit(),
                                request.requests_limit() - std::min(request.requests_limit(), key->requests.used),
                                gateways));
    answer.set_tokens(Portion(request.tokens(), request.tokens_limit(),
                              request.tokens_limit() - std::min(request.tokens_limit(), key->tokens.used), gateways));
  }
  answer.set_slots(request.slots());
  TakeLocked(&key->requests, answer.requests());
  TakeLocked(&key->tokens, answer.tokens());
  if (answer.slots() > 0) key->slots[asking.gateway] += answer.slots();
  if (answer.requests() > 0 || answer.tokens() > 0) key->lessees.insert(asking.gateway);
  AnswerLocked(key, asking, std::move(answer));
}

void WindowDesk::AnswerLocked(Key* key, const Asking& asking, v1::PermitAnswer answer) {
  const auto it = gateways_.find(asking.gateway);
  if (it == gateways_.end() || it->second.line == nullptr) return;
  const absl::Duration now = options_.monotonic();
  const auto left = [&](const Counter& counter) {
    return counter.used == 0 ? 0 : Ms(counter.start + options_.window - now);
  };
  answer.set_number(asking.request.number());
  answer.set_key_id(asking.request.key_id());
  answer.set_requests_used(key->requests.used);
  answer.set_requests_left_ms(left(key->requests));
  answer.set_requests_window(key->requests.number);
  answer.set_tokens_used(key->tokens.used);
  answer.set_tokens_left_ms(left(key->tokens));
  answer.set_tokens_window(key->tokens.number);
  answer.set_slots_used(SlotsLocked(*key));
  v1::GatewayOrder order;
  *order.mutable_permit_answer() = std::move(answer);
  it->second.line->Send(std::move(order));
}

void WindowDesk::Return(const Id16& gateway, const v1::PermitReturn& returned) {
  absl::MutexLock lock(&mu_);
  const auto it = keys_.find(IdOf(returned.key_id()));
  if (it == keys_.end()) return;
  Key& key = it->second;
  const auto give = [&](Counter* counter, uint64_t window, uint64_t amount) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    RollLocked(counter);
    if (window == counter->number) counter->used -= std::min(counter->used, amount);
  };
  give(&key.requests, returned.requests_window(), returned.requests());
  give(&key.tokens, returned.tokens_window(), returned.tokens());
  if (const auto slots = key.slots.find(gateway); slots != key.slots.end()) {
    slots->second -= std::min(slots->second, returned.slots());
    if (slots->second == 0) key.slots.erase(slots);
  }
  if (returned.number() == 0 || returned.number() != key.round) return;
  if (key.open.erase(gateway) > 0 && key.open.empty()) EndRoundLocked(it->first, &key);
}

void WindowDesk::Owe(const Id16& gateway, const v1::TokensOwed& owed) {
  absl::MutexLock lock(&mu_);
  Key& key = keys_[IdOf(owed.key_id())];
  key.used_at = options_.monotonic();
  TakeLocked(&key.tokens, owed.tokens());
  key.lessees.insert(gateway);
}

// ---- time ----

void WindowDesk::Tick() {
  absl::MutexLock lock(&mu_);
  const absl::Duration now = options_.monotonic();
  bool lapsed = false;
  for (auto it = gateways_.begin(); it != gateways_.end();) {
    const Gateway& gateway = it->second;
    if (gateway.line != nullptr || AbsentLocked(gateway)) {
      ++it;
      continue;
    }
    // Its windows are over; its requests may still run.
    const bool slots = std::any_of(keys_.begin(), keys_.end(),
                                   [&](const auto& entry) { return entry.second.slots.contains(it->first); });
    if (slots && now < gateway.gone_at + options_.longest_request) {
      ++it;
      continue;
    }
    for (auto& [id, key] : keys_) key.slots.erase(it->first);
    it = gateways_.erase(it);
    lapsed = true;
  }
  if (lapsed) RearrangeLocked();
  for (auto it = keys_.begin(); it != keys_.end();) {
    Key& key = it->second;
    if (!key.open.empty() && now >= key.round_deadline) EndRoundLocked(it->first, &key);
    std::deque<Asking> late;
    for (Asking& asking : key.asking) {
      if (asking.round == 0 && now >= asking.deadline) late.push_back(std::move(asking));
    }
    std::erase_if(key.asking, [&](const Asking& a) { return a.round == 0 && now >= a.deadline; });
    for (const Asking& asking : late) {
      v1::PermitAnswer answer;
      answer.set_refused(v1::WINDOW_LIMIT_UNKNOWN);
      AnswerLocked(&key, asking, std::move(answer));
    }
    const bool idle = key.slots.empty() && key.asking.empty() && key.open.empty() &&
                      now >= key.requests.start + options_.window && now >= key.tokens.start + options_.window &&
                      now >= key.used_at + options_.window;
    it = idle ? keys_.erase(it) : std::next(it);
  }
}

bool WindowDesk::IsAlone(const Id16& gateway) const {
  absl::MutexLock lock(&mu_);
  const auto it = gateways_.find(gateway);
  return it != gateways_.end() && it->second.line != nullptr && it->second.alone;
}

size_t WindowDesk::keys() const {
  absl::MutexLock lock(&mu_);
  return keys_.size();
}

}  // namespace gantry::billing
