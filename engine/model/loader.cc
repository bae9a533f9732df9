#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/format/config_json.h"
#include "engine/format/safetensors.h"
#include "engine/model/families/registry.h"
#include "engine/model/model.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {
namespace {

// `directory`/`name`, or empty when there is no such file.
std::string PathIfPresent(const std::string& directory, const char* name) {
  std::string path = absl::StrCat(directory, "/", name);
  return access(path.c_str(), F_OK) == 0 ? path : "";
}

// generation_config.json wins over config.json; a model without either has no stop ids.
absl::Status ReadStopIds(const std::string& directory, const ConfigObject& config, ModelSpec* spec) {
  std::vector<int64_t> ids;
  const std::string generation = PathIfPresent(directory, "generation_config.json");
  if (!generation.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const ConfigObject object, ConfigObject::ReadFile(generation));
    GANTRY_ASSIGN_OR_RETURN(ids, object.IntOrInts("eos_token_id", 0, spec->vocab_rows - 1));
  }
  if (ids.empty()) {
    GANTRY_ASSIGN_OR_RETURN(ids, config.IntOrInts("eos_token_id", 0, spec->vocab_rows - 1));
  }
  if (ids.empty() && config.Has("text_config")) {
    GANTRY_ASSIGN_OR_RETURN(const ConfigObject text, config.Object("text_config"));
    GANTRY_ASSIGN_OR_RETURN(ids, text.IntOrInts("eos_token_id", 0, spec->vocab_rows - 1));
  }
  spec->stop_ids.assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& directory) {
  const std::string config_path = directory + "/config.json";
  GANTRY_ASSIGN_OR_RETURN(const ConfigObject config, ConfigObject::ReadFile(config_path));
  GANTRY_ASSIGN_OR_RETURN(const std::string model_type, config.String("model_type"));
  const absl::StatusOr<const Family*> family = FindFamily(model_type);
  if (!family.ok()) return Annotate(family.status(), config_path);

  GANTRY_ASSIGN_OR_RETURN(TensorSet opened, OpenModelTensors(directory));
  auto set = std::make_shared<const TensorSet>(std::move(opened));
  TensorSource tensors(*set);
  // The vision tower makes embeddings for image placeholders; a text service never reads it.
  for (const auto& [name, tensor] : set->tensors) {
    if (absl::StartsWith(name, "model.visual.") || absl::StartsWith(name, "visual.")) tensors.Ignore(name);
  }
  auto model = std::make_shared<Model>();
  GANTRY_RETURN_IF_ERROR((*family)->load(config, tensors, model.get()));
  GANTRY_RETURN_IF_ERROR(tensors.CheckAllRead());
  GANTRY_RETURN_IF_ERROR(ReadStopIds(directory, config, &model->spec));
  model->path = directory;
  model->tokenizer_path = PathIfPresent(directory, "tokenizer.json");
  model->tokenizer_config_path = PathIfPresent(directory, "tokenizer_config.json");
  model->chat_template_path = PathIfPresent(directory, "chat_template.jinja");
  model->parameters = tensors.parameters();
  model->weight_bytes = tensors.bytes();
  model->storage = std::move(set);
  return model;
}

}  // namespace gantry::engine
