// For tests: receipts of facts that nobody booked, random ones and those at the edges of what is possible.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "billing/receipt/canonical_json.h"
#include "billing/receipt/ed25519.h"
#include "billing/receipt/merkle.h"
#include "billing/receipt/receipt.h"
#include "billing/receipt/verify.h"
#include "engine/base/check.h"
#include "services/common/digest.h"

namespace gantry::billing {

class ReceiptMaker {
 public:
  explicit ReceiptMaker(uint64_t seed) : random_(seed), signing_(RandomBytes(32)) {
    const std::string key = Ed25519PublicKey(signing_);
    key_ = {ReceiptKeyId(key), key, 1'794'312'000'000'000, ReceiptKeyId(key), ""};
    key_.endorsement = Ed25519Sign(signing_, ReceiptKeyBody(key, key_.created_us, key_.endorsed_by));
  }

  const PublicReceiptKey& key() const { return key_; }
  std::string KeysFile() const { return ReceiptKeysFile({key_}); }
  ReceiptKeys Keys() const { return *ReceiptKeys::Parse(KeysFile()); }
  std::string Sign(absl::string_view body) const { return Ed25519Sign(signing_, body); }
  std::string RandomBytes(size_t size) {
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(random_());
    return bytes;
  }
  Id16 RandomId() { return *Id16::FromBytes(RandomBytes(16)); }

  ReceiptFacts RandomFacts() {
    ReceiptFacts facts;
    facts.request_id = RandomId();
    facts.tenant = facts.buyer = tenant_;
    facts.seller = house_;
    facts.model = RandomText();
    facts.input_tokens = RandomCount();
    facts.cached_tokens = RandomCount();
    facts.output_tokens = RandomCount();
    facts.reasoning_tokens = RandomCount();
    facts.requests = static_cast<int64_t>(random_() % 2);
    if (random_() % 3 != 0) facts.prompt_digest = RandomBytes(32);
    if (random_() % 3 != 0) facts.output_digest = RandomBytes(32);
    facts.plan_version_id = RandomId();
    facts.plan_version_hash = RandomBytes(32);
    facts.cost_pico = static_cast<int64_t>(random_() >> (1 + random_() % 63));
    facts.currency = "EUR";
    facts.ended_us = 1'794'312'000'000'000 + static_cast<int64_t>(random_() % 1'000'000'000'000);
    if (random_() % 8 == 0) {
      facts.correction = true;
      facts.output_tokens = -facts.output_tokens;
      facts.cost_pico = -facts.cost_pico;
    }
    return facts;
  }

  // Every field at the ends of what it may hold.
  std::vector<ReceiptFacts> EdgeFacts() {
    const ReceiptFacts plain = RandomFacts();
    std::vector<ReceiptFacts> all;
    const auto add = [&](auto change) {
      all.push_back(plain);
      all.back().correction = false;
      all.back().output_tokens = all.back().cost_pico = 0;
      change(&all.back());
    };
    for (const int64_t count : {int64_t{0}, int64_t{1}, kCanonicalIntegerMax}) {
      add([=](ReceiptFacts* f) {
        f->input_tokens = f->cached_tokens = f->output_tokens = f->reasoning_tokens = f->requests = f->ended_us = count;
      });
    }
    for (const int64_t cost : {int64_t{0}, INT64_MAX, INT64_MIN, int64_t{-1}}) {
      add([=](ReceiptFacts* f) { f->cost_pico = cost; });
    }
    add([](ReceiptFacts* f) {
      f->correction = true;
      f->output_tokens = -kCanonicalIntegerMax;
    });
    for (const char* model : {"\"", "\\", "/", "\b\t\n\f\r", "\x01\x1f", "\x7f", "é", "ﬀ", "模型", "𝄞", "a\u2028b",
                              "</script>", "e\u0301", "\uffff", "\U0010ffff"}) {
      add([=](ReceiptFacts* f) { f->model = model; });
    }
    add([](ReceiptFacts* f) { f->model = std::string(1024, 'm'); });
    add([](ReceiptFacts* f) { f->prompt_digest = f->output_digest = ""; });
    add([](ReceiptFacts* f) { f->prompt_digest = f->output_digest = std::string(32, '\xff'); });
    add([](ReceiptFacts* f) { f->buyer = f->seller = f->tenant = f->request_id = Id16{}; });
    return all;
  }

  // The next document of the one chain that this maker writes; with a proof when asked for.
  std::string Next(const ReceiptFacts& facts, bool with_proof) {
    const absl::StatusOr<std::string> body = NextReceiptBody(facts, key_.key_id, &chain_);
    GANTRY_CHECK(body.ok(), "the facts are possible");
    if (!with_proof) return ReceiptDocument(*body, Sign(*body), nullptr);
    ReceiptProof proof;
    proof.leaf_nonce = RandomBytes(32);
    std::vector<std::string> leaves;
    const size_t size = kMerkleLeavesMin << (random_() % 4);
    while (leaves.size() < size) leaves.push_back(RandomBytes(32));
    proof.index = static_cast<int64_t>(random_() % size);
    leaves[static_cast<size_t>(proof.index)] = MerkleLeaf(proof.leaf_nonce, chain_.hash);
    proof.path = MerklePath(leaves, static_cast<size_t>(proof.index));
    ReceiptRoot root{.number = ++root_number_, .day = "2026-11-10", .house = house_};
    root.size = static_cast<int64_t>(size);
    root.root = MerkleRoot(leaves);
    if (!last_root_body_.empty()) root.previous = Sha256(last_root_body_);
    root.closed_us = facts.ended_us;
    root.key_id = key_.key_id;
    last_root_body_ = proof.root_body = ReceiptRootBody(root);
    proof.root_signature = Sign(proof.root_body);
    return ReceiptDocument(*body, Sign(*body), &proof);
  }
  const std::string& last_root_body() const { return last_root_body_; }

 private:
  int64_t RandomCount() { return static_cast<int64_t>(random_() >> (11 + random_() % 53)); }
  // Letters of one to four bytes, and what must be escaped.
  std::string RandomText() {
    static constexpr const char* kPieces[] = {"a",  "Z",  "0",    "-", "/",  ".", " ", "\"", "\\",
                                              "\n", "\t", "\x02", "é", "中", "𝄞", "~", "<",  "\u2028"};
    std::string text = "m";
    for (size_t i = random_() % 20; i > 0; --i) text += kPieces[random_() % std::size(kPieces)];
    return text;
  }

  std::mt19937_64 random_;
  Secret signing_;
  PublicReceiptKey key_;
  const Id16 tenant_ = RandomId(), house_ = RandomId();
  ReceiptChain chain_;
  int64_t root_number_ = 0;
  std::string last_root_body_;
};

}  // namespace gantry::billing
