#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/format/config_json.h"
#include "engine/format/gguf.h"
#include "engine/format/safetensors.h"
#include "engine/model/families/registry.h"
#include "engine/model/gguf_tokens.h"
#include "engine/model/model.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {
namespace {

// generation_config.json wins over config.json; a model without either has no stop ids.
absl::Status ReadStopIds(const std::string& directory, const ConfigObject& config, ModelSpec* spec) {
  std::vector<int64_t> ids;
  const std::string generation = absl::StrCat(directory, "/generation_config.json");
  if (access(generation.c_str(), F_OK) == 0) {
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

absl::StatusOr<std::shared_ptr<const Model>> LoadDirectory(const std::string& directory) {
  const std::string config_path = directory + "/config.json";
  GANTRY_ASSIGN_OR_RETURN(const ConfigObject config, ConfigObject::ReadFile(config_path));
  GANTRY_ASSIGN_OR_RETURN(const std::string model_type, config.String("model_type"));
  const absl::StatusOr<const Family*> family = FindFamily(model_type);
  if (!family.ok()) return Annotate(family.status(), config_path);

  GANTRY_ASSIGN_OR_RETURN(TensorSet opened, OpenModelTensors(directory));
  auto set = std::make_shared<const TensorSet>(std::move(opened));
  TensorSource tensors(*set, "config.json");
  auto model = std::make_shared<Model>();
  GANTRY_RETURN_IF_ERROR((*family)->load(config, tensors, model.get()));
  GANTRY_RETURN_IF_ERROR(tensors.CheckAllRead());
  GANTRY_RETURN_IF_ERROR(ReadStopIds(directory, config, &model->spec));
  model->path = directory;
  model->parameters = tensors.parameters();
  model->weight_bytes = tensors.bytes();
  model->storage = std::move(set);
  return model;
}

absl::StatusOr<std::shared_ptr<const Model>> LoadGguf(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(Gguf opened, OpenGguf(path));
  auto gguf = std::make_shared<const Gguf>(std::move(opened));
  GANTRY_ASSIGN_OR_RETURN(const std::string architecture, gguf->keys.String("general.architecture"));
  const absl::StatusOr<const Family*> family = FindGgufFamily(architecture);
  if (!family.ok()) return Annotate(family.status(), path);

  TensorSource tensors(gguf->tensors, "the file's metadata");
  auto model = std::make_shared<Model>();
  GANTRY_RETURN_IF_ERROR((*family)->load_gguf(gguf->keys, tensors, model.get()));
  GANTRY_RETURN_IF_ERROR(tensors.CheckAllRead());
  GANTRY_ASSIGN_OR_RETURN(model->spec.stop_ids, GgufStopIds(gguf->keys, model->spec.vocab_rows));
  model->path = path;
  model->parameters = tensors.parameters();
  model->weight_bytes = tensors.bytes();
  model->storage = std::move(gguf);
  return model;
}

}  // namespace

bool IsGgufPath(const std::string& path) {
  return absl::EndsWith(path, ".gguf");
}

absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& path) {
  return IsGgufPath(path) ? LoadGguf(path) : LoadDirectory(path);
}

}  // namespace gantry::engine
