// What a family file reads tensors from: by name, with the shape it expects, whatever the file format.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/stored_tensor.h"
#include "engine/model/model.h"

namespace gantry::engine {

class TensorSource {
 public:
  // `description` is what tells which tensors there should be ("config.json"), for messages. `set` must outlive this.
  TensorSource(const TensorSet& set, std::string description) : set_(set), description_(std::move(description)) {}

  bool Has(const std::string& name) const { return set_.tensors.contains(name); }
  bool HasPrefix(const std::string& prefix) const;
  // Both present with equal type, shape and bytes.
  bool AreEqual(const std::string& a, const std::string& b) const;
  // Rows of a matrix that is there; NOT_FOUND otherwise.
  absl::StatusOr<int64_t> Rows(const std::string& name) const;

  // A matrix of any type that DType knows. A matrix of one row may be stored as a vector. Errors name file, tensor,
  // expected and found.
  absl::StatusOr<Matrix> ReadMatrix(const std::string& name, int64_t rows, int64_t columns);
  // A stack of `count` matrices [count, rows, columns] as separate views.
  absl::StatusOr<std::vector<Matrix>> ReadMatrices(const std::string& name, int64_t count, int64_t rows,
                                                   int64_t columns);
  // Elements as float32; `shape` may contain ones (convolution weights are [channels, 1, taps]).
  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name, const std::vector<int64_t>& shape);

  // Tensors that are known and not used.
  void Ignore(const std::string& name) { used_.insert(name); }
  void IgnorePrefix(const std::string& prefix);
  // INVALID_ARGUMENT naming the first tensor that nobody read.
  absl::Status CheckAllRead() const;

  // Of all tensors read.
  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }

 private:
  absl::StatusOr<const StoredTensor*> Take(const std::string& name, const std::vector<int64_t>& shape, DType* dtype);
  // NVFP4 files of GGUF keep a factor, or one for each matrix of a stack, in X.scale beside X.weight.
  absl::Status ReadScales(const std::string& name, std::vector<Matrix>* matrices);

  const TensorSet& set_;
  std::string description_;
  std::set<std::string> used_;
  int64_t parameters_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace gantry::engine
