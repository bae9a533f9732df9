// A signed receipt (R12): what one request cost one buyer, in a form that anybody can check with a public key alone.
// The format is described for those who check it in docs/receipts.md; this header names its parts.
//
//   body       canonical JSON of the receipt's fields; its hash is SHA-256 of these bytes
//   document   {"receipt": body, "signature": Ed25519 over the body's bytes, "proof": …}: one line of a receipt file
//
// A request that is resold has one receipt per hop. Each names its own buyer, seller and price; nothing of a receipt
// depends on another hop. Bodies of one buyer are numbered from 1 without gaps, and each holds the hash of the one
// before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/ids.h"
#include "services/common/secret.h"

namespace gantry::billing {

// What the books say about one request at one hop.
struct ReceiptFacts {
  int64_t event_seq = 0;    // its place in the books; orders receipts, is not part of them
  int64_t received_us = 0;  // when billing wrote it down; decides the day of its root, is not part of the receipt
  bool correction = false;  // takes something back of, or adds something to, an earlier receipt of the same request
  Id16 request_id;
  Id16 tenant;  // whose key made the request
  Id16 buyer;   // who pays at this hop: the tenant, or a reseller above it
  Id16 seller;  // whom the buyer pays
  std::string model;
  int64_t input_tokens = 0;      // computed; disjoint from cached_tokens
  int64_t cached_tokens = 0;     // prompt tokens found in a cache
  int64_t output_tokens = 0;     // delivered
  int64_t reasoning_tokens = 0;  // memo: part of output_tokens
  int64_t requests = 0;          // 1 when a price per request was charged
  std::string prompt_digest;     // TokenDigest; empty: unknown
  std::string output_digest;     // of all sequences in order; empty: unknown
  Id16 plan_version_id;
  std::string plan_version_hash;  // 32 bytes
  int64_t cost_pico = 0;
  std::string currency;
  int64_t ended_us = 0;  // of the request, on billing's clock
};

// Where the receipts of one buyer go on.
struct ReceiptChain {
  int64_t number = 0;                                // of the last receipt; 0: none yet
  std::string hash = std::string(size_t{32}, '\0');  // of the last receipt
};

// The body of the next receipt of `chain`, which then stands on it. DATA_LOSS when the facts cannot be true (they name
// the field).
absl::StatusOr<std::string> NextReceiptBody(const ReceiptFacts& facts, absl::string_view key_id, ReceiptChain* chain);

// What a root says; signed like a receipt. `key_id`: lower-case hex.
struct ReceiptRoot {
  int64_t number = 0;  // from 1 without gaps
  std::string day;     // YYYY-MM-DD, UTC
  Id16 house;
  int64_t size = 0;                                      // leaves, padding included
  std::string root;                                      // 32 bytes
  std::string previous = std::string(size_t{32}, '\0');  // SHA-256 of the body of the root before
  int64_t closed_us = 0;
  std::string key_id;
};
std::string ReceiptRootBody(const ReceiptRoot& root);
// A root alone as a line of a receipt file: what is published.
std::string RootDocument(absl::string_view root_body, absl::string_view signature);

struct ReceiptProof {
  int64_t index = 0;
  std::string leaf_nonce;  // 32 bytes
  std::vector<std::string> path;
  std::string root_body;
  std::string root_signature;
};

// One line of a receipt file, without its newline. `proof` may be null.
std::string ReceiptDocument(absl::string_view body, absl::string_view signature, const ReceiptProof* proof);

// SHA-256(nonce ‖ ids, each as four bytes, the lowest first). REQUIRES: a nonce of 32 bytes.
std::string TokenDigest(absl::string_view nonce, const std::vector<uint32_t>& ids);

// A public key's name: the first 16 bytes of its SHA-256 as hex.
std::string ReceiptKeyId(absl::string_view public_key);

// What is signed when a key names its successor (or, the first one, itself).
std::string ReceiptKeyBody(absl::string_view public_key, int64_t created_us, absl::string_view endorsed_by);

}  // namespace gantry::billing
