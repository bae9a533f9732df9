// Checks receipts with public keys alone: no database, no network. docs/receipts.md describes every step for those who
// write a verifier of their own; tests/receipts has a second one in Python that agrees with this one step by step.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace gantry::billing {

inline constexpr size_t kReceiptFileBytesMax = size_t{64} << 20;
inline constexpr size_t kReceiptLineBytesMax = size_t{64} << 10;

struct PublicReceiptKey {
  std::string key_id;
  std::string public_key;  // 32 bytes
  int64_t created_us = 0;
  std::string endorsed_by;  // key id: the key before it, or its own when there was none or it was lost
  std::string endorsement;  // 64 bytes by that key over ReceiptKeyBody
};

// The file that `gantry receipt keys` writes, oldest first.
std::string ReceiptKeysFile(const std::vector<PublicReceiptKey>& keys);

class ReceiptKeys {
 public:
  // DATA_LOSS names the key and the field: not JSON, a key id that is not its key's, an endorsement that does not hold.
  static absl::StatusOr<ReceiptKeys> Parse(absl::string_view file);
  // Null: no such key.
  const std::string* Find(const std::string& key_id) const;
  size_t size() const { return keys_.size(); }

 private:
  std::map<std::string, std::string> keys_;
};

struct VerifiedLine {
  nlohmann::json receipt;  // null for a line that holds a root alone
  nlohmann::json root;     // of the proof, or of the line; null: neither
};

// A receipt file: one document a line, receipts and roots in any order. DATA_LOSS says "line N: STEP: reason"; STEP is
// json, canonical, the path of a field (receipt.model, proof.path, …) or signature. Lines are checked one by one, then
// against each other: receipts and roots that follow one another must hold each other's hash.
absl::StatusOr<std::vector<VerifiedLine>> VerifyReceipts(absl::string_view file, const ReceiptKeys& keys);

}  // namespace gantry::billing
