// What a family file reads tensors from: by name, with the shape it expects, each exactly once.
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
  explicit TensorSource(const TensorSet& set) : set_(set) {}

  bool Has(const std::string& name) const { return set_.tensors.contains(name); }
  bool HasPrefix(const std::string& prefix) const;
  // Both present with equal type, shape and bytes.
  bool AreEqual(const std::string& a, const std::string& b) const;

  // A matrix of F32, BF16 or F16. Errors name file, tensor, expected and found.
  absl::StatusOr<Matrix> ReadMatrix(const std::string& name, int64_t rows, int64_t columns);
  // A stack of `count` matrices [count, rows, columns] as separate views.
  absl::StatusOr<std::vector<Matrix>> ReadMatrices(const std::string& name, int64_t count, int64_t rows,
                                                   int64_t columns);
  // Elements as float32; `shape` may contain ones (convolution weights are [channels, 1, taps]).
  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name, const std::vector<int64_t>& shape);

  // A tensor that is known and not used.
  void Ignore(const std::string& name) { used_.insert(name); }
  // INVALID_ARGUMENT naming the first tensor that nobody read.
  absl::Status CheckAllRead() const;

  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }

 private:
  absl::StatusOr<const StoredTensor*> Take(const std::string& name, const std::vector<int64_t>& shape, DType* dtype);
  const TensorSet& set_;
  std::set<std::string> used_;
  int64_t parameters_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace gantry::engine
