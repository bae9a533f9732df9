#include "billing/receipt/verify.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "billing/receipt/canonical_json.h"
#include "billing/receipt/ed25519.h"
#include "billing/receipt/fields.h"
#include "billing/receipt/merkle.h"
#include "billing/receipt/receipt.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"

namespace gantry::billing {
namespace {

constexpr FieldRule kReceiptLine[] = {
    {"proof", FieldForm::kObject, true}, {"receipt", FieldForm::kObject}, {"signature", FieldForm::kHex64}};
constexpr FieldRule kRootLine[] = {{"root", FieldForm::kObject}, {"signature", FieldForm::kHex64}};
constexpr FieldRule kReceipt[] = {{"type", FieldForm::kText, false, "gantry.receipt"},
                                  {"version", FieldForm::kCount, false, "1"},
                                  {"buyer", FieldForm::kHex16},
                                  {"cached_tokens", FieldForm::kInteger},
                                  {"cost_pico", FieldForm::kDecimal},
                                  {"currency", FieldForm::kCurrency},
                                  {"ended_us", FieldForm::kCount},
                                  {"input_tokens", FieldForm::kInteger},
                                  {"key_id", FieldForm::kHex16},
                                  {"kind", FieldForm::kText, false, "usage|correction"},
                                  {"model", FieldForm::kText},
                                  {"number", FieldForm::kOrdinal},
                                  {"output_digest", FieldForm::kHex32, true},
                                  {"output_tokens", FieldForm::kInteger},
                                  {"plan_version", FieldForm::kHex16},
                                  {"plan_version_hash", FieldForm::kHex32},
                                  {"previous", FieldForm::kHex32},
                                  {"prompt_digest", FieldForm::kHex32, true},
                                  {"reasoning_tokens", FieldForm::kInteger},
                                  {"request_id", FieldForm::kHex16},
                                  {"requests", FieldForm::kInteger},
                                  {"seller", FieldForm::kHex16},
                                  {"tenant", FieldForm::kHex16}};
constexpr FieldRule kRoot[] = {{"type", FieldForm::kText, false, "gantry.receipt-root"},
                               {"version", FieldForm::kCount, false, "1"},
                               {"closed_us", FieldForm::kCount},
                               {"day", FieldForm::kDay},
                               {"house", FieldForm::kHex16},
                               {"key_id", FieldForm::kHex16},
                               {"number", FieldForm::kOrdinal},
                               {"previous", FieldForm::kHex32},
                               {"root", FieldForm::kHex32},
                               {"size", FieldForm::kCount}};
constexpr FieldRule kProof[] = {{"index", FieldForm::kCount},
                                {"leaf_nonce", FieldForm::kHex32},
                                {"path", FieldForm::kHex32List},
                                {"root", FieldForm::kObject},
                                {"root_signature", FieldForm::kHex64}};
constexpr FieldRule kKey[] = {{"created_us", FieldForm::kCount},
                              {"endorsed_by", FieldForm::kHex16},
                              {"endorsement", FieldForm::kHex64},
                              {"key_id", FieldForm::kHex16},
                              {"public_key", FieldForm::kHex32}};

const std::string& Text(const nlohmann::json& object, const char* name) {
  return object.at(name).get_ref<const std::string&>();
}
std::string Bytes(const nlohmann::json& object, const char* name) {
  return absl::HexStringToBytes(Text(object, name));
}
absl::Status Wrong(absl::string_view step, absl::string_view reason) {
  return absl::DataLossError(absl::StrCat(step, ": ", reason));
}

// `path` is where `body` stands, `step` names its signature.
absl::Status CheckSignature(const nlohmann::json& body, absl::string_view path, const std::string& signature,
                            absl::string_view step, const ReceiptKeys& keys) {
  const std::string& key_id = Text(body, "key_id");
  const std::string* key = keys.Find(key_id);
  if (key == nullptr) {
    return Wrong(absl::StrCat(path, ".key_id"),
                 absl::StrCat("no key ", key_id, " among the ", keys.size(), " that were given"));
  }
  if (!Ed25519Verify(*key, Canonical(body), signature)) {
    return Wrong(step, absl::StrCat("does not fit the ", path, "; something in it was changed, or another key signed"));
  }
  return absl::OkStatus();
}

absl::Status CheckRoot(const nlohmann::json& root, absl::string_view path, const std::string& signature,
                       absl::string_view step, const ReceiptKeys& keys) {
  GANTRY_RETURN_IF_ERROR(CheckFields(path, root, kRoot));
  return CheckSignature(root, path, signature, step, keys);
}

absl::Status CheckProof(const nlohmann::json& proof, const std::string& receipt_hash, const ReceiptKeys& keys) {
  GANTRY_RETURN_IF_ERROR(CheckFields("proof", proof, kProof));
  const nlohmann::json& root = proof.at("root");
  GANTRY_RETURN_IF_ERROR(CheckRoot(root, "proof.root", Bytes(proof, "root_signature"), "proof.root_signature", keys));
  std::vector<std::string> path;
  for (const nlohmann::json& node : proof.at("path")) {
    path.push_back(absl::HexStringToBytes(node.get_ref<const std::string&>()));
  }
  const auto size = root.at("size").get<int64_t>();
  if (int64_t{1} << path.size() != size) return Wrong("proof.path", "its length does not fit the root's size");
  const auto index = proof.at("index").get<int64_t>();
  if (index >= size) return Wrong("proof.index", "lies beyond the root's size");
  const std::string leaf = MerkleLeaf(Bytes(proof, "leaf_nonce"), receipt_hash);
  if (MerkleRootFrom(leaf, static_cast<size_t>(index), path) != Bytes(root, "root")) {
    return Wrong("proof.path", "does not lead from this receipt to the root");
  }
  return absl::OkStatus();
}

absl::Status CheckReceipt(const nlohmann::json& document, const ReceiptKeys& keys) {
  GANTRY_RETURN_IF_ERROR(CheckFields("", document, kReceiptLine));
  const nlohmann::json& receipt = document.at("receipt");
  GANTRY_RETURN_IF_ERROR(CheckFields("receipt", receipt, kReceipt));
  const bool usage = Text(receipt, "kind") == "usage";
  for (const char* count : {"cached_tokens", "input_tokens", "output_tokens", "reasoning_tokens", "requests"}) {
    if (usage && receipt.at(count).get<int64_t>() < 0) {
      return Wrong(absl::StrCat("receipt.", count), "below zero, which only a correction can be");
    }
  }
  GANTRY_RETURN_IF_ERROR(CheckSignature(receipt, "receipt", Bytes(document, "signature"), "signature", keys));
  if ((Text(receipt, "number") == "1") != (Bytes(receipt, "previous") == std::string(kSha256Bytes, '\0'))) {
    return Wrong("receipt.previous", "zeros are for number 1, and for it alone");
  }
  const auto proof = document.find("proof");
  return proof == document.end() ? absl::OkStatus() : CheckProof(*proof, Sha256(Canonical(receipt)), keys);
}

absl::StatusOr<VerifiedLine> CheckLine(absl::string_view line, const ReceiptKeys& keys) {
  if (line.size() > kReceiptLineBytesMax) {
    return Wrong("json", absl::StrCat("longer than ", kReceiptLineBytesMax, " bytes"));
  }
  absl::StatusOr<nlohmann::json> document = ParseCanonicalObject(line);
  if (!document.ok()) return absl::DataLossError(document.status().message());
  VerifiedLine verified;
  if (document->contains("root")) {
    GANTRY_RETURN_IF_ERROR(CheckFields("", *document, kRootLine));
    verified.root = document->at("root");
    GANTRY_RETURN_IF_ERROR(CheckRoot(verified.root, "root", Bytes(*document, "signature"), "signature", keys));
    return verified;
  }
  GANTRY_RETURN_IF_ERROR(CheckReceipt(*document, keys));
  verified.receipt = document->at("receipt");
  if (document->contains("proof")) verified.root = document->at("proof").at("root");
  return verified;
}

// Bodies of one sequence by their number: receipts of a buyer, roots of a house.
class Sequence {
 public:
  absl::Status Add(const nlohmann::json& body, absl::string_view path, size_t line) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(Text(body, "number"), &number)) return Wrong(absl::StrCat(path, ".number"), "not a number");
    Entry entry{Sha256(Canonical(body)), Bytes(body, "previous"), line};
    const auto [known, is_new] = entries_.try_emplace(number, entry);
    if (!is_new && known->second.hash != entry.hash) {
      return Wrong(absl::StrCat(path, ".number"),
                   absl::StrCat(number, " is also that of another in line ", known->second.line));
    }
    if (const auto before = entries_.find(number - 1);
        before != entries_.end() && before->second.hash != entry.previous) {
      return Wrong(absl::StrCat(path, ".previous"),
                   absl::StrCat("is not the hash of number ", number - 1, " in line ", before->second.line));
    }
    if (const auto after = entries_.find(number + 1); after != entries_.end() && after->second.previous != entry.hash) {
      return Wrong(absl::StrCat(path, ".previous"),
                   absl::StrCat("of number ", number + 1, " in line ", after->second.line, " is not the hash of this"));
    }
    return absl::OkStatus();
  }

 private:
  struct Entry {
    std::string hash, previous;
    size_t line;
  };
  std::map<int64_t, Entry> entries_;
};

}  // namespace

std::string ReceiptKeysFile(const std::vector<PublicReceiptKey>& keys) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PublicReceiptKey& key : keys) {
    nlohmann::ordered_json entry = {{"key_id", key.key_id},
                                    {"public_key", absl::BytesToHexString(key.public_key)},
                                    {"created_us", key.created_us},
                                    {"endorsed_by", key.endorsed_by},
                                    {"endorsement", absl::BytesToHexString(key.endorsement)}};
    list.push_back(std::move(entry));
  }
  const nlohmann::ordered_json file = {{"type", "gantry.receipt-keys"}, {"version", 1}, {"keys", std::move(list)}};
  return file.dump(2) + "\n";
}

absl::StatusOr<ReceiptKeys> ReceiptKeys::Parse(absl::string_view file) {
  const nlohmann::json parsed = nlohmann::json::parse(file.begin(), file.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object() || parsed.value("type", nlohmann::json()) != "gantry.receipt-keys" ||
      parsed.value("version", nlohmann::json()) != 1 || !parsed.value("keys", nlohmann::json()).is_array()) {
    return absl::DataLossError("keys: expected the JSON that `gantry receipt keys` writes, version 1");
  }
  ReceiptKeys keys;
  size_t position = 0;
  for (const nlohmann::json& entry : parsed.at("keys")) {
    const std::string path = absl::StrCat("keys[", position++, "]");
    if (!entry.is_object()) return Wrong(path, "expected an object");
    GANTRY_RETURN_IF_ERROR(CheckFields(path, entry, kKey));
    const std::string public_key = Bytes(entry, "public_key");
    const std::string& key_id = Text(entry, "key_id");
    if (ReceiptKeyId(public_key) != key_id) return Wrong(path + ".key_id", "is not the hash of the public key");
    keys.keys_[key_id] = public_key;
    const std::string& endorsed_by = Text(entry, "endorsed_by");
    const std::string* endorser = keys.Find(endorsed_by);
    if (endorser == nullptr) return Wrong(path + ".endorsed_by", "names neither an earlier key nor itself");
    const std::string body = ReceiptKeyBody(public_key, entry.at("created_us").get<int64_t>(), endorsed_by);
    if (!Ed25519Verify(*endorser, body, Bytes(entry, "endorsement"))) {
      return Wrong(path + ".endorsement", absl::StrCat("was not made by key ", endorsed_by, " for this key"));
    }
  }
  if (keys.keys_.empty()) return absl::DataLossError("keys: the file holds none");
  return keys;
}

const std::string* ReceiptKeys::Find(const std::string& key_id) const {
  const auto found = keys_.find(key_id);
  return found == keys_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::vector<VerifiedLine>> VerifyReceipts(absl::string_view file, const ReceiptKeys& keys) {
  if (file.size() > kReceiptFileBytesMax) {
    return absl::DataLossError(absl::StrCat("the file has more than ", kReceiptFileBytesMax, " bytes"));
  }
  // One newline ends a line; the last one may lack it.
  absl::ConsumeSuffix(&file, "\n");
  std::vector<VerifiedLine> verified;
  std::map<std::string, Sequence> receipts, roots;
  for (size_t number = 1;; ++number) {
    const size_t end = file.find('\n');
    const absl::string_view text = file.substr(0, end);
    const auto check = [&]() -> absl::Status {
      GANTRY_ASSIGN_OR_RETURN(VerifiedLine line, CheckLine(text, keys));
      if (!line.receipt.is_null()) {
        GANTRY_RETURN_IF_ERROR(receipts[Text(line.receipt, "buyer")].Add(line.receipt, "receipt", number));
      }
      if (!line.root.is_null()) {
        const char* path = line.receipt.is_null() ? "root" : "proof.root";
        GANTRY_RETURN_IF_ERROR(roots[Text(line.root, "house")].Add(line.root, path, number));
      }
      verified.push_back(std::move(line));
      return absl::OkStatus();
    };
    if (absl::Status status = check(); !status.ok()) return Annotate(status, absl::StrCat("line ", number));
    if (end == absl::string_view::npos) return verified;
    file.remove_prefix(end + 1);
  }
}

}  // namespace gantry::billing
