#include "engine/model/gguf_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/unicode.h"

namespace gantry::engine {
namespace {

using nlohmann::json;

// tokenizer.ggml.token_type. Unused ids are rows that no text leads to.
constexpr int64_t kControl = 3, kUserDefined = 4, kUnused = 5, kTokenTypeMax = 6;

constexpr const char* kTurnEnds[] = {"<|im_end|>",      "<|endoftext|>",         "<|eot_id|>", "<|eom_id|>",
                                     "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>"};

struct Vocabulary {
  std::vector<absl::string_view> tokens;
  std::vector<int64_t> types;  // as many as tokens
};

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufKeys& keys) {
  Vocabulary vocabulary;
  GANTRY_ASSIGN_OR_RETURN(vocabulary.tokens, keys.Strings("tokenizer.ggml.tokens"));
  GANTRY_ASSIGN_OR_RETURN(vocabulary.types, keys.IntOrInts("tokenizer.ggml.token_type", 0, kTokenTypeMax));
  if (vocabulary.types.empty()) vocabulary.types.assign(vocabulary.tokens.size(), 1);
  if (vocabulary.types.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": `tokenizer.ggml.token_type`: expected ",
                                                   vocabulary.tokens.size(), " entries (tokenizer.ggml.tokens), found ",
                                                   vocabulary.types.size()));
  }
  return vocabulary;
}

// Llama 3's pre-tokeniser comes with two habits that the file need not state.
bool IsLlama3(const std::string& pre) {
  return pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
}

// The normaliser is not in the file either: Qwen's own tokenizer.json has NFC.
bool IsQwen(const std::string& pre) {
  return pre == "qwen2" || pre == "qwen35";
}

absl::StatusOr<json> PreTokenizerJson(const GgufKeys& keys, const std::string& pre) {
  absl::StatusOr<std::vector<std::string>> expressions = text::PreTokenizer::FamilyExpressions(pre);
  if (!expressions.ok()) {
    return Annotate(expressions.status(), absl::StrCat(keys.where(), ": `tokenizer.ggml.pre`"));
  }
  json parts = json::array();
  for (const std::string& expression : *expressions) {
    parts.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  parts.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return json{{"type", "Sequence"}, {"pretokenizers", parts}};
}

// What stands before a text of its own; null when nothing does. add_eos_token is not carried over: a prompt is there
// to be continued.
absl::StatusOr<json> PostProcessorJson(const GgufKeys& keys, const std::string& pre, const Vocabulary& vocabulary) {
  GANTRY_ASSIGN_OR_RETURN(const bool add_bos, keys.BoolOr("tokenizer.ggml.add_bos_token", IsLlama3(pre)));
  if (!add_bos) return json();
  const auto last = static_cast<int64_t>(vocabulary.tokens.size()) - 1;
  GANTRY_ASSIGN_OR_RETURN(const int64_t bos, keys.Int("tokenizer.ggml.bos_token_id", 0, last));
  const std::string name(vocabulary.tokens[bos]);
  return json{
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", name}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{name, {{"id", name}, {"ids", {bos}}, {"tokens", {name}}}}}}};
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> GgufStopIds(const GgufKeys& keys, int vocab_rows) {
  std::vector<TokenId> ids;
  const auto add = [&ids](TokenId id) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t id, keys.IntOr(key, -1, 0, vocab_rows - 1));
    if (id >= 0) add(static_cast<TokenId>(id));
  }
  if (!keys.Has("tokenizer.ggml.tokens")) return ids;
  GANTRY_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(keys));
  for (size_t id = 0; id < std::min<size_t>(vocabulary.tokens.size(), vocab_rows); ++id) {
    if (vocabulary.types[id] != kControl) continue;
    const auto is = [&](const char* end) { return vocabulary.tokens[id] == end; };
    if (std::any_of(std::begin(kTurnEnds), std::end(kTurnEnds), is)) add(static_cast<TokenId>(id));
  }
  return ids;
}

absl::StatusOr<std::string> GgufTokenizerJson(const GgufKeys& keys) {
  const absl::StatusOr<std::string> model = keys.String("tokenizer.ggml.model");
  if (!model.ok()) return model.status();
  if (*model != "gpt2") {
    return absl::InvalidArgumentError(absl::StrCat(
        keys.where(), ": `tokenizer.ggml.model`: expected gpt2 (byte-level BPE), found ", model->substr(0, 40)));
  }
  GANTRY_ASSIGN_OR_RETURN(const std::string pre, keys.StringOr("tokenizer.ggml.pre", "default"));
  GANTRY_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(keys));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<absl::string_view> merges, keys.Strings("tokenizer.ggml.merges"));

  json vocab = json::object(), added = json::array();
  absl::flat_hash_set<absl::string_view> seen;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const absl::string_view token = vocabulary.tokens[id];
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": `tokenizer.ggml.tokens`: [", id, "]: ", what));
    };
    if (vocabulary.types[id] == kUnused) continue;
    if (text::FindInvalidUtf8(token) != absl::string_view::npos)
      return error("expected valid UTF-8, found other bytes");
    if (!seen.insert(token).second) return error(absl::StrCat("expected each text once, found `", token, "` again"));
    if (vocabulary.types[id] == kControl || vocabulary.types[id] == kUserDefined) {
      added.push_back({{"id", id}, {"content", std::string(token)}, {"special", vocabulary.types[id] == kControl}});
    } else {
      vocab[std::string(token)] = id;
    }
  }
  json ranked = json::array();
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    if (text::FindInvalidUtf8(merges[rank]) != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": `tokenizer.ggml.merges`: [", rank,
                                                     "]: expected valid UTF-8, found other bytes"));
    }
    ranked.push_back(std::string(merges[rank]));
  }
  json root = {{"version", "1.0"},
               {"added_tokens", std::move(added)},
               {"normalizer", IsQwen(pre) ? json{{"type", "NFC"}} : json()},
               {"decoder", {{"type", "ByteLevel"}}},
               {"model",
                {{"type", "BPE"},
                 {"ignore_merges", IsLlama3(pre)},
                 {"byte_fallback", false},
                 {"vocab", std::move(vocab)},
                 {"merges", std::move(ranked)}}}};
  GANTRY_ASSIGN_OR_RETURN(root["pre_tokenizer"], PreTokenizerJson(keys, pre));
  GANTRY_ASSIGN_OR_RETURN(root["post_processor"], PostProcessorJson(keys, pre, vocabulary));
  return root.dump();
}

}  // namespace gantry::engine
