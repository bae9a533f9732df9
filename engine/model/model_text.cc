#include "engine/model/model_text.h"

#include <unistd.h>

#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/format/config_json.h"
#include "engine/format/gguf.h"
#include "engine/model/gguf_tokens.h"
#include "engine/model/model.h"
#include "engine/text/chat_template.h"

namespace gantry::engine {
namespace {

constexpr size_t kTokenizerBytesMax = 256 << 20;

// Keys of ConfigObject and of GgufKeys: the same getters.
template <typename Keys>
absl::StatusOr<SuggestedSampling> ReadSampling(const Keys& keys, const std::string& prefix, const char* temperature) {
  SuggestedSampling sampling;
  if (keys.Has(prefix + temperature)) {
    GANTRY_ASSIGN_OR_RETURN(sampling.temperature, keys.NumberOr(prefix + temperature, 1, 0, 2));
  }
  if (keys.Has(prefix + "top_p")) {
    GANTRY_ASSIGN_OR_RETURN(sampling.top_p, keys.NumberOr(prefix + "top_p", 1, 1e-6, 1));
  }
  if (keys.Has(prefix + "top_k")) {
    GANTRY_ASSIGN_OR_RETURN(sampling.top_k, keys.IntOr(prefix + "top_k", 0, 0, 1 << 30));
  }
  return sampling;
}

absl::StatusOr<ModelText> ReadDirectoryText(const std::string& directory) {
  ModelText text;
  GANTRY_ASSIGN_OR_RETURN(text.tokenizer_json, ReadSmallFile(directory + "/tokenizer.json", kTokenizerBytesMax));
  absl::StatusOr<std::string> source = text::ReadChatTemplateSource(directory);
  if (source.ok()) {
    text.chat_template = *std::move(source);
  } else if (!absl::IsNotFound(source.status())) {
    return source.status();
  }
  const std::string generation = directory + "/generation_config.json";
  if (access(generation.c_str(), F_OK) == 0) {
    GANTRY_ASSIGN_OR_RETURN(const ConfigObject config, ConfigObject::ReadFile(generation));
    GANTRY_ASSIGN_OR_RETURN(text.sampling, ReadSampling(config, "", "temperature"));
  }
  return text;
}

absl::StatusOr<ModelText> ReadGgufText(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(const Gguf gguf, OpenGguf(path));
  ModelText text;
  GANTRY_ASSIGN_OR_RETURN(text.tokenizer_json, GgufTokenizerJson(gguf.keys));
  GANTRY_ASSIGN_OR_RETURN(text.chat_template, gguf.keys.StringOr("tokenizer.chat_template", ""));
  GANTRY_ASSIGN_OR_RETURN(text.sampling, ReadSampling(gguf.keys, "general.sampling.", "temp"));
  return text;
}

}  // namespace

absl::StatusOr<ModelText> ReadModelText(const std::string& model_path) {
  return IsGgufPath(model_path) ? ReadGgufText(model_path) : ReadDirectoryText(model_path);
}

}  // namespace gantry::engine
