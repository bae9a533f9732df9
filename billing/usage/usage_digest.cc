#include "billing/usage/usage_digest.h"

#include "services/common/digest.h"

namespace gantry::billing {

absl::Status CheckDigests(const v1::UsageRecord& record) {
  for (const std::string* digest : {&record.prompt_digest(), &record.output_digest()}) {
    if (!digest->empty() && digest->size() != kSha256Bytes) {
      return absl::InvalidArgumentError("prompt_digest, output_digest: expected 32 bytes or nothing");
    }
  }
  return absl::OkStatus();
}

void RecordDigests(Database& db, int64_t event_seq, const v1::UsageRecord& record) {
  if (record.prompt_digest().empty() && record.output_digest().empty()) return;
  db.Execute("INSERT INTO usage_digest (event_seq, prompt_digest, output_digest) VALUES (?, ?, ?)", event_seq,
             Blob{record.prompt_digest()}, Blob{record.output_digest()});
}

}  // namespace gantry::billing
