#include "gateway/admission/key_table.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/api_key.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

constexpr absl::Duration kStaleAfter = absl::Seconds(60);

bool ParseAddress(absl::string_view text, std::array<uint8_t, 16>* out, bool* v4) {
  std::string copy(text);
  in_addr a4;
  if (inet_pton(AF_INET, copy.c_str(), &a4) == 1) {
    out->fill(0);
    (*out)[10] = (*out)[11] = 0xff;
    std::copy_n(reinterpret_cast<const uint8_t*>(&a4), 4, out->begin() + 12);
    *v4 = true;
    return true;
  }
  in6_addr a6;
  if (inet_pton(AF_INET6, copy.c_str(), &a6) != 1) return false;
  std::copy_n(reinterpret_cast<const uint8_t*>(&a6), 16, out->begin());
  *v4 = false;
  return true;
}

std::shared_ptr<KeyInfo> MakeInfo(const v1::KeyRecord& record) {
  auto key_id = Id16::FromBytes(record.key_id());
  auto party = Id16::FromBytes(record.party_id());
  if (!key_id.ok() || !party.ok() || record.secret_hmac().size() != 32) {
    Log(LogLevel::kError, "a key record is malformed and ignored", {{"key", record.public_id()}});
    return nullptr;
  }
  auto info = std::make_shared<KeyInfo>();
  info->key_id = *key_id;
  info->public_id = record.public_id();
  info->secret_hmac = record.secret_hmac();
  info->party = *party;
  info->party_name = record.party_name();
  info->party_active = record.party_status() == v1::PARTY_STATUS_ACTIVE;
  info->scopes.assign(record.scopes().begin(), record.scopes().end());
  info->models.assign(record.models().begin(), record.models().end());
  for (const std::string& text : record.cidrs()) {
    Cidr cidr;
    if (Cidr::Parse(text, &cidr)) {
      info->cidrs.push_back(cidr);
    } else {
      info->cidrs_malformed = true;
    }
  }
  info->expires_us = record.expires_us();
  info->revoked = record.revoked();
  info->requests_per_minute = record.requests_per_minute();
  info->tokens_per_minute = record.tokens_per_minute();
  info->concurrency = record.concurrency();
  info->budget_micro = record.budget_micro();
  return info;
}

}  // namespace

bool Cidr::Parse(absl::string_view text, Cidr* out) {
  std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('/', 1));
  bool v4 = false;
  if (!ParseAddress(parts.first, &out->address, &v4)) return false;
  const int width = v4 ? 32 : 128;
  int bits = width;
  if (absl::StrContains(text, "/") && (!absl::SimpleAtoi(parts.second, &bits) || bits < 0 || bits > width))
    return false;
  out->bits = bits + (v4 ? 96 : 0);
  return true;
}

bool Cidr::Contains(absl::string_view address_text) const {
  std::array<uint8_t, 16> other;
  bool v4 = false;
  if (!ParseAddress(address_text, &other, &v4)) return false;
  for (int bit = 0; bit < bits; ++bit) {
    const uint8_t mask = static_cast<uint8_t>(0x80 >> (bit % 8));
    if ((address[bit / 8] & mask) != (other[bit / 8] & mask)) return false;
  }
  return true;
}

bool MatchesGlob(absl::string_view glob, absl::string_view text) {
  size_t g = 0, t = 0, star = absl::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      mark = t;
    } else if (g < glob.size() && glob[g] == text[t]) {
      ++g;
      ++t;
    } else if (star != absl::string_view::npos) {
      g = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

bool KeyInfo::MayUseModel(absl::string_view model) const {
  if (models.empty()) return true;
  return std::any_of(models.begin(), models.end(), [&](const std::string& glob) { return MatchesGlob(glob, model); });
}

bool KeyInfo::MayCallFrom(absl::string_view address) const {
  if (cidrs.empty() && !cidrs_malformed) return true;
  return std::any_of(cidrs.begin(), cidrs.end(), [&](const Cidr& cidr) { return cidr.Contains(address); });
}

bool KeyInfo::HasScope(absl::string_view scope) const {
  return scopes.empty() || std::find(scopes.begin(), scopes.end(), scope) != scopes.end();
}

KeyTable::KeyTable(std::function<absl::Duration()> monotonic) : monotonic_(std::move(monotonic)) {}
KeyTable::~KeyTable() = default;

uint64_t KeyTable::Apply(const v1::KeyEvent& event) {
  std::vector<Id16> changed;
  {
    absl::MutexLock lock(&mu_);
    auto set = [&](const v1::KeyRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      std::shared_ptr<KeyInfo> info = MakeInfo(record);
      if (info == nullptr) return;
      if (revoked_.contains(info->key_id)) info->revoked = true;
      if (info->revoked) revoked_.insert(info->key_id);
      by_id_[info->key_id] = info;
      by_public_id_[info->public_id] = info;
      changed.push_back(info->key_id);
    };
    if (event.has_snapshot()) {
      for (const auto& [id, info] : by_id_) changed.push_back(id);
      by_id_.clear();
      by_public_id_.clear();
      pepper_ = Secret(event.snapshot().pepper());
      for (const v1::KeyRecord& record : event.snapshot().keys()) set(record);
    } else if (event.has_upsert()) {
      set(event.upsert());
    } else if (event.kind_case() == v1::KeyEvent::kRemovedKeyId) {
      auto id = Id16::FromBytes(event.removed_key_id());
      if (id.ok()) {
        if (auto it = by_id_.find(*id); it != by_id_.end()) {
          by_public_id_.erase(it->second->public_id);
          by_id_.erase(it);
          changed.push_back(*id);
        }
      }
    }
  }
  last_event_ms_.store(absl::ToInt64Milliseconds(monotonic_()), std::memory_order_release);
  if (listener_) {
    for (const Id16& id : changed) listener_(id);
  }
  return event.sequence();
}

bool KeyTable::Fresh() const {
  int64_t last = last_event_ms_.load(std::memory_order_acquire);
  if (last == INT64_MIN) return false;
  return monotonic_() - absl::Milliseconds(last) <= kStaleAfter;
}

std::shared_ptr<const KeyInfo> KeyTable::Authenticate(absl::string_view secret) const {
  absl::StatusOr<ApiKey> parsed = ParseApiKey(secret);
  if (!parsed.ok()) return nullptr;
  std::shared_ptr<const KeyInfo> info;
  Secret pepper;
  {
    absl::MutexLock lock(&mu_);
    auto it = by_public_id_.find(parsed->public_id);
    if (it != by_public_id_.end()) info = it->second;
    pepper = pepper_;
  }
  if (pepper.empty()) return nullptr;  // no snapshot yet
  // Computed for unknown ids too. Revealed to the one function that hashes it.
  const std::string hmac = HmacOfSecret(pepper, parsed->secret);
  const Secret expected(info != nullptr ? info->secret_hmac : std::string(32, '\0'));
  return expected.Equals(hmac) ? info : nullptr;
}

std::shared_ptr<const KeyInfo> KeyTable::Find(const Id16& key_id) const {
  absl::MutexLock lock(&mu_);
  auto it = by_id_.find(key_id);
  return it == by_id_.end() ? nullptr : it->second;
}

std::vector<Id16> KeyTable::Revoked(size_t limit) const {
  absl::MutexLock lock(&mu_);
  std::vector<Id16> revoked;
  for (const Id16& id : revoked_) {
    if (revoked.size() == limit) break;
    revoked.push_back(id);
  }
  return revoked;
}

size_t KeyTable::size() const {
  absl::MutexLock lock(&mu_);
  return by_id_.size();
}

}  // namespace gantry::gateway
