// API keys. Stored is HMAC-SHA-256(pepper, secret); the secret is in the answer of CreateKey and nowhere else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"
#include "services/common/ids.h"
#include "services/common/secret.h"

namespace gantry::billing {

// A new key with its text. NOT_FOUND: no such party; FAILED_PRECONDITION: the party is closed or the house.
struct CreatedKey {
  v1::Key key;
  Secret text;
};
absl::StatusOr<CreatedKey> CreateKey(Database& db, const v1::CreateKeyRequest& request, const Secret& pepper,
                                     int64_t now_us);
// A new key with the terms of another, which expires after the overlap unless it does so before. Their budget is one.
// FAILED_PRECONDITION: the other has ended already.
absl::StatusOr<CreatedKey> RotateKey(Database& db, const v1::RotateKeyRequest& request, const Secret& pepper,
                                     int64_t now_us);
absl::StatusOr<v1::ListKeysResponse> ListKeys(Database& db, const std::string& party_name, int64_t now_us);
// Revoking twice is revoking once.
absl::StatusOr<v1::Key> RevokeKey(Database& db, const v1::RevokeKeyRequest& request, int64_t now_us);

// After a restore: revokes what a gateway knows to be revoked and the books have forgotten. The records that changed.
// Nothing in books that were never restored: then the books know best.
std::vector<v1::KeyRecord> RevokeAsGatewayKnows(Database& db, const std::vector<Id16>& key_ids, int64_t now_us);

// What a gateway needs to know of keys: of all of them, of one party's, or of one. Revoked ones come too.
std::vector<v1::KeyRecord> AllKeyRecords(Database& db);
std::vector<v1::KeyRecord> KeyRecordsOfParty(Database& db, const Id16& party_id);
std::vector<v1::KeyRecord> KeyRecordsOfKey(Database& db, const std::string& public_id);

// D/billing/pepper: 32 random bytes as hex, made at the first start, 0600. Losing it makes every key worthless, so it
// is never made anew beside books: FAILED_PRECONDITION.
absl::StatusOr<Secret> LoadOrCreatePepper(const std::string& path);

}  // namespace gantry::billing
