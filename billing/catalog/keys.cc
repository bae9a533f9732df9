#include "billing/catalog/keys.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "billing/ledger/key_budget.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"
#include "services/common/api_key.h"
#include "services/common/file.h"

namespace gantry::billing {
namespace {

constexpr int kListLimit = 64;
constexpr size_t kEntryLimit = 128;
constexpr size_t kPepperBytes = 32;
constexpr uint64_t kOverlapMaxS = 90 * 86'400;

// Columns as ReadKey and ReadRecord read them.
#define KEY_COLUMNS                                                                                             \
  "k.key_id, k.public_id, p.party_id, k.label, k.created_us, k.expires_us, k.revoked_us, k.scopes, k.models, "  \
  "k.cidrs, k.requests_per_minute, k.tokens_per_minute, k.concurrency, k.budget_micro, k.secret_hmac, p.name, " \
  "p.status, coalesce((SELECT b.period FROM key_budget JOIN budget b USING (budget_no) WHERE key_no = k.key_no), 0)"

using Lines = google::protobuf::RepeatedPtrField<std::string>;

void Split(const std::string& stored, Lines* list) {
  for (absl::string_view entry : absl::StrSplit(stored, '\n', absl::SkipEmpty())) list->Add(std::string(entry));
}

absl::Status CheckList(const char* name, const Lines& list) {
  if (list.size() > kListLimit) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected at most ", kListLimit, " entries"));
  }
  for (const std::string& entry : list) {
    if (entry.empty() || entry.size() > kEntryLimit || entry.find('\n') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected entries of 1..", kEntryLimit, " bytes without line breaks"));
    }
  }
  return absl::OkStatus();
}

v1::Key ReadKey(const Rows& rows) {
  v1::Key key;
  key.set_key_id(rows.Text(0));
  key.set_public_id(rows.Text(1));
  key.set_party_id(rows.Text(2));
  key.set_label(rows.Text(3));
  key.set_created_us(rows.Int(4));
  key.set_expires_us(rows.Int(5));
  key.set_revoked_us(rows.Int(6));
  Split(rows.Text(7), key.mutable_scopes());
  Split(rows.Text(8), key.mutable_models());
  Split(rows.Text(9), key.mutable_cidrs());
  key.set_requests_per_minute(static_cast<uint32_t>(rows.Int(10)));
  key.set_tokens_per_minute(static_cast<uint64_t>(rows.Int(11)));
  key.set_concurrency(static_cast<uint32_t>(rows.Int(12)));
  key.set_budget_micro(rows.Int(13));
  key.set_budget_period(static_cast<v1::BudgetPeriod>(rows.Int(17)));
  return key;
}

v1::KeyRecord ReadRecord(const Rows& rows) {
  const v1::Key key = ReadKey(rows);
  v1::KeyRecord record;
  record.set_key_id(key.key_id());
  record.set_public_id(key.public_id());
  record.set_secret_hmac(rows.Text(14));
  record.set_party_id(key.party_id());
  record.set_party_name(rows.Text(15));
  record.set_party_status(static_cast<v1::PartyStatus>(rows.Int(16)));
  *record.mutable_scopes() = key.scopes();
  *record.mutable_models() = key.models();
  *record.mutable_cidrs() = key.cidrs();
  record.set_expires_us(key.expires_us());
  record.set_revoked(key.revoked_us() != 0);
  record.set_requests_per_minute(key.requests_per_minute());
  record.set_tokens_per_minute(key.tokens_per_minute());
  record.set_concurrency(key.concurrency());
  record.set_budget_micro(key.budget_micro());
  record.set_budget_period(key.budget_period());
  return record;
}

std::vector<v1::KeyRecord> ReadRecords(Rows rows) {
  std::vector<v1::KeyRecord> records;
  while (rows.Next()) records.push_back(ReadRecord(rows));
  return records;
}

}  // namespace

namespace {

// Stores a key with the terms in `key`; its ids are made here.
CreatedKey InsertKey(Database& db, const PartyRow& party, v1::Key key, const Secret& pepper, int64_t now_us) {
  NewApiKey made = MakeApiKey("live");
  key.set_key_id(NewTimeOrderedId().ToBytes());
  key.set_public_id(made.public_id);
  key.set_party_id(party.party_id.ToBytes());
  key.set_created_us(now_us);
  db.Execute(
      "INSERT INTO api_key (key_id, public_id, secret_hmac, party_no, label, created_us, expires_us, revoked_us, "
      "scopes, models, cidrs, requests_per_minute, tokens_per_minute, concurrency, budget_micro) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?)",
      Blob{key.key_id()}, key.public_id(), Blob{HmacOfSecret(pepper, made.secret)}, party.party_no, key.label(), now_us,
      key.expires_us(), absl::StrJoin(key.scopes(), "\n"), absl::StrJoin(key.models(), "\n"),
      absl::StrJoin(key.cidrs(), "\n"), key.requests_per_minute(), key.tokens_per_minute(), key.concurrency(),
      key.budget_micro());
  return {.key = std::move(key), .text = std::move(made.text)};
}

absl::Status MayHaveKeys(const PartyRow& party) {
  if (party.kind != v1::PARTY_KIND_HOUSE && party.status != v1::PARTY_STATUS_CLOSED) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("`", party.name, "` cannot have keys"));
}

// How far the budget of each key has been used.
absl::Status AddUse(Database& db, const PartyRow& party, int64_t now_us, v1::Key* key) {
  if (key->budget_micro() == 0) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const Budget budget, BudgetOf(db, party, *Id16::FromBytes(key->key_id()), now_us));
  key->set_used_micro(budget.used_micro);
  key->set_resets_us(budget.period == v1::BUDGET_PERIOD_LIFE ? 0 : budget.to_us);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CreatedKey> CreateKey(Database& db, const v1::CreateKeyRequest& request, const Secret& pepper,
                                     int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_RETURN_IF_ERROR(MayHaveKeys(party));
  if (request.label().size() > 64) return absl::InvalidArgumentError("label: expected at most 64 bytes");
  if (request.expires_us() != 0 && request.expires_us() <= now_us) {
    return absl::InvalidArgumentError("expires_us: expected a time to come, or 0 for never");
  }
  if (request.budget_micro() < 0) return absl::InvalidArgumentError("budget_micro: expected >= 0");
  const bool periodic = request.budget_period() != v1::BUDGET_PERIOD_UNSPECIFIED;
  if (periodic && (!v1::BudgetPeriod_IsValid(request.budget_period()) || request.budget_micro() == 0)) {
    return absl::InvalidArgumentError("budget_period: expected day, month or life, with a budget_micro above 0");
  }
  GANTRY_RETURN_IF_ERROR(CheckList("scopes", request.scopes()));
  GANTRY_RETURN_IF_ERROR(CheckList("models", request.models()));
  GANTRY_RETURN_IF_ERROR(CheckList("cidrs", request.cidrs()));

  v1::Key key;
  key.set_label(request.label());
  key.set_expires_us(request.expires_us());
  *key.mutable_scopes() = request.scopes();
  *key.mutable_models() = request.models();
  *key.mutable_cidrs() = request.cidrs();
  key.set_requests_per_minute(request.requests_per_minute());
  key.set_tokens_per_minute(request.tokens_per_minute());
  key.set_concurrency(request.concurrency());
  key.set_budget_micro(request.budget_micro());
  if (request.budget_micro() > 0) {
    key.set_budget_period(periodic ? request.budget_period() : v1::BUDGET_PERIOD_LIFE);
  }
  CreatedKey created = InsertKey(db, party, std::move(key), pepper, now_us);
  if (request.budget_micro() > 0) {
    AddBudget(db, db.LastRowId(), created.key.budget_period(), request.budget_micro());
    GANTRY_RETURN_IF_ERROR(AddUse(db, party, now_us, &created.key));
  }
  return created;
}

absl::StatusOr<CreatedKey> RotateKey(Database& db, const v1::RotateKeyRequest& request, const Secret& pepper,
                                     int64_t now_us) {
  if (request.overlap_s() > kOverlapMaxS) {
    return absl::InvalidArgumentError(absl::StrCat("overlap_s: expected at most ", kOverlapMaxS, " (90 days)"));
  }
  v1::Key old;
  int64_t old_no = 0;
  {
    Rows rows =
        db.Query("SELECT " KEY_COLUMNS ", k.key_no FROM api_key k JOIN party p USING (party_no) WHERE k.public_id = ?",
                 request.public_id());
    if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no key with id ", request.public_id()));
    old = ReadKey(rows);
    old_no = rows.Int(18);
  }
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyById(db, *Id16::FromBytes(old.party_id())));
  GANTRY_RETURN_IF_ERROR(MayHaveKeys(party));
  if (old.revoked_us() != 0 || (old.expires_us() != 0 && old.expires_us() <= now_us)) {
    return absl::FailedPreconditionError(
        absl::StrCat("key ", request.public_id(), " has ended already; make a new one instead"));
  }
  const int64_t end_us = now_us + static_cast<int64_t>(request.overlap_s()) * 1'000'000;
  if (old.expires_us() == 0 || end_us < old.expires_us()) {
    db.Execute("UPDATE api_key SET expires_us = ? WHERE key_no = ?", std::max(end_us, now_us + 1), old_no);
  }
  CreatedKey created = InsertKey(db, party, old, pepper, now_us);
  if (old.budget_micro() > 0) ShareBudget(db, db.LastRowId(), old_no);
  GANTRY_RETURN_IF_ERROR(AddUse(db, party, now_us, &created.key));
  return created;
}

absl::StatusOr<v1::ListKeysResponse> ListKeys(Database& db, const std::string& party_name, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, party_name));
  v1::ListKeysResponse response;
  {
    Rows rows = db.Query("SELECT " KEY_COLUMNS
                         " FROM api_key k JOIN party p USING (party_no) WHERE p.party_id = ? ORDER BY k.created_us",
                         party.party_id);
    while (rows.Next()) *response.add_keys() = ReadKey(rows);
  }
  for (v1::Key& key : *response.mutable_keys()) GANTRY_RETURN_IF_ERROR(AddUse(db, party, now_us, &key));
  return response;
}

absl::StatusOr<v1::Key> RevokeKey(Database& db, const v1::RevokeKeyRequest& request, int64_t now_us) {
  db.Execute("UPDATE api_key SET revoked_us = ? WHERE public_id = ? AND revoked_us = 0", now_us, request.public_id());
  Rows rows = db.Query("SELECT " KEY_COLUMNS " FROM api_key k JOIN party p USING (party_no) WHERE k.public_id = ?",
                       request.public_id());
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no key with id ", request.public_id()));
  return ReadKey(rows);
}

std::vector<v1::KeyRecord> RevokeAsGatewayKnows(Database& db, const std::vector<Id16>& key_ids, int64_t now_us) {
  std::vector<v1::KeyRecord> revoked;
  {
    Rows rows = db.Query("SELECT count(*) FROM restore");
    if (!rows.Next() || rows.Int(0) == 0) return revoked;
  }
  for (const Id16& id : key_ids) {
    if (db.Execute("UPDATE api_key SET revoked_us = ? WHERE key_id = ? AND revoked_us = 0", now_us, id) == 0) continue;
    std::vector<v1::KeyRecord> record = ReadRecords(
        db.Query("SELECT " KEY_COLUMNS " FROM api_key k JOIN party p USING (party_no) WHERE k.key_id = ?", id));
    revoked.insert(revoked.end(), record.begin(), record.end());
  }
  return revoked;
}

std::vector<v1::KeyRecord> AllKeyRecords(Database& db) {
  return ReadRecords(db.Query("SELECT " KEY_COLUMNS " FROM api_key k JOIN party p USING (party_no)"));
}
std::vector<v1::KeyRecord> KeyRecordsOfParty(Database& db, const Id16& party_id) {
  return ReadRecords(
      db.Query("SELECT " KEY_COLUMNS " FROM api_key k JOIN party p USING (party_no) WHERE p.party_id = ?", party_id));
}
std::vector<v1::KeyRecord> KeyRecordsOfKey(Database& db, const std::string& public_id) {
  return ReadRecords(
      db.Query("SELECT " KEY_COLUMNS " FROM api_key k JOIN party p USING (party_no) WHERE k.public_id = ?", public_id));
}

absl::StatusOr<Secret> LoadOrCreatePepper(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) {
    const std::filesystem::path books = std::filesystem::path(path).parent_path() / "gantry.db";
    std::error_code error;
    if (std::filesystem::file_size(books, error) > 0 && !error) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, " is missing and there are books: without it no key works. Put it back, or restore a backup"));
    }
    uint8_t random[kPepperBytes];
    FillRandom(random, sizeof random);
    const std::string hex =
        absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(random), sizeof random)) + "\n";
    int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
    const bool written = write(fd, hex.data(), hex.size()) == static_cast<ssize_t>(hex.size()) && fsync(fd) == 0;
    close(fd);
    if (!written) {
      unlink(path.c_str());
      return absl::DataLossError(absl::StrCat("cannot write ", path));
    }
    // Its name must be there as long as a key is that was made with it.
    GANTRY_RETURN_IF_ERROR(PosixFileSystem()->SyncDirectory(std::filesystem::absolute(path).parent_path().string()));
  }
  GANTRY_ASSIGN_OR_RETURN(Secret hex, ReadSecretFile(path));
  // HMAC's key is the bytes themselves.
  const absl::string_view digits = hex.Reveal();
  const bool good = digits.size() == 2 * kPepperBytes &&
                    std::all_of(digits.begin(), digits.end(), [](char c) { return absl::ascii_isxdigit(c); });
  if (!good) return absl::DataLossError(absl::StrCat(path, ": expected ", 2 * kPepperBytes, " hex digits"));
  return Secret(absl::HexStringToBytes(digits));
}

}  // namespace gantry::billing
