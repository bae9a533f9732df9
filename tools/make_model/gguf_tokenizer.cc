#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/format/config_json.h"
#include "engine/model/model_text.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "tools/make_model/gguf_plan.h"

namespace gantry::make_model {
namespace {

using nlohmann::json;

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// The expressions of a tokenizer.json's pre_tokenizer, in order.
std::vector<std::string> ExpressionsOf(const json& pre_tokenizer) {
  std::vector<std::string> expressions;
  const std::string type = pre_tokenizer.value("type", "");
  for (const json& part : pre_tokenizer.value("pretokenizers", json::array())) {
    for (std::string& expression : ExpressionsOf(part)) expressions.push_back(std::move(expression));
  }
  if (type == "Split") expressions.push_back(pre_tokenizer.at("pattern").at("Regex"));
  if (type == "Digits") {
    expressions.emplace_back(pre_tokenizer.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  }
  if (type == "ByteLevel" && pre_tokenizer.value("use_regex", true)) {
    expressions.push_back(engine::text::Gpt2Expression());
  }
  return expressions;
}

// The name that GGUF has for a pre-tokeniser.
absl::StatusOr<std::string> FamilyOf(const json& pre_tokenizer) {
  const std::vector<std::string> expressions = ExpressionsOf(pre_tokenizer);
  for (const char* family : {"qwen35", "qwen2", "llama-bpe", "gpt-2", "smollm", "deepseek-v3"}) {
    GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> known,
                            engine::text::PreTokenizer::FamilyExpressions(family));
    if (known == expressions) return std::string(family);
  }
  return absl::InvalidArgumentError("pre_tokenizer: expected one that GGUF has a name for, found another");
}

absl::Status Add(const json& root, const std::string& directory, int64_t vocab_rows, GgufPlan* plan) {
  std::vector<std::string> tokens(vocab_rows);
  std::vector<int32_t> types(vocab_rows, kUnused);
  for (int64_t id = 0; id < vocab_rows; ++id) tokens[id] = absl::StrCat("[PAD", id, "]");
  const auto set = [&](int64_t id, const std::string& text, int32_t type) {
    if (id < 0 || id >= vocab_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, "/tokenizer.json: token ", id, ", the model has ", vocab_rows, " rows"));
    }
    tokens[id] = text;
    types[id] = type;
    return absl::OkStatus();
  };
  for (const auto& [text, id] : root.at("model").at("vocab").items()) {
    GANTRY_RETURN_IF_ERROR(set(id.get<int64_t>(), text, kNormal));
  }
  for (const json& added : root.value("added_tokens", json::array())) {
    GANTRY_RETURN_IF_ERROR(
        set(added.at("id"), added.at("content"), added.value("special", false) ? kControl : kUserDefined));
  }
  std::vector<std::string> merges;
  for (const json& merge : root.at("model").at("merges")) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : absl::StrCat(merge.at(0).get<std::string>(), " ", merge.at(1).get<std::string>()));
  }
  GANTRY_ASSIGN_OR_RETURN(const std::string family, FamilyOf(root.value("pre_tokenizer", json::object())));
  plan->keys.emplace_back("tokenizer.ggml.model", std::string("gpt2"));
  plan->keys.emplace_back("tokenizer.ggml.pre", family);
  plan->keys.emplace_back("tokenizer.ggml.tokens", std::move(tokens));
  plan->keys.emplace_back("tokenizer.ggml.token_type", std::move(types));
  plan->keys.emplace_back("tokenizer.ggml.merges", std::move(merges));
  return absl::OkStatus();
}

}  // namespace

absl::Status AddTokenizer(const std::string& directory, int64_t vocab_rows, GgufPlan* plan) {
  GANTRY_ASSIGN_OR_RETURN(const engine::ModelText text, engine::ReadModelText(directory));
  GANTRY_ASSIGN_OR_RETURN(const auto tokenizer,
                          engine::text::Tokenizer::FromJson(text.tokenizer_json, directory + "/tokenizer.json"));
  try {
    GANTRY_RETURN_IF_ERROR(Add(json::parse(text.tokenizer_json), directory, vocab_rows, plan));
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(directory, "/tokenizer.json: ", error.what()));
  }
  plan->keys.emplace_back("tokenizer.ggml.add_bos_token", !tokenizer->prefix().empty());
  if (!tokenizer->prefix().empty()) {
    plan->keys.emplace_back("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(tokenizer->prefix().front()));
  }
  GANTRY_ASSIGN_OR_RETURN(const engine::ConfigObject config,
                          engine::ConfigObject::ReadFile(directory + "/generation_config.json"));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<int64_t> stops, config.IntOrInts("eos_token_id", 0, vocab_rows - 1));
  if (!stops.empty()) plan->keys.emplace_back("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(stops.front()));
  if (!text.chat_template.empty()) plan->keys.emplace_back("tokenizer.chat_template", text.chat_template);
  return absl::OkStatus();
}

}  // namespace gantry::make_model
