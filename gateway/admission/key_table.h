// The API keys that exist, kept current by billing's stream; looked up for every request without asking anybody.
//
// Holds the pepper and the HMACs in memory only. A table whose stream has been silent for more than 60 s is stale, and
// a stale table admits nobody (R5). Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/ids.h"
#include "services/common/secret.h"

namespace gantry::v1 {
class KeyEvent;
class KeyRecord;
}  // namespace gantry::v1

namespace gantry::gateway {

// An address range: 16 bytes (IPv4 mapped into IPv6) and how many leading bits count.
struct Cidr {
  std::array<uint8_t, 16> address{};
  int bits = 0;
  // "10.0.0.0/8", "::1", "192.168.1.7". False when malformed.
  static bool Parse(absl::string_view text, Cidr* out);
  bool Contains(absl::string_view address_text) const;
};

// `*` stands for any run of characters.
bool MatchesGlob(absl::string_view glob, absl::string_view text);

// Immutable; a change makes a new one.
struct KeyInfo {
  Id16 key_id;
  std::string public_id;
  std::string secret_hmac;  // 32 bytes
  Id16 party;
  std::string party_name;
  bool party_active = false;
  std::vector<std::string> scopes;
  std::vector<std::string> models;
  std::vector<Cidr> cidrs;
  bool cidrs_malformed = false;  // a range that does not parse matches nothing: fail closed
  int64_t expires_us = 0;
  bool revoked = false;
  uint32_t requests_per_minute = 0;
  uint64_t tokens_per_minute = 0;
  uint32_t concurrency = 0;
  int64_t budget_micro = 0;

  bool MayUseModel(absl::string_view model) const;
  bool MayCallFrom(absl::string_view address) const;
  bool HasScope(absl::string_view scope) const;
};

class KeyTable {
 public:
  // `monotonic`: time since any fixed point.
  explicit KeyTable(std::function<absl::Duration()> monotonic);
  ~KeyTable();

  // Any event, heartbeats included, proves the stream alive. Returns the sequence to resume after. A key that was
  // revoked once stays revoked, whatever later events say: books restored from a backup may have forgotten it (R14).
  uint64_t Apply(const v1::KeyEvent& event);
  bool Fresh() const;

  // The key whose secret this is, or null. Takes the same time for a wrong secret as for an unknown id.
  std::shared_ptr<const KeyInfo> Authenticate(absl::string_view secret) const;
  // The current record; null once removed.
  std::shared_ptr<const KeyInfo> Find(const Id16& key_id) const;
  size_t size() const;
  // The keys that are revoked, at most `limit`: billing restored from older books is told.
  std::vector<Id16> Revoked(size_t limit) const;

  // Called after a change with the key that changed, outside locks, on the thread of Apply. Set before Apply.
  void OnChange(std::function<void(const Id16&)> listener) { listener_ = std::move(listener); }

 private:
  const std::function<absl::Duration()> monotonic_;
  std::function<void(const Id16&)> listener_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, std::shared_ptr<const KeyInfo>> by_id_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, std::shared_ptr<const KeyInfo>> by_public_id_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<Id16> revoked_ ABSL_GUARDED_BY(mu_);
  Secret pepper_ ABSL_GUARDED_BY(mu_);
  std::atomic<int64_t> last_event_ms_{INT64_MIN};
};

}  // namespace gantry::gateway
