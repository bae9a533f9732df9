// gantry receipt …: signed receipts, the keys and roots that prove them, and their verification without anybody's help.
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/receipt/receipt.h"
#include "billing/receipt/verify.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"
#include "services/common/ids.h"

namespace gantry::cli {
namespace {

using Admin = v1::ReceiptAdmin::Stub;

struct ReceiptOptions {
  std::vector<std::string> requests;
  std::string party, file, keys_file, nonce, prompt_ids, output_ids, idempotency_key;
  bool proof = false, json = false;
};

// 32 hex digits, or a reply's id that ends in them: chatcmpl-….
absl::StatusOr<Id16> ParseRequestId(const std::string& text) {
  const size_t dash = text.rfind('-');
  const absl::StatusOr<Id16> id = Id16::FromHex(dash == std::string::npos ? text : text.substr(dash + 1));
  if (id.ok()) return *id;
  return absl::InvalidArgumentError(
      absl::StrCat("request id `", text, "` is not valid: expected 32 hex digits, or a reply's id (chatcmpl-…)"));
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  std::ifstream in(path, std::ios::binary);
  std::string bytes;
  char piece[1 << 16];
  while (in.read(piece, sizeof piece), in.gcount() > 0) {
    bytes.append(piece, static_cast<size_t>(in.gcount()));
    if (bytes.size() > limit) {
      return absl::FailedPreconditionError(absl::StrCat(path, " has more than ", limit, " bytes"));
    }
  }
  if (!in.is_open() || in.bad()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return bytes;
}

absl::StatusOr<int> GetReceipts(const ReceiptOptions& options, const Invocation& invocation) {
  std::vector<v1::GetReceiptRequest> requests;
  for (const std::string& text : options.requests) {
    GANTRY_ASSIGN_OR_RETURN(const Id16 id, ParseRequestId(text));
    requests.emplace_back().set_request_id(id.ToBytes());
    requests.back().set_party_name(options.party);
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  std::string lines;
  for (const v1::GetReceiptRequest& request : requests) {
    GANTRY_ASSIGN_OR_RETURN(const v1::GetReceiptResponse response,
                            client.Call(options.proof ? &Admin::GetReceiptProof : &Admin::GetReceipt, request));
    for (const std::string& document : response.documents()) absl::StrAppend(&lines, document, "\n");
  }
  *invocation.out << lines;
  return 0;
}

absl::StatusOr<std::string> FetchKeysFile(const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::GetReceiptKeysResponse response,
                          client.Call(&Admin::GetReceiptKeys, v1::GetReceiptKeysRequest()));
  std::vector<billing::PublicReceiptKey> keys;
  for (const v1::ReceiptKey& key : response.keys()) {
    keys.push_back({key.key_id(), key.public_key(), key.created_us(), key.endorsed_by(), key.endorsement()});
  }
  return billing::ReceiptKeysFile(keys);
}

absl::StatusOr<int> ShowKeys(const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const std::string file, FetchKeysFile(invocation));
  *invocation.out << file;
  return 0;
}

// Whether the ids in a file have the digest that the receipt names.
absl::Status CheckTokens(const std::string& path, const std::string& nonce, const nlohmann::json& receipt,
                         const char* field) {
  if (path.empty()) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, billing::kReceiptFileBytesMax));
  std::vector<uint32_t> ids;
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" ,\n\r\t[]"), absl::SkipEmpty())) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": `", word, "` is not a token id"));
    }
    ids.push_back(id);
  }
  const std::string digest = absl::BytesToHexString(billing::TokenDigest(nonce, ids));
  if (!receipt.contains(field)) return absl::DataLossError(absl::StrCat("receipt.", field, ": the receipt has none"));
  if (receipt.at(field) == digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("receipt.", field, ": is not that of the ", ids.size(), " ids in ", path, " with this nonce"));
}

std::string Describe(const billing::VerifiedLine& line) {
  const auto text = [](const nlohmann::json& object, const char* name) { return object.at(name).get<std::string>(); };
  const std::string root =
      line.root.is_null() ? "" : absl::StrCat("root ", text(line.root, "number"), " of ", text(line.root, "day"));
  if (line.receipt.is_null()) return root;
  const nlohmann::json& r = line.receipt;
  int64_t cost_pico = 0;
  const bool is_number = absl::SimpleAtoi(text(r, "cost_pico"), &cost_pico);
  return absl::StrCat(text(r, "kind"), " ", text(r, "number"), " of buyer ", text(r, "buyer"), ": request ",
                      text(r, "request_id"), ", ", text(r, "model"), ", tokens ", r.at("input_tokens").get<int64_t>(),
                      " in + ", r.at("cached_tokens").get<int64_t>(), " cached + ",
                      r.at("output_tokens").get<int64_t>(), " out, ", is_number ? FormatPico(cost_pico) : "?", " ",
                      text(r, "currency"), ", ended ", FormatTime(r.at("ended_us").get<int64_t>()), " UTC",
                      root.empty() ? "" : ", under ", root);
}

absl::StatusOr<int> Verify(const ReceiptOptions& options, const Invocation& invocation) {
  if (options.nonce.empty() != (options.prompt_ids.empty() && options.output_ids.empty())) {
    return absl::InvalidArgumentError("--nonce goes with --prompt-ids or --output-ids, and they with it");
  }
  const bool nonce_is_hex = options.nonce.size() == 64 && absl::c_all_of(options.nonce, absl::ascii_isxdigit);
  if (!options.nonce.empty() && !nonce_is_hex) {
    return absl::InvalidArgumentError("nonce is not valid: expected 64 hex digits");
  }
  GANTRY_ASSIGN_OR_RETURN(const std::string file, ReadFile(options.file, billing::kReceiptFileBytesMax));
  std::string keys_text;
  if (options.keys_file.empty()) {
    GANTRY_ASSIGN_OR_RETURN(keys_text, FetchKeysFile(invocation));
  } else {
    GANTRY_ASSIGN_OR_RETURN(keys_text, ReadFile(options.keys_file, 1 << 20));
  }
  absl::StatusOr<billing::ReceiptKeys> keys = billing::ReceiptKeys::Parse(keys_text);
  if (!keys.ok()) return Annotate(keys.status(), options.keys_file.empty() ? "billing" : options.keys_file);
  absl::StatusOr<std::vector<billing::VerifiedLine>> lines = billing::VerifyReceipts(file, *keys);
  if (!lines.ok()) return Annotate(lines.status(), options.file);
  if (!options.nonce.empty()) {
    if (lines->size() != 1 || lines->front().receipt.is_null()) {
      return absl::InvalidArgumentError("tokens are checked against a file with one receipt alone");
    }
    const std::string nonce = absl::HexStringToBytes(options.nonce);
    const nlohmann::json& receipt = lines->front().receipt;
    GANTRY_RETURN_IF_ERROR(CheckTokens(options.prompt_ids, nonce, receipt, "prompt_digest"));
    GANTRY_RETURN_IF_ERROR(CheckTokens(options.output_ids, nonce, receipt, "output_digest"));
  }
  for (const billing::VerifiedLine& line : *lines) *invocation.out << Describe(line) << "\n";
  *invocation.out << "ok: every line holds (" << lines->size() << ")\n";
  return 0;
}

absl::StatusOr<int> RotateKey(const ReceiptOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(
      const v1::ReceiptKey key,
      client.CallOnce(&Admin::RotateReceiptKey, v1::RotateReceiptKeyRequest(), options.idempotency_key));
  *invocation.out << "receipts of usage from now on are signed with key " << key.key_id() << ", endorsed by "
                  << (key.endorsed_by() == key.key_id() ? "itself: the key before is not at hand" : key.endorsed_by())
                  << "; publish `gantry receipt keys` again\n";
  return 0;
}

absl::StatusOr<int> ListRoots(const ReceiptOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  Table table({"ROOT", "DAY (UTC)", ">RECEIPTS", "HASH", "KEY"});
  v1::ListReceiptRootsRequest request;
  request.set_page_size(1000);
  for (;;) {
    GANTRY_ASSIGN_OR_RETURN(const v1::ListReceiptRootsResponse page, client.Call(&Admin::ListReceiptRoots, request));
    for (const v1::ReceiptRoot& root : page.roots()) {
      request.set_after_number(root.number());
      if (options.json) {
        *invocation.out << root.document() << "\n";
        continue;
      }
      const nlohmann::json document = nlohmann::json::parse(root.document(), nullptr, /*allow_exceptions=*/false);
      if (!document.contains("root")) return absl::DataLossError("billing's answer is not a root");
      const nlohmann::json& body = document["root"];
      table.Add({absl::StrCat(root.number()), body.value("day", "?"), WithSeparators(root.receipts()),
                 body.value("root", "?"), body.value("key_id", "?")});
    }
    if (page.roots_size() < 1000) break;
  }
  if (!options.json) *invocation.out << table.Render();
  return 0;
}

}  // namespace

void AddReceiptCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<ReceiptOptions>();
  CLI::App* group = AddGroup(app, "receipt", "signed receipts: get, verify, keys, roots, rotate-key");

  CLI::App* get = AddCommand(*group, invocation, "get", "the receipt of a request, one line each",
                             "gantry receipt get 019a3f… > receipt.jsonl\n"
                             "gantry receipt get chatcmpl-019a3f… --proof      # with the way to its day's root\n"
                             "gantry receipt get 019a3f… --party acme-resale   # what a reseller paid for it",
                             [=, &invocation] { return GetReceipts(*options, invocation); });
  get->add_option("REQUEST_ID", options->requests, "as `gantry usage` shows it, or a reply's id")->required();
  get->add_option("--party", options->party, "whose receipt; default: the tenant's")->type_name("P");
  get->add_flag("--proof", options->proof, "with the Merkle path to the root of its day");

  CLI::App* verify =
      AddCommand(*group, invocation, "verify", "check a receipt file; needs nothing but the public keys",
                 "gantry receipt verify receipt.jsonl --keys keys.json\n"
                 "gantry receipt verify receipt.jsonl             # with the keys of this installation\n"
                 "gantry receipt verify receipt.jsonl --keys keys.json --nonce 5f1c… --output-ids ids.txt",
                 [=, &invocation] { return Verify(*options, invocation); });
  verify->add_option("FILE", options->file, "receipts and roots, one a line")->required();
  verify->add_option("--keys", options->keys_file, "written by `gantry receipt keys`; default: ask billing")
      ->type_name("FILE");
  verify->add_option("--nonce", options->nonce, "of the request, 64 hex digits; checks the token digests too")
      ->type_name("HEX");
  verify->add_option("--prompt-ids", options->prompt_ids, "token ids of the prompt, as numbers")->type_name("FILE");
  verify->add_option("--output-ids", options->output_ids, "token ids of the output, as numbers")->type_name("FILE");

  AddCommand(*group, invocation, "keys", "the public keys, as a file to give away", "gantry receipt keys > keys.json",
             [=, &invocation] { return ShowKeys(invocation); });

  CLI::App* rotate =
      AddCommand(*group, invocation, "rotate-key", "sign receipts of usage from now on with a new key",
                 "gantry receipt rotate-key", [=, &invocation] { return RotateKey(*options, invocation); });
  AddIdempotencyKey(*rotate, &options->idempotency_key);

  CLI::App* roots = AddCommand(*group, invocation, "roots", "the signed roots of all days",
                               "gantry receipt roots\ngantry receipt roots --json > roots.jsonl     # to publish",
                               [=, &invocation] { return ListRoots(*options, invocation); });
  roots->add_flag("--json", options->json, "as lines of a receipt file");
}

}  // namespace gantry::cli
