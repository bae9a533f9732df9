#include "billing/receipt/receipt.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "billing/receipt/canonical_json.h"
#include "engine/base/check.h"
#include "engine/text/unicode.h"
#include "services/common/digest.h"

namespace gantry::billing {
namespace {

std::string Hex(absl::string_view bytes) {
  return absl::BytesToHexString(bytes);
}

// Field and reason of the first that cannot be true; empty when all can.
std::string Impossible(const ReceiptFacts& facts) {
  const struct {
    const char* field;
    int64_t value;
  } counts[] = {{"input_tokens", facts.input_tokens},
                {"cached_tokens", facts.cached_tokens},
                {"output_tokens", facts.output_tokens},
                {"reasoning_tokens", facts.reasoning_tokens},
                {"requests", facts.requests}};
  const int64_t least = facts.correction ? -kCanonicalIntegerMax : 0;  // only a correction takes something back
  for (const auto& count : counts) {
    if (count.value < least || count.value > kCanonicalIntegerMax)
      return absl::StrCat(count.field, " is ", count.value);
  }
  if (facts.ended_us < 0 || facts.ended_us > kCanonicalIntegerMax) return absl::StrCat("ended_us is ", facts.ended_us);
  if (facts.model.empty() || engine::text::FindInvalidUtf8(facts.model) != std::string::npos) {
    return "model is not UTF-8 text";
  }
  if (facts.plan_version_hash.size() != kSha256Bytes) return "plan_version_hash has not 32 bytes";
  for (const std::string* digest : {&facts.prompt_digest, &facts.output_digest}) {
    if (!digest->empty() && digest->size() != kSha256Bytes) return "a token digest has not 32 bytes";
  }
  if (facts.currency.size() != 3) return "currency is not ISO 4217";
  return "";
}

}  // namespace

absl::StatusOr<std::string> NextReceiptBody(const ReceiptFacts& facts, absl::string_view key_id, ReceiptChain* chain) {
  if (const std::string reason = Impossible(facts); !reason.empty()) {
    return absl::DataLossError(absl::StrCat("request ", facts.request_id.ToHex(), " cannot be receipted: ", reason));
  }
  CanonicalObject body;
  body.Add("buyer", facts.buyer.ToHex())
      .Add("cached_tokens", facts.cached_tokens)
      .Add("cost_pico", absl::StrCat(facts.cost_pico))
      .Add("currency", facts.currency)
      .Add("ended_us", facts.ended_us)
      .Add("input_tokens", facts.input_tokens)
      .Add("key_id", key_id)
      .Add("kind", facts.correction ? "correction" : "usage")
      .Add("model", facts.model)
      .Add("number", absl::StrCat(chain->number + 1));
  if (!facts.output_digest.empty()) body.Add("output_digest", Hex(facts.output_digest));
  body.Add("output_tokens", facts.output_tokens)
      .Add("plan_version", facts.plan_version_id.ToHex())
      .Add("plan_version_hash", Hex(facts.plan_version_hash))
      .Add("previous", Hex(chain->hash));
  if (!facts.prompt_digest.empty()) body.Add("prompt_digest", Hex(facts.prompt_digest));
  body.Add("reasoning_tokens", facts.reasoning_tokens)
      .Add("request_id", facts.request_id.ToHex())
      .Add("requests", facts.requests)
      .Add("seller", facts.seller.ToHex())
      .Add("tenant", facts.tenant.ToHex())
      .Add("type", "gantry.receipt")
      .Add("version", int64_t{1});
  std::string bytes = body.Finish();
  ++chain->number;
  chain->hash = Sha256(bytes);
  return bytes;
}

std::string ReceiptRootBody(const ReceiptRoot& root) {
  CanonicalObject body;
  body.Add("closed_us", root.closed_us)
      .Add("day", root.day)
      .Add("house", root.house.ToHex())
      .Add("key_id", root.key_id)
      .Add("number", absl::StrCat(root.number))
      .Add("previous", Hex(root.previous))
      .Add("root", Hex(root.root))
      .Add("size", root.size)
      .Add("type", "gantry.receipt-root")
      .Add("version", int64_t{1});
  return body.Finish();
}

std::string RootDocument(absl::string_view root_body, absl::string_view signature) {
  return CanonicalObject().AddJson("root", root_body).Add("signature", Hex(signature)).Finish();
}

std::string ReceiptDocument(absl::string_view body, absl::string_view signature, const ReceiptProof* proof) {
  CanonicalObject document;
  if (proof != nullptr) {
    std::string path = "[";
    for (const std::string& node : proof->path) {
      absl::StrAppend(&path, path.size() > 1 ? "," : "", "\"", Hex(node), "\"");
    }
    path.push_back(']');
    CanonicalObject inner;
    inner.Add("index", proof->index)
        .Add("leaf_nonce", Hex(proof->leaf_nonce))
        .AddJson("path", path)
        .AddJson("root", proof->root_body)
        .Add("root_signature", Hex(proof->root_signature));
    document.AddJson("proof", inner.Finish());
  }
  document.AddJson("receipt", body).Add("signature", Hex(signature));
  return document.Finish();
}

std::string TokenDigest(absl::string_view nonce, const std::vector<uint32_t>& ids) {
  GANTRY_CHECK(nonce.size() == 32, "a nonce has 32 bytes");
  std::string bytes(nonce);
  bytes.reserve(nonce.size() + 4 * ids.size());
  for (const uint32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(id >> shift));
  }
  return Sha256(bytes);
}

std::string ReceiptKeyId(absl::string_view public_key) {
  return Hex(Sha256(public_key).substr(0, 16));
}

std::string ReceiptKeyBody(absl::string_view public_key, int64_t created_us, absl::string_view endorsed_by) {
  CanonicalObject body;
  body.Add("created_us", created_us)
      .Add("endorsed_by", endorsed_by)
      .Add("key_id", ReceiptKeyId(public_key))
      .Add("public_key", Hex(public_key))
      .Add("type", "gantry.receipt-key")
      .Add("version", int64_t{1});
  return body.Finish();
}

}  // namespace gantry::billing
