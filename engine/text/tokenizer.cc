#include "engine/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/text/detokenizer.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text {
namespace {

using nlohmann::json;

constexpr size_t kFileBytesMax = 256 << 20;
constexpr int kIdMax = 1 << 24;
constexpr int kDepthMax = 16;

// GPT-2's printable stand-ins: bytes 33-126, 161-172 and 174-255 are themselves, the other 68 are U+0100 and up in
// order.
const std::array<char32_t, 256>& ByteToPrintable() {
  static const auto table = [] {
    std::array<char32_t, 256> t{};
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      t[b] = printable ? static_cast<char32_t>(b) : next++;
    }
    return t;
  }();
  return table;
}

// The bytes behind a vocabulary entry; nothing when it is not written in the stand-ins.
std::optional<std::string> BytesOf(absl::string_view printable) {
  static const auto table = [] {
    std::array<int, 0x144> t;
    t.fill(-1);
    for (int b = 0; b < 256; ++b) t[ByteToPrintable()[b]] = b;
    return t;
  }();
  std::string bytes;
  for (size_t i = 0; i < printable.size();) {
    const char32_t c = NextCodePoint(printable, &i);
    if (c >= table.size() || table[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(table[c]));
  }
  return bytes;
}

}  // namespace

// Reads tokenizer.json into a Tokenizer. A class of its own so that the Tokenizer stays what it is after loading.
class TokenizerReader {
 public:
  explicit TokenizerReader(const std::string& name) : name_(name), tokenizer_(new Tokenizer()) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read(const json& root) {
    GANTRY_RETURN_IF_ERROR(ReadNormalizer(root.value("normalizer", json())));
    GANTRY_RETURN_IF_ERROR(ReadPreTokenizer(root.value("pre_tokenizer", json())));
    GANTRY_RETURN_IF_ERROR(ReadVocabulary(root.value("model", json())));
    GANTRY_RETURN_IF_ERROR(ReadMerges(root.value("model", json())));
    GANTRY_RETURN_IF_ERROR(ReadAddedTokens(root.value("added_tokens", json::array())));
    GANTRY_RETURN_IF_ERROR(ReadPostProcessor(root.value("post_processor", json())));
    return std::move(tokenizer_);
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", what));
  }

  static std::string TypeOf(const json& value) {
    return value.is_object() && value.contains("type") && value["type"].is_string() ? value["type"].get<std::string>()
                                                                                    : "";
  }

  absl::Status ReadNormalizer(const json& value) {
    const std::string type = TypeOf(value);
    if (value.is_null()) return absl::OkStatus();
    if (type == "NFC") {
      tokenizer_->nfc_ = true;
      return absl::OkStatus();
    }
    if (type == "Sequence" && value.contains("normalizers") && value["normalizers"].is_array()) {
      for (const json& part : value["normalizers"]) GANTRY_RETURN_IF_ERROR(ReadNormalizer(part));
      return absl::OkStatus();
    }
    return Error(absl::StrCat("normalizer: expected NFC, a Sequence of it, or null, found `", type, "`"));
  }

  absl::Status ReadPreTokenizer(const json& value) {
    std::vector<std::string> expressions;
    GANTRY_RETURN_IF_ERROR(CollectExpressions(value, &expressions));
    absl::StatusOr<std::unique_ptr<PreTokenizer>> made = PreTokenizer::FromExpressions(expressions);
    if (!made.ok()) return Annotate(made.status(), name_);
    tokenizer_->pre_tokenizer_ = std::move(*made);
    return absl::OkStatus();
  }

  absl::Status CollectExpressions(const json& value, std::vector<std::string>* expressions) {
    if (value.is_null()) return absl::OkStatus();
    const std::string type = TypeOf(value);
    if (type == "Sequence" && value.contains("pretokenizers") && value["pretokenizers"].is_array()) {
      for (const json& part : value["pretokenizers"]) GANTRY_RETURN_IF_ERROR(CollectExpressions(part, expressions));
      return absl::OkStatus();
    }
    if (type == "ByteLevel") {
      if (value.value("add_prefix_space", false))
        return Error("pre_tokenizer: ByteLevel with add_prefix_space is not supported");
      if (value.value("use_regex", true)) expressions->push_back(Gpt2Expression());
      return absl::OkStatus();
    }
    if (type == "Digits") {
      expressions->push_back(value.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
      return absl::OkStatus();
    }
    if (type == "Split") {
      const json pattern = value.value("pattern", json());
      const bool isolated = value.value("behavior", "") == "Isolated" && !value.value("invert", false);
      if (!isolated || !pattern.is_object() || !pattern.contains("Regex") || !pattern["Regex"].is_string()) {
        return Error("pre_tokenizer: Split: expected a Regex pattern with behavior Isolated");
      }
      expressions->push_back(pattern["Regex"].get<std::string>());
      return absl::OkStatus();
    }
    return Error(absl::StrCat("pre_tokenizer: expected Sequence, Split, Digits or ByteLevel, found `", type, "`"));
  }

  absl::Status ReadVocabulary(const json& model) {
    if (TypeOf(model) != "BPE") return Error(absl::StrCat("model: expected type BPE, found `", TypeOf(model), "`"));
    if (!model.contains("vocab") || !model["vocab"].is_object()) return Error("model: expected an object `vocab`");
    if (model.value("byte_fallback", false)) return Error("model: byte_fallback is not supported");
    tokenizer_->ignore_merges_ = model.value("ignore_merges", false);
    const json& vocab = model["vocab"];
    ids_.reserve(vocab.size());
    for (const auto& [text, id] : vocab.items()) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kIdMax) {
        return Error(absl::StrCat("model: vocab: id of `", text, "` is not an integer in [0, ", kIdMax, "]"));
      }
      if (!CheckUtf8(text).ok()) return Error("model: vocab: an entry is not valid UTF-8");
      ids_.emplace(text, id.get<TokenId>());
      // Entries outside the byte alphabet stand for their own text (added tokens listed twice).
      Set(id.get<TokenId>(), BytesOf(text).value_or(text));
    }
    for (int b = 0; b < 256; ++b) {
      std::string printable;
      AppendUtf8(ByteToPrintable()[b], &printable);
      const auto found = ids_.find(printable);
      if (found == ids_.end()) {
        // Some vocabularies leave out control characters and bytes of planes that nobody writes in.
        if (b >= ' ' && b <= '~') return Error(absl::StrCat("model: vocab: the entry of byte ", b, " is missing"));
        continue;
      }
      tokenizer_->encoder_.SetByte(static_cast<unsigned char>(b), found->second);
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const json& model) {
    if (!model.contains("merges") || !model["merges"].is_array()) return Error("model: expected an array `merges`");
    const json& merges = model["merges"];
    tokenizer_->encoder_.Reserve(merges.size());
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      std::string left, right;
      const json& merge = merges[rank];
      if (merge.is_string()) {
        const std::string& both = merge.get_ref<const std::string&>();
        const size_t space = both.find(' ');
        if (space != std::string::npos) {
          left = both.substr(0, space);
          right = both.substr(space + 1);
        }
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      }
      const auto l = ids_.find(left), r = ids_.find(right), merged = ids_.find(left + right);
      if (l == ids_.end() || r == ids_.end() || merged == ids_.end()) {
        return Error(absl::StrCat("model: merges[", rank,
                                  "]: expected two vocabulary entries whose sum is one, found `", left, "` and `",
                                  right, "`"));
      }
      tokenizer_->encoder_.AddMerge(l->second, r->second, static_cast<int>(rank), merged->second);
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const json& tokens) {
    if (!tokens.is_array()) return Error("added_tokens: expected an array");
    for (const json& token : tokens) {
      if (!token.is_object() || !token.contains("id") || !token["id"].is_number_integer() ||
          !token.contains("content") || !token["content"].is_string() || token["id"].get<int64_t>() < 0 ||
          token["id"].get<int64_t>() > kIdMax) {
        return Error("added_tokens: expected objects with an integer `id` and a string `content`");
      }
      Tokenizer::AddedToken added{token["content"].get<std::string>(), token["id"].get<TokenId>(),
                                  token.value("special", false)};
      for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
        if (token.value(flag, false))
          return Error(absl::StrCat("added_tokens: `", added.content, "`: ", flag, " is not supported"));
      }
      if (added.content.empty() || !CheckUtf8(added.content).ok())
        return Error("added_tokens: `content` is empty or not valid UTF-8");
      Set(added.id, added.content);
      tokenizer_->special_[added.id] = added.special;
      auto& bucket = tokenizer_->added_[static_cast<unsigned char>(added.content[0])];
      const auto place = std::find_if(bucket.begin(), bucket.end(), [&](const Tokenizer::AddedToken& other) {
        return other.content.size() < added.content.size();
      });
      bucket.insert(place, std::move(added));
    }
    return absl::OkStatus();
  }

  // Only TemplateProcessing adds tokens; what it puts behind the text is for other uses than continuing it.
  absl::Status ReadPostProcessor(const json& value) {
    const std::string type = TypeOf(value);
    if (type == "Sequence" && value.contains("processors") && value["processors"].is_array()) {
      for (const json& part : value["processors"]) GANTRY_RETURN_IF_ERROR(ReadPostProcessor(part));
    }
    if (type != "TemplateProcessing") return absl::OkStatus();
    const json single = value.value("single", json::array()), tokens = value.value("special_tokens", json::object());
    for (const json& item : single) {
      if (!item.is_object() || !item.contains("SpecialToken")) break;
      const std::string name = item["SpecialToken"].value("id", "");
      const json ids = tokens.value(name, json::object()).value("ids", json::array());
      for (const json& id : ids) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= tokenizer_->size()) {
          return Error(absl::StrCat("post_processor: `", name, "`: expected ids of the vocabulary"));
        }
        tokenizer_->prefix_.push_back(id.get<TokenId>());
      }
    }
    return absl::OkStatus();
  }

  void Set(TokenId id, std::string bytes) {
    if (id >= tokenizer_->size()) {
      tokenizer_->bytes_.resize(id + 1);
      tokenizer_->special_.resize(id + 1);
    }
    tokenizer_->by_bytes_.emplace(bytes, id);
    tokenizer_->bytes_[id] = std::move(bytes);
  }

  std::string name_;
  std::unique_ptr<Tokenizer> tokenizer_;
  absl::flat_hash_map<std::string, TokenId> ids_;  // by the stand-ins' spelling
};

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kFileBytesMax));
  return FromJson(text, path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view text, const std::string& name) {
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kDepthMax;
    return !too_deep;
  };
  // Parsing and typed reads of third-party JSON are where the library throws; nothing of it leaves this function.
  try {
    const json root = json::parse(text.begin(), text.end(), watch);
    if (!root.is_object() || too_deep)
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected a JSON object"));
    return TokenizerReader(name).Read(root);
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", error.what()));
  }
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::string_view text, bool parse_special) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4);
  GANTRY_RETURN_IF_ERROR(EncodeInto(
      text, [parse_special](size_t, size_t) { return parse_special; }, &ids));
  return ids;
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::Span<const Segment> segments) const {
  std::string text;
  // Ascending ends of alternating stretches; trusted_ends[i].second says who wrote the stretch before it.
  std::vector<std::pair<size_t, bool>> ends;
  for (const Segment& segment : segments) {
    text += segment.text;
    if (!ends.empty() && ends.back().second == segment.trusted) {
      ends.back().first = text.size();
    } else {
      ends.emplace_back(text.size(), segment.trusted);
    }
  }
  const auto trusted = [&ends](size_t begin, size_t end) {
    const auto stretch =
        std::upper_bound(ends.begin(), ends.end(), begin, [](size_t at, const auto& e) { return at < e.first; });
    return stretch != ends.end() && stretch->second && end <= stretch->first;
  };
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4);
  GANTRY_RETURN_IF_ERROR(EncodeInto(text, trusted, &ids));
  return ids;
}

template <typename Trusted>
absl::Status Tokenizer::EncodeInto(absl::string_view text, const Trusted& trusted, std::vector<TokenId>* out) const {
  GANTRY_RETURN_IF_ERROR(CheckUtf8(text));
  size_t plain_begin = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* found = nullptr;
    for (const AddedToken& added : added_[static_cast<unsigned char>(text[i])]) {
      if (absl::StartsWith(text.substr(i), added.content) && (!added.special || trusted(i, i + added.content.size()))) {
        found = &added;
        break;
      }
    }
    if (found == nullptr) {
      ++i;
      continue;
    }
    GANTRY_RETURN_IF_ERROR(EncodePlain(text.substr(plain_begin, i - plain_begin), out));
    out->push_back(found->id);
    i += found->content.size();
    plain_begin = i;
  }
  return EncodePlain(text.substr(plain_begin), out);
}

absl::Status Tokenizer::EncodePlain(absl::string_view text, std::vector<TokenId>* out) const {
  if (text.empty()) return absl::OkStatus();
  std::string normalised;
  if (nfc_) {
    normalised = Nfc(text);
    text = normalised;
  }
  std::vector<absl::string_view> pieces;
  GANTRY_RETURN_IF_ERROR(pre_tokenizer_->Split(text, &pieces));
  for (const absl::string_view piece : pieces) {
    if (ignore_merges_) {
      const auto whole = by_bytes_.find(piece);
      if (whole != by_bytes_.end()) {
        out->push_back(whole->second);
        continue;
      }
    }
    encoder_.Encode(piece, out);
  }
  return absl::OkStatus();
}

absl::string_view Tokenizer::TokenBytes(TokenId id) const {
  return id >= 0 && id < size() ? absl::string_view(bytes_[id]) : absl::string_view();
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < size() && special_[id];
}

std::optional<TokenId> Tokenizer::Find(absl::string_view bytes) const {
  const auto found = by_bytes_.find(bytes);
  if (found == by_bytes_.end()) return std::nullopt;
  return found->second;
}

std::string Tokenizer::Decode(absl::Span<const TokenId> ids, bool skip_special) const {
  Detokenizer detokenizer(this, skip_special);
  std::string text;
  for (const TokenId id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Flush();
}

}  // namespace gantry::engine::text
