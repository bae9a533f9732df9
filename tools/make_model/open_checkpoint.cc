#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/format/quant_blocks.h"
#include "engine/format/safetensors.h"
#include "tools/make_model/checkpoint.h"

namespace gantry::make_model {

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& directory) {
  constexpr size_t kConfigBytesMax = 16 << 20;
  Checkpoint checkpoint;
  const std::string path = directory + "/config.json";
  GANTRY_ASSIGN_OR_RETURN(const std::string text, engine::ReadSmallFile(path, kConfigBytesMax));
  checkpoint.config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!checkpoint.config.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": expected a JSON object"));
  GANTRY_ASSIGN_OR_RETURN(engine::TensorSet opened, engine::OpenModelTensors(directory));
  const auto set = std::make_shared<const engine::TensorSet>(std::move(opened));
  for (const auto& [name, stored] : set->tensors) {
    const std::optional<engine::DType> type = engine::DTypeNamed(stored.dtype);
    if (!type) {
      return absl::InvalidArgumentError(
          absl::StrCat(stored.file, ": tensor ", name, ": expected F32, BF16 or F16, found ", stored.dtype));
    }
    SourceTensor tensor;
    tensor.shape = stored.shape.empty() ? std::vector<int64_t>{1} : stored.shape;
    const int64_t columns = tensor.columns();
    const auto* data = static_cast<const char*>(stored.data);
    tensor.read = [set, type = *type, data, columns](int64_t row, float* out) {
      engine::DecodeRow(type, data + row * engine::RowBytes(type, columns), columns, out);
    };
    checkpoint.tensors.emplace(name, std::move(tensor));
  }
  return checkpoint;
}

}  // namespace gantry::make_model
