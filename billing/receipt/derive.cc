#include "billing/receipt/derive.h"

#include <algorithm>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/receipt/canonical_json.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPageEvents = 1024;
constexpr size_t kPointEvery = 1024;    // receipts of one buyer
constexpr size_t kPointLimit = 65'536;  // of all buyers
constexpr size_t kHopsMax = 8;          // of one event; resale is at most four deep
constexpr int64_t kDayUs = 86'400'000'000;

// The first microsecond after the UTC day of `time_us`.
int64_t EndOfDay(int64_t time_us) {
  return (time_us / kDayUs + 1) * kDayUs;
}
std::string DayOf(int64_t time_us) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixMicros(time_us), absl::UTCTimeZone());
}

absl::Status GivenUp() {
  return absl::DeadlineExceededError("receipts take longer than the caller waits; ask again, what was done is kept");
}

std::string LeafPurpose(int64_t root_number, absl::string_view receipt_hash) {
  return absl::StrCat("leaf ", root_number, " ", receipt_hash);
}

}  // namespace

struct ReceiptDeriver::Batch {
  std::map<Id16, ReceiptChain> chains;
  std::vector<std::string> hashes;  // of the receipts, in their order
  int64_t first_event_seq = 0, last_event_seq = 0, first_received_us = 0;
  bool ended = false;  // by the caller's word; else the books ended
};

absl::Status ReceiptDeriver::LoadKeys() {
  return options_.store->ReadAndWait([this](Database& db) {
    keys_ = AllReceiptKeys(db);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::string> ReceiptDeriver::KeyOf(int64_t event_seq) const {
  for (auto key = keys_.rbegin(); key != keys_.rend(); ++key) {
    if (key->first_event_seq <= event_seq) return key->key.key_id;
  }
  return absl::FailedPreconditionError("there is no receipt key yet; `gantry receipt rotate-key` makes one");
}

absl::StatusOr<std::vector<std::string>> ReceiptDeriver::Documents(const Id16& request_id, const Id16& buyer,
                                                                   bool with_proof, const GiveUp& give_up) {
  GANTRY_RETURN_IF_ERROR(LoadKeys());
  struct Wanted {
    ReceiptFacts facts;
    ChainPoint from;
    std::optional<StoredReceiptRoot> root;
  };
  std::vector<Wanted> wanted;
  GANTRY_RETURN_IF_ERROR(options_.store->ReadAndWait([&](Database& db) {
    for (ReceiptFacts& facts : options_.source.of_request(db, request_id)) {
      if (facts.buyer != (buyer.IsZero() ? facts.tenant : buyer)) continue;
      const int64_t seq = facts.event_seq;
      ChainPoint from = KeptChainBefore(db, facts.buyer, seq);
      wanted.push_back({std::move(facts), std::move(from), ReceiptRootOfEvent(db, seq)});
    }
    return absl::OkStatus();
  }));
  if (wanted.empty()) {
    return absl::NotFoundError(absl::StrCat("request ", request_id.ToHex(), " is not among the party's usage"));
  }
  std::vector<std::string> documents;
  for (const Wanted& one : wanted) {
    if (with_proof && !one.root.has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat("request ", request_id.ToHex(), " is not under a root yet; that of ",
                       DayOf(one.facts.received_us), " is closed at ",
                       absl::FormatTime("%Y-%m-%d %H:%M",
                                        absl::FromUnixMicros(EndOfDay(one.facts.received_us) + options_.root_grace_us),
                                        absl::UTCTimeZone()),
                       " UTC"));
    }
    GANTRY_ASSIGN_OR_RETURN(const std::string body, Body(one.facts, one.from, give_up));
    GANTRY_ASSIGN_OR_RETURN(const std::string key_id, KeyOf(one.facts.event_seq));
    GANTRY_ASSIGN_OR_RETURN(const std::string signature, options_.ring->Sign(key_id, body));
    if (!with_proof) {
      documents.push_back(ReceiptDocument(body, signature, nullptr));
      continue;
    }
    GANTRY_ASSIGN_OR_RETURN(const ReceiptProof proof, Proof(*one.root, Sha256(body), give_up));
    documents.push_back(ReceiptDocument(body, signature, &proof));
  }
  return documents;
}

absl::StatusOr<std::string> ReceiptDeriver::Body(const ReceiptFacts& facts, ChainPoint from, const GiveUp& give_up) {
  if (point_count_ > kPointLimit) DropCaches();
  std::vector<ChainPoint>& points = points_[facts.buyer];
  const auto later = std::lower_bound(points.begin(), points.end(), facts.event_seq,
                                      [](const ChainPoint& point, int64_t seq) { return point.event_seq < seq; });
  if (later != points.begin() && std::prev(later)->event_seq > from.event_seq) from = *std::prev(later);
  // Points are only added behind the last one, so that they stay in order.
  const auto remember = [&] {
    if (!points.empty() && points.back().event_seq >= from.event_seq) return;
    points.push_back(from);
    ++point_count_;
  };
  size_t walked = 0;
  for (;;) {
    if (give_up()) return GivenUp();
    std::vector<ReceiptFacts> page;
    GANTRY_RETURN_IF_ERROR(options_.store->ReadAndWait([&](Database& db) {
      page = options_.source.of_buyer(db, facts.buyer, from.event_seq, kPageEvents);
      return absl::OkStatus();
    }));
    if (page.empty()) return absl::DataLossError("the books end before a receipt that they hold");
    for (const ReceiptFacts& next : page) {
      GANTRY_ASSIGN_OR_RETURN(const std::string key_id, KeyOf(next.event_seq));
      ReceiptChain chain = from.chain;
      GANTRY_ASSIGN_OR_RETURN(std::string body, NextReceiptBody(next, key_id, &chain));
      if (next.event_seq == facts.event_seq) {
        remember();
        return body;
      }
      from = {next.event_seq, std::move(chain)};
      if (++walked % kPointEvery == 0) remember();
    }
  }
}

absl::StatusOr<ReceiptDeriver::Batch> ReceiptDeriver::Collect(
    int64_t after_event_seq, const std::function<bool(const ReceiptFacts&, const Batch&)>& ends_before,
    const GiveUp& give_up) {
  Batch batch;
  std::map<Id16, ReceiptChain> starts;  // of buyers on any page, also beyond the end
  int64_t at = after_event_seq;
  for (;;) {
    if (give_up()) return GivenUp();
    std::vector<ReceiptFacts> page;
    GANTRY_RETURN_IF_ERROR(options_.store->ReadAndWait([&](Database& db) {
      page = options_.source.after(db, at, kPageEvents);
      for (const ReceiptFacts& facts : page) {
        const auto [start, is_new] = starts.try_emplace(facts.buyer);
        if (is_new) start->second = KeptChainBefore(db, facts.buyer, after_event_seq + 1).chain;
      }
      return absl::OkStatus();
    }));
    for (const ReceiptFacts& facts : page) {
      // All hops of an event stand under one root.
      if (facts.event_seq != at && ends_before(facts, batch)) {
        batch.ended = true;
        break;
      }
      at = facts.event_seq;
      if (batch.hashes.empty()) {
        batch.first_event_seq = facts.event_seq;
        batch.first_received_us = facts.received_us;
      }
      GANTRY_ASSIGN_OR_RETURN(const std::string key_id, KeyOf(facts.event_seq));
      ReceiptChain& chain = batch.chains.try_emplace(facts.buyer, starts[facts.buyer]).first->second;
      GANTRY_RETURN_IF_ERROR(NextReceiptBody(facts, key_id, &chain).status());
      batch.hashes.push_back(chain.hash);
    }
    batch.last_event_seq = at;
    if (batch.ended || page.empty()) break;
  }
  return batch;
}

absl::StatusOr<std::vector<std::string>> ReceiptDeriver::Leaves(int64_t root_number,
                                                                const std::vector<std::string>& hashes) const {
  std::vector<std::string> leaves;
  const size_t size = MerkleSize(hashes.size());
  leaves.reserve(size);
  for (const std::string& hash : hashes) {
    GANTRY_ASSIGN_OR_RETURN(const std::string nonce, options_.ring->Nonce(LeafPurpose(root_number, hash)));
    leaves.push_back(MerkleLeaf(nonce, hash));
  }
  for (size_t i = hashes.size(); i < size; ++i) {
    GANTRY_ASSIGN_OR_RETURN(const std::string nonce,
                            options_.ring->Nonce(absl::StrCat("padding ", root_number, " ", i)));
    leaves.push_back(MerklePadding(nonce));
  }
  std::sort(leaves.begin(), leaves.end());
  return leaves;
}

absl::StatusOr<ReceiptProof> ReceiptDeriver::Proof(const StoredReceiptRoot& root, const std::string& receipt_hash,
                                                   const GiveUp& give_up) {
  if (cached_root_ != root.number) {
    GANTRY_ASSIGN_OR_RETURN(
        const Batch batch,
        Collect(
            root.first_event_seq - 1,
            [&](const ReceiptFacts& next, const Batch&) { return next.event_seq > root.last_event_seq; }, give_up));
    GANTRY_ASSIGN_OR_RETURN(std::vector<std::string> leaves, Leaves(root.number, batch.hashes));
    GANTRY_ASSIGN_OR_RETURN(const nlohmann::json body, ParseCanonicalObject(root.body));
    if (absl::BytesToHexString(MerkleRoot(leaves)) != body.value("root", "")) {
      return absl::DataLossError(absl::StrCat(
          "the books no longer lead to root ", root.number,
          " that was signed: a row was changed, or the key ring's blinding secret is another; `gantry audit` tells"));
    }
    cached_root_ = root.number;
    cached_leaves_ = std::move(leaves);
  }
  ReceiptProof proof;
  GANTRY_ASSIGN_OR_RETURN(proof.leaf_nonce, options_.ring->Nonce(LeafPurpose(root.number, receipt_hash)));
  const auto leaf =
      std::lower_bound(cached_leaves_.begin(), cached_leaves_.end(), MerkleLeaf(proof.leaf_nonce, receipt_hash));
  if (leaf == cached_leaves_.end() || *leaf != MerkleLeaf(proof.leaf_nonce, receipt_hash)) {
    return absl::DataLossError(absl::StrCat("a receipt is not among the leaves of its root ", root.number));
  }
  proof.index = leaf - cached_leaves_.begin();
  proof.path = MerklePath(cached_leaves_, static_cast<size_t>(proof.index));
  proof.root_body = root.body;
  proof.root_signature = root.signature;
  return proof;
}

absl::StatusOr<int> ReceiptDeriver::CloseRoots(const GiveUp& give_up) {
  GANTRY_RETURN_IF_ERROR(LoadKeys());
  int closed = 0;
  while (!keys_.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const bool one, CloseNextRoot(give_up));
    if (!one) break;
    ++closed;
  }
  return closed;
}

absl::StatusOr<bool> ReceiptDeriver::CloseNextRoot(const GiveUp& give_up) {
  std::optional<StoredReceiptRoot> before;
  Id16 house;
  int64_t first_received_us = -1;  // of the first event that is under no root
  int64_t waiting = 0;             // events that are under no root
  GANTRY_RETURN_IF_ERROR(options_.store->ReadAndWait([&](Database& db) {
    before = LastReceiptRoot(db);
    house = options_.source.house(db);
    const int64_t last = before.has_value() ? before->last_event_seq : 0;
    const std::vector<ReceiptFacts> first = options_.source.after(db, last, 1);
    if (!first.empty()) first_received_us = first[0].received_us;
    waiting = options_.source.last_event_seq(db) - last;
    return absl::OkStatus();
  }));
  if (first_received_us < 0) return false;
  const int64_t now_us = options_.clock();
  const int64_t day_end = EndOfDay(first_received_us);
  const bool day_is_over = now_us >= day_end + options_.root_grace_us;
  // A day that fills more than one root closes the full ones as it goes.
  if (!day_is_over && waiting < static_cast<int64_t>(options_.leaves_max)) return false;

  GANTRY_ASSIGN_OR_RETURN(const Batch batch, Collect(
                                                 before.has_value() ? before->last_event_seq : 0,
                                                 [&](const ReceiptFacts& next, const Batch& so_far) {
                                                   return next.received_us >= day_end ||
                                                          so_far.hashes.size() + kHopsMax > options_.leaves_max;
                                                 },
                                                 give_up));
  // The books ended before the root was full, on a day that is not over.
  if (!batch.ended && !day_is_over) return false;

  StoredReceiptRoot root;
  root.number = before.has_value() ? before->number + 1 : 1;
  root.first_event_seq = before.has_value() ? before->last_event_seq + 1 : 1;
  root.last_event_seq = batch.last_event_seq;
  root.receipts = static_cast<int64_t>(batch.hashes.size());
  GANTRY_ASSIGN_OR_RETURN(std::vector<std::string> leaves, Leaves(root.number, batch.hashes));
  ReceiptRoot content;
  content.number = root.number;
  content.day = DayOf(batch.first_received_us);
  content.house = house;
  content.size = static_cast<int64_t>(leaves.size());
  content.root = MerkleRoot(std::move(leaves));
  if (before.has_value()) content.previous = Sha256(before->body);
  content.closed_us = now_us;
  content.key_id = keys_.back().key.key_id;
  root.body = ReceiptRootBody(content);
  GANTRY_ASSIGN_OR_RETURN(root.signature, options_.ring->Sign(content.key_id, root.body));
  GANTRY_RETURN_IF_ERROR(options_.store->WriteAndWait([&](Database& db) -> absl::Status {
    const std::optional<StoredReceiptRoot> last = LastReceiptRoot(db);
    if ((last.has_value() ? last->number : 0) != root.number - 1) {
      return absl::AbortedError("another root was closed meanwhile");
    }
    AppendReceiptRoot(db, root, batch.chains);
    return absl::OkStatus();
  }));
  Log(LogLevel::kInfo, "closed a root of receipts",
      {{"root", root.number}, {"day", content.day}, {"receipts", root.receipts}});
  return true;
}

void ReceiptDeriver::DropCaches() {
  points_.clear();
  point_count_ = 0;
  cached_root_ = 0;
  cached_leaves_.clear();
  cached_leaves_.shrink_to_fit();
}

}  // namespace gantry::billing
