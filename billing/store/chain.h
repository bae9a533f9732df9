// Hash chains over append-only tables: hash(n) = SHA-256(hash(n-1) || fields of row n), each field with its length
// before it. Whoever changes, removes or inserts a row must rewrite every hash after it, and the last one is published.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "billing/store/database.h"
#include "services/common/digest.h"
#include "services/common/ids.h"

namespace gantry::billing {

class ChainHash {
 public:
  // `previous`: hash of the row before, empty for the first.
  explicit ChainHash(absl::string_view previous) {
    fields_.reserve(512);  // of most rows
    Add(previous);
  }
  ChainHash& Add(absl::string_view bytes);
  ChainHash& Add(const std::string& bytes) { return Add(absl::string_view(bytes)); }
  ChainHash& Add(const char* bytes) { return Add(absl::string_view(bytes)); }
  ChainHash& Add(int64_t value);
  ChainHash& Add(const Id16& id) { return Add(AsView(id)); }
  std::string Finish() const;  // 32 bytes

 private:
  static absl::string_view AsView(const Id16& id) {
    return {reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()};
  }
  std::string fields_;
};

// Where a chained table goes on.
struct ChainTail {
  int64_t next_seq = 1;
  std::string hash;  // of the last row; empty when there is none
};
// `last`: "SELECT seq, hash FROM … ORDER BY seq DESC LIMIT 1".
ChainTail TailOf(Rows last);

}  // namespace gantry::billing
