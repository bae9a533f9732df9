#include "billing/audit/checkpoint.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/catalog/admin_log.h"
#include "billing/ledger/ledger.h"
#include "billing/receipt/canonical_json.h"
#include "billing/receipt/ed25519.h"
#include "billing/receipt/receipt_store.h"
#include "billing/store/chain.h"
#include "billing/store/lineage.h"
#include "billing/usage/event.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kCheckpointsKept = 1000;

ChainEnd EndOf(Rows last) {
  if (!last.Next()) return {};
  return {last.Int(0), last.Text(1)};
}

std::string DigestOf(const SumsByAccount& sums) {
  ChainHash hash("");
  for (const auto& [account, sum] : sums) hash.Add(account).Add(sum.debit_micro).Add(sum.credit_micro);
  return absl::BytesToHexString(hash.Finish());
}

std::string EndJson(const ChainEnd& end) {
  return CanonicalObject().Add("hash", absl::BytesToHexString(end.hash)).Add("seq", absl::StrCat(end.seq)).Finish();
}

std::string BodyOf(const Checkpoint& c, const Id16& books) {
  return CanonicalObject()
      .Add("accounts", DigestOf(c.sums))
      .AddJson("audit_log", EndJson(c.log))
      .Add("books", books.ToHex())
      .Add("complete", int64_t{c.complete ? 1 : 0})
      .Add("made_us", absl::StrCat(c.made_us))
      .AddJson("transfers", EndJson(c.transfers))
      .Add("type", "gantry.audit_checkpoint.v1")
      .AddJson("usage", EndJson(c.usage))
      .Finish();
}

// A chain that goes on where a checkpoint stands.
class Chain {
 public:
  Chain(Findings* findings, const char* check, const char* table, ChainEnd end)
      : findings_(*findings), check_(check), table_(table), end_(std::move(end)) {
    findings_.Begin(check);
  }
  // The row that the checkpoint stood on, as it is now.
  void Anchor(const ChainEnd& now) {
    if (end_.seq != 0 && now != end_) {
      findings_.Add(check_, absl::StrCat(table_, " ", end_.seq), "is not what it was at the last checkpoint");
    }
  }
  template <typename HashOf>
  void Row(int64_t seq, std::string hash, int64_t party_no, HashOf hash_of) {
    if (seq != end_.seq + 1) {
      findings_.Add(check_, absl::StrCat(table_, " ", end_.seq + 1), "is missing");
    } else if (hash_of(end_.hash) != hash) {
      findings_.Add(check_, absl::StrCat(table_, " ", seq), "is not what was written", party_no);
    }
    end_ = {seq, std::move(hash)};
    ++rows_;
  }
  void Finish() { findings_.Figures(check_, absl::StrCat(rows_, " rows since the last checkpoint")); }

 private:
  Findings& findings_;
  const char *check_, *table_;
  ChainEnd end_;
  int64_t rows_ = 0;
};

void TailOfUsage(Database& db, const ChainEnd& from, Findings* findings) {
  Chain chain(findings, check::kUsageChain, "usage_event", from);
  chain.Anchor(EndOf(db.Query("SELECT seq, hash FROM usage_event WHERE seq = ?", from.seq)));
  UsageEvent event;
  std::string hash;
  std::vector<RatedHop> hops;
  const auto finish = [&] {
    if (event.seq == 0) return;
    chain.Row(event.seq, hash, event.party_no,
              [&](const std::string& previous) { return EventHash(previous, event, hops); });
  };
  Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS
                       ", u.hash, r.buyer_no, r.seller_no, r.version_no, r.period, r.amount_pico FROM usage_event u "
                       "LEFT JOIN rating r ON r.event_seq = u.seq WHERE u.seq > ? ORDER BY u.seq, r.level",
                       from.seq);
  while (rows.Next()) {
    if (rows.Int(0) != event.seq) {
      finish();
      event = ReadEvent(rows);
      hash = rows.Text(kUsageColumns);
      hops.clear();
    }
    if (!rows.IsNull(kUsageColumns + 1)) hops.push_back(ReadRatedHop(rows, kUsageColumns + 1));
  }
  finish();
  chain.Finish();
}

void TailOfTransfers(Database& db, const Checkpoint& from, Findings* findings) {
  Chain chain(findings, check::kTransferChain, "transfer", from.transfers);
  chain.Anchor(EndOf(db.Query("SELECT seq, hash FROM transfer WHERE seq = ?", from.transfers.seq)));
  const AuditedAccounts accounts = ReadAccounts(db);
  const auto party_of = [&](int64_t debit, int64_t credit) -> int64_t {
    for (const int64_t number : {debit, credit}) {
      const auto found = accounts.find(number);
      if (found != accounts.end() && found->second.type == "customer") return found->second.party_no;
    }
    return 0;
  };
  struct Sums {
    __int128 debit = 0, credit = 0;
  };
  std::map<int64_t, Sums> sums;
  for (const auto& [account, sum] : from.sums) sums[account] = {sum.debit_micro, sum.credit_micro};
  {
    Rows rows = db.Query(
        "SELECT seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash "
        "FROM transfer WHERE seq > ? ORDER BY seq",
        from.transfers.seq);
    while (rows.Next()) {
      const Transfer transfer{.debit_account = rows.Int(1),
                              .credit_account = rows.Int(2),
                              .amount_micro = rows.Int(3),
                              .kind = static_cast<TransferKind>(rows.Int(4)),
                              .source = rows.Int(5),
                              .reference = rows.Text(6),
                              .booked_us = rows.Int(7)};
      const int64_t seq = rows.Int(0);
      chain.Row(seq, rows.Text(8), party_of(transfer.debit_account, transfer.credit_account),
                [&](const std::string& previous) { return TransferHash(previous, seq, transfer); });
      sums[transfer.debit_account].debit += transfer.amount_micro;
      sums[transfer.credit_account].credit += transfer.amount_micro;
    }
  }
  chain.Finish();
  findings->Begin(check::kAccounts);
  for (const auto& [number, account] : accounts) {
    const Sums& s = sums[number];
    if (account.debit_micro == s.debit && account.credit_micro == s.credit) continue;
    findings->Add(check::kAccounts, absl::StrCat("account ", number), BeyondTransfers(account, s.debit, s.credit),
                  account.party_no);
  }
  findings->Figures(check::kAccounts, absl::StrCat(accounts.size(), " accounts"));
}

void TailOfLog(Database& db, const ChainEnd& from, Findings* findings) {
  Chain chain(findings, check::kLogChain, "audit_log", from);
  chain.Anchor(EndOf(db.Query("SELECT seq, hash FROM audit_log WHERE seq = ?", from.seq)));
  Rows rows = db.Query(
      "SELECT seq, at_us, actor, action, object, detail, hash FROM audit_log WHERE seq > ? ORDER BY seq", from.seq);
  while (rows.Next()) {
    chain.Row(rows.Int(0), rows.Text(6), 0, [&](const std::string& previous) {
      return AuditRowHash(previous, rows.Int(0), rows.Int(1), rows.Text(2), rows.Text(3), rows.Text(4), rows.Text(5));
    });
  }
  chain.Finish();
}

}  // namespace

Checkpoint EndOfBooks(Database& db) {
  Checkpoint end;
  end.usage = EndOf(db.Query("SELECT seq, hash FROM usage_event ORDER BY seq DESC LIMIT 1"));
  end.transfers = EndOf(db.Query("SELECT seq, hash FROM transfer ORDER BY seq DESC LIMIT 1"));
  end.log = EndOf(db.Query("SELECT seq, hash FROM audit_log ORDER BY seq DESC LIMIT 1"));
  Rows rows = db.Query("SELECT account_no, debit_micro, credit_micro FROM account");
  while (rows.Next()) end.sums[rows.Int(0)] = {rows.Int(1), rows.Int(2)};
  return end;
}

absl::StatusOr<std::optional<Checkpoint>> LastCheckpoint(Database& db, const ReceiptKeyRing& ring) {
  Checkpoint last;
  std::string body, key_id, signature, name;
  {
    Rows rows = db.Query(
        "SELECT checkpoint_no, made_us, complete, body, key_id, signature FROM audit_checkpoint "
        "ORDER BY checkpoint_no DESC LIMIT 1");
    if (!rows.Next()) return std::optional<Checkpoint>();
    name = absl::StrCat("audit_checkpoint ", rows.Int(0));
    last.made_us = rows.Int(1);
    last.complete = rows.Int(2) != 0;
    body = rows.Text(3);
    key_id = rows.Text(4);
    signature = rows.Text(5);
  }
  std::string public_key;
  for (const StoredReceiptKey& stored : AllReceiptKeys(db)) {
    if (stored.key.key_id == key_id) public_key = stored.key.public_key;
  }
  if (!ring.Has(key_id)) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " was signed with key ", key_id, ", which is not among ours"));
  }
  if (!Ed25519Verify(public_key, body, signature)) {
    return absl::DataLossError(absl::StrCat(name, ": its signature does not hold"));
  }
  // The body says which seqs; what it says must come out again of what is there.
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  const auto end = [&](const char* chain) -> ChainEnd {
    const auto part = json.find(chain);
    if (part == json.end() || !part->is_object()) return {};
    return {std::strtoll(part->value("seq", "0").c_str(), nullptr, 10),
            absl::HexStringToBytes(part->value("hash", ""))};
  };
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(name, " cannot be read"));
  last.usage = end("usage");
  last.transfers = end("transfers");
  last.log = end("audit_log");
  last.sums = RecordedSums(db);
  GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(db));
  if (BodyOf(last, lineage.books_id) != body) {
    return absl::DataLossError(absl::StrCat(name, ": sums of accounts or books are not those that were signed"));
  }
  return std::optional<Checkpoint>(std::move(last));
}

int64_t TailRows(Database& db, const Checkpoint& from) {
  Rows rows = db.Query(
      "SELECT coalesce((SELECT max(seq) FROM usage_event), 0) - ? + coalesce((SELECT max(seq) FROM transfer), 0) - ? "
      "+ coalesce((SELECT max(seq) FROM audit_log), 0) - ?",
      from.usage.seq, from.transfers.seq, from.log.seq);
  return rows.Next() ? rows.Int(0) : 0;
}

AuditResult AuditTail(Database& db, const Checkpoint& from) {
  Findings findings;
  TailOfUsage(db, from.usage, &findings);
  TailOfTransfers(db, from, &findings);
  TailOfLog(db, from.log, &findings);
  CheckHeld(db, &findings);
  return findings.Take();
}

SumsByAccount RecordedSums(Database& db) {
  SumsByAccount sums;
  Rows rows = db.Query("SELECT account_no, debit_micro, credit_micro FROM audit_account");
  while (rows.Next()) sums[rows.Int(0)] = {rows.Int(1), rows.Int(2)};
  return sums;
}

absl::Status RecordCheckpoint(Database& db, const ReceiptKeyRing& ring, const Checkpoint& checkpoint,
                              const SumsByAccount& recorded) {
  std::string key_id;
  for (const StoredReceiptKey& stored : AllReceiptKeys(db)) {
    if (ring.Has(stored.key.key_id)) key_id = stored.key.key_id;
  }
  GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(db));
  const std::string body = BodyOf(checkpoint, lineage.books_id);
  GANTRY_ASSIGN_OR_RETURN(const std::string signature, ring.Sign(key_id, body));
  for (const auto& [account, sum] : checkpoint.sums) {
    const auto known = recorded.find(account);
    if (known != recorded.end() && known->second == sum) continue;
    db.Execute("INSERT OR REPLACE INTO audit_account (account_no, debit_micro, credit_micro) VALUES (?, ?, ?)", account,
               sum.debit_micro, sum.credit_micro);
  }
  for (const auto& [account, sum] : recorded) {
    if (!checkpoint.sums.contains(account)) db.Execute("DELETE FROM audit_account WHERE account_no = ?", account);
  }
  db.Execute("INSERT INTO audit_checkpoint (made_us, complete, body, key_id, signature) VALUES (?, ?, ?, ?, ?)",
             checkpoint.made_us, checkpoint.complete ? 1 : 0, body, key_id, Blob{signature});
  db.Execute("DELETE FROM audit_checkpoint WHERE checkpoint_no <= ?", db.LastRowId() - kCheckpointsKept);
  return absl::OkStatus();
}

}  // namespace gantry::billing
