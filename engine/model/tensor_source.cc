#include "engine/model/tensor_source.h"

#include <cstring>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/format/quant_blocks.h"

namespace gantry::engine {

bool TensorSource::HasPrefix(const std::string& prefix) const {
  const auto first = set_.tensors.lower_bound(prefix);
  return first != set_.tensors.end() && absl::StartsWith(first->first, prefix);
}

bool TensorSource::AreEqual(const std::string& a, const std::string& b) const {
  if (!Has(a) || !Has(b)) return false;
  const StoredTensor &left = set_.tensors.at(a), &right = set_.tensors.at(b);
  return left.dtype == right.dtype && left.shape == right.shape && std::memcmp(left.data, right.data, left.bytes) == 0;
}

absl::StatusOr<int64_t> TensorSource::Rows(const std::string& name) const {
  const auto found = set_.tensors.find(name);
  if (found == set_.tensors.end() || found->second.shape.size() != 2) {
    return absl::NotFoundError(absl::StrCat(set_.path, ": tensor ", name, ": expected a matrix, found none"));
  }
  return found->second.shape[0];
}

void TensorSource::IgnorePrefix(const std::string& prefix) {
  for (auto i = set_.tensors.lower_bound(prefix); i != set_.tensors.end() && absl::StartsWith(i->first, prefix); ++i) {
    Ignore(i->first);
  }
}

absl::StatusOr<const StoredTensor*> TensorSource::Take(const std::string& name, const std::vector<int64_t>& shape,
                                                       DType* dtype) {
  const auto found = set_.tensors.find(name);
  if (found == set_.tensors.end()) {
    return absl::NotFoundError(
        absl::StrCat(set_.path, ": tensor ", name, ": expected shape ", ShapeText(shape), ", found none"));
  }
  const StoredTensor& tensor = found->second;
  if (tensor.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, ": expected shape ",
                                                   ShapeText(shape), ", found ", ShapeText(tensor.shape)));
  }
  const std::optional<DType> type = DTypeNamed(tensor.dtype);
  if (!type) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.file, ": tensor ", name, ": expected F32, BF16 or F16, found ", tensor.dtype));
  }
  *dtype = *type;
  // safetensors does not promise alignment of the data section; kernels and float reads need the element's own.
  const DTypeInfo& info = InfoOf(*type);
  if (info.block_elements == 1 && reinterpret_cast<uintptr_t>(tensor.data) % info.block_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, ": expected ", tensor.dtype,
                                                   " data at a multiple of ", info.block_bytes,
                                                   " bytes in the file, found it elsewhere"));
  }
  if (used_.insert(name).second) {
    parameters_ += tensor.elements();
    bytes_ += tensor.bytes;
  }
  return &tensor;
}

absl::StatusOr<Matrix> TensorSource::ReadMatrix(const std::string& name, int64_t rows, int64_t columns) {
  std::vector<int64_t> shape = {rows, columns};
  const auto found = set_.tensors.find(name);
  if (rows == 1 && found != set_.tensors.end() && found->second.shape.size() == 1) shape = {columns};
  std::vector<Matrix> matrix(1);
  GANTRY_ASSIGN_OR_RETURN(const StoredTensor* tensor, Take(name, shape, &matrix[0].dtype));
  matrix[0].rows = rows;
  matrix[0].columns = columns;
  matrix[0].data = tensor->data;
  GANTRY_RETURN_IF_ERROR(ReadScales(name, &matrix));
  return matrix[0];
}

absl::StatusOr<std::vector<Matrix>> TensorSource::ReadMatrices(const std::string& name, int64_t count, int64_t rows,
                                                               int64_t columns) {
  Matrix all;
  GANTRY_ASSIGN_OR_RETURN(const StoredTensor* tensor, Take(name, {count, rows, columns}, &all.dtype));
  all.columns = columns;
  all.data = tensor->data;
  std::vector<Matrix> matrices;
  for (int64_t i = 0; i < count; ++i) matrices.push_back(all.Rows(i * rows, rows));
  GANTRY_RETURN_IF_ERROR(ReadScales(name, &matrices));
  return matrices;
}

absl::Status TensorSource::ReadScales(const std::string& name, std::vector<Matrix>* matrices) {
  absl::string_view base = name;
  if (matrices->front().dtype != DType::kNVFP4 || !absl::ConsumeSuffix(&base, ".weight")) return absl::OkStatus();
  // Of activations, for kernels that quantise those too.
  Ignore(absl::StrCat(base, ".input_scale"));
  const std::string scale_name = absl::StrCat(base, ".scale");
  const auto found = set_.tensors.find(scale_name);
  if (found == set_.tensors.end()) return absl::OkStatus();
  const int64_t count = found->second.elements() == 1 ? 1 : static_cast<int64_t>(matrices->size());
  GANTRY_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadVector(scale_name, {count}));
  for (size_t i = 0; i < matrices->size(); ++i) (*matrices)[i].scale = scales[count == 1 ? 0 : i];
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> TensorSource::ReadVector(const std::string& name,
                                                            const std::vector<int64_t>& shape) {
  DType dtype;
  GANTRY_ASSIGN_OR_RETURN(const StoredTensor* tensor, Take(name, shape, &dtype));
  std::vector<float> values(tensor->elements());
  DecodeRow(dtype, tensor->data, tensor->elements(), values.data());
  return values;
}

absl::Status TensorSource::CheckAllRead() const {
  for (const auto& [name, tensor] : set_.tensors) {
    if (!used_.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " ", ShapeText(tensor.shape),
                                                     " belongs to nothing that ", description_, " describes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine
