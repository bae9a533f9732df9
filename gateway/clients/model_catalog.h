// The models that can be asked for: cards from the router, tokenizers and templates from blobs named by their hash.
//
// Asks the router every 2 s (every 50 ms until there is a first model), and at once when somebody names a model it does
// not know (at most every 200 ms). A model once seen stays: while no worker has it, requests for it are refused as
// unavailable, not as unknown. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gantry/v1/inference.pb.h"

namespace grpc {
class Channel;
}  // namespace grpc
namespace gantry::engine::text {
class ChatTemplate;
class Tokenizer;
}  // namespace gantry::engine::text

namespace gantry::gateway {

// All that is needed to turn conversations into ids and back. Immutable.
struct Model {
  v1::ModelCard card;
  std::shared_ptr<const engine::text::Tokenizer> tokenizer;
  std::shared_ptr<const engine::text::ChatTemplate> chat_template;  // null: the model has none
  std::string bos_token;                                            // text of the tokenizer's prefix
  std::string eos_token;                                            // text of the first stop id
  size_t longest_token_bytes = 1;                                   // of the vocabulary
};

class ModelCatalog {
 public:
  virtual ~ModelCatalog() = default;
  // Null: not known.
  virtual std::shared_ptr<const Model> Find(const std::string& name) const = 0;
  virtual std::vector<std::shared_ptr<const Model>> List() const = 0;  // by name
  // Asks the router now; `done` (any thread) when the answer has been taken in, or soon after a recent one.
  virtual void Refresh(std::function<void()> done) = 0;
};

// Makes a Model of a card and its blobs. INVALID_ARGUMENT names the model and the blob.
absl::StatusOr<std::shared_ptr<const Model>> MakeModel(const v1::ModelCard& card, const std::string& tokenizer_json,
                                                       const std::string& template_source);

// Has a thread of its own: loading a tokenizer takes time. `on_change` (may be null) is called there after the list
// changed.
std::unique_ptr<ModelCatalog> MakeModelCatalog(std::shared_ptr<grpc::Channel> router, std::function<void()> on_change);

}  // namespace gantry::gateway
