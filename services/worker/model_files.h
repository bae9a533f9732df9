// What a gateway needs of a model: its card, and the files that the card names by content.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "gantry/v1/inference.pb.h"

namespace gantry::worker {

struct ModelFiles {
  v1::ModelCard card;
  std::map<std::string, std::string> blobs;  // SHA-256 (32 bytes) -> content
};

// Reads tokenizer, chat template and default sampling beside the weights. Errors name the file.
absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& served_name, const engine::Card& card);

// Ids below this exist in the tokenizer; the rows above are padding.
absl::StatusOr<int> TokenizerSize(const std::string& model_path);

}  // namespace gantry::worker
