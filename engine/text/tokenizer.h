// Text <-> token ids, as tokenizer.json says: added tokens, normaliser, pre-tokeniser, byte-level BPE.
//
// Provenance. A prompt is template text (trusted) with the words of tenants, tools and arguments in it (untrusted).
// Control tokens (`special` in tokenizer.json) are recognised only where every byte of them is trusted: written by a
// tenant, or put together across a border, they are plain text. Other added tokens (<think>, <tool_call>) are ordinary
// vocabulary and always recognised. Borders change nothing else: ordinary text is tokenised as if there were none.
//
// Immutable after loading; every method may be called from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/token_id.h"
#include "engine/text/bpe.h"
#include "engine/text/pre_tokenizer.h"

namespace gantry::engine::text {

// A stretch of a prompt and who wrote it.
struct Segment {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT names the file, the key, what was expected and what was found.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view json, const std::string& name);
  ~Tokenizer();

  // parse_special: whether control tokens in `text` are recognised. INVALID_ARGUMENT for malformed UTF-8 (byte offset)
  // and for text that exceeds the work limit.
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text, bool parse_special) const;
  absl::StatusOr<std::vector<TokenId>> Encode(absl::Span<const Segment> segments) const;

  // What the model expects before a text that no chat template wrote (tokenizer.json's post_processor): usually nothing
  // or one begin-of-text token. Encode leaves it to the caller.
  const std::vector<TokenId>& prefix() const { return prefix_; }

  // One past the largest id.
  int size() const { return static_cast<int>(bytes_.size()); }
  // The bytes that a token stands for; empty for ids outside the vocabulary. Not necessarily whole characters.
  absl::string_view TokenBytes(TokenId id) const;
  // A control token: `special` in tokenizer.json.
  bool IsSpecial(TokenId id) const;
  // The id of an added token or vocabulary entry that stands for exactly these bytes.
  std::optional<TokenId> Find(absl::string_view bytes) const;
  // All tokens' bytes put together; invalid UTF-8 becomes U+FFFD.
  std::string Decode(absl::Span<const TokenId> ids, bool skip_special) const;

 private:
  struct AddedToken {
    std::string content;
    TokenId id;
    bool special;
  };
  Tokenizer() = default;
  friend class TokenizerReader;

  // `trusted[i]` says whether byte i may be part of a control token.
  template <typename Trusted>
  absl::Status EncodeInto(absl::string_view text, const Trusted& trusted, std::vector<TokenId>* out) const;
  absl::Status EncodePlain(absl::string_view text, std::vector<TokenId>* out) const;

  BytePairEncoder encoder_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  bool nfc_ = false;
  bool ignore_merges_ = false;
  std::vector<TokenId> prefix_;
  std::vector<std::string> bytes_;  // [size()]
  std::vector<bool> special_;       // [size()]
  absl::flat_hash_map<std::string, TokenId> by_bytes_;
  std::vector<AddedToken> added_[256];  // by first byte, longest first
};

}  // namespace gantry::engine::text
