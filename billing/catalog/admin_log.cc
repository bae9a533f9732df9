#include "billing/catalog/admin_log.h"

#include "absl/strings/str_cat.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kKeyLimit = 128;

void AppendAuditRow(Database& db, const AdminCall& call) {
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM audit_log ORDER BY seq DESC LIMIT 1"));
  db.Execute(
      "INSERT INTO audit_log (seq, at_us, actor, action, object, detail, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
      tail.next_seq, call.now_us, call.actor, call.method, call.object, call.detail,
      Blob{AuditRowHash(tail.hash, tail.next_seq, call.now_us, call.actor, call.method, call.object, call.detail)});
}

}  // namespace

std::string AuditRowHash(const std::string& previous, int64_t seq, int64_t at_us, const std::string& actor,
                         const std::string& action, const std::string& object, const std::string& detail) {
  return ChainHash(previous).Add(seq).Add(at_us).Add(actor).Add(action).Add(object).Add(detail).Finish();
}

int64_t PruneIdempotency(Database& db, int64_t now_us, int limit) {
  return db.Execute(
      "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE at_us < ? ORDER BY at_us LIMIT ?)",
      now_us - kIdempotencyKeptUs, limit);
}

bool AnyIdempotencyToPrune(Database& db, int64_t now_us) {
  Rows rows = db.Query("SELECT 1 FROM idempotency WHERE at_us < ? LIMIT 1", now_us - kIdempotencyKeptUs);
  return rows.Next();
}

absl::Status Once(Database& db, const AdminCall& call, google::protobuf::MessageLite* response,
                  const std::function<absl::Status()>& run, bool* repeated) {
  if (repeated != nullptr) *repeated = false;
  if (call.idempotency_key.empty() || call.idempotency_key.size() > kKeyLimit) {
    return absl::InvalidArgumentError(
        absl::StrCat("idempotency_key: expected 1..", kKeyLimit, " bytes, found ", call.idempotency_key.size()));
  }
  const std::string key =
      call.actor == "admin" ? call.idempotency_key : absl::StrCat(call.actor, "\n", call.idempotency_key);
  const std::string request_hash = Sha256(call.request->SerializeAsString());
  {
    Rows rows = db.Query("SELECT method, request_hash, response FROM idempotency WHERE key = ?", key);
    if (rows.Next()) {
      if (rows.Text(0) != call.method || rows.Text(1) != request_hash) {
        return absl::AlreadyExistsError(
            absl::StrCat("idempotency_key was used for another ", rows.Text(0), " request; use a new one"));
      }
      if (!response->ParseFromString(rows.Text(2))) return absl::DataLossError("a stored answer cannot be read");
      if (repeated != nullptr) *repeated = true;
      return absl::OkStatus();
    }
  }
  GANTRY_RETURN_IF_ERROR(run());
  db.Execute("INSERT INTO idempotency (key, method, request_hash, response, at_us) VALUES (?, ?, ?, ?, ?)", key,
             call.method, Blob{request_hash}, Blob{response->SerializeAsString()}, call.now_us);
  AppendAuditRow(db, call);
  return absl::OkStatus();
}

}  // namespace gantry::billing
