#include "engine/format/stored_tensor.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gantry::engine {

int64_t StoredTensor::elements() const {
  int64_t n = 1;
  for (int64_t dimension : shape) n *= dimension;
  return n;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace gantry::engine
