// The private half of receipts: signing keys, and the secret that blinds Merkle leaves. One file beside the database,
// 0600, one line each; the public half is in the database (billing/receipt/receipt_store.h).
//
// Old keys stay: a receipt is signed with the key of its time whenever it is asked for, so that it is the same bytes
// every time. Backups must hold the file; without it old receipts cannot be made again (those handed out stay valid).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/common/secret.h"

namespace gantry::billing {

// Thread-safe.
class ReceiptKeyRing {
 public:
  // Reads the file if there is one. PERMISSION_DENIED (readable by others), DATA_LOSS (a line that is none of ours).
  static absl::StatusOr<std::unique_ptr<ReceiptKeyRing>> Open(std::string path);

  // Makes a key and returns its public half, once the file is on the disk; the first one makes file and blinding
  // secret. RESOURCE_EXHAUSTED after 500 keys.
  absl::StatusOr<std::string> AddKey();
  bool Has(const std::string& key_id) const;
  // FAILED_PRECONDITION: no such key here; says what to do.
  absl::StatusOr<std::string> Sign(const std::string& key_id, absl::string_view message) const;
  // 32 bytes that only this file's owner can know; the same for the same purpose. FAILED_PRECONDITION: no file.
  absl::StatusOr<std::string> Nonce(absl::string_view purpose) const;

 private:
  explicit ReceiptKeyRing(std::string path) : path_(std::move(path)) {}
  absl::Status ReadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteLocked(const Secret& content) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Missing(absl::string_view what) const;

  const std::string path_;
  mutable absl::Mutex mutex_;
  Secret content_ ABSL_GUARDED_BY(mutex_);                       // of the file
  Secret blinding_ ABSL_GUARDED_BY(mutex_);                      // empty: no file
  std::map<std::string, Secret> seeds_ ABSL_GUARDED_BY(mutex_);  // by key id
};

}  // namespace gantry::billing
