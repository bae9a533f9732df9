// What turns conversations into a model's ids and back, as texts that can be sent to whoever does that.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace gantry::engine {

// What the model's makers recommend; absent where they say nothing.
struct SuggestedSampling {
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
};

struct ModelText {
  std::string tokenizer_json;  // the text of a tokenizer.json
  std::string chat_template;   // Jinja source; empty: the model has none
  SuggestedSampling sampling;
};

// Of a model directory (tokenizer.json, chat_template.jinja or tokenizer_config.json, generation_config.json) or of a
// .gguf file, whose tokenizer is rewritten as a tokenizer.json. Touches no weights. Errors name the file and the key.
absl::StatusOr<ModelText> ReadModelText(const std::string& model_path);

}  // namespace gantry::engine
