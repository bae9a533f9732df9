// Tensors as a model's files hold them, whatever the format: names and views into mapped files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/mapped_file.h"

namespace gantry::engine {

struct StoredTensor {
  std::string name;
  std::string dtype;           // as the file names it: "F32", "BF16", "Q4_K", "I64", ...
  std::vector<int64_t> shape;  // slowest dimension first
  const void* data = nullptr;
  int64_t bytes = 0;
  std::string file;  // for error messages

  int64_t elements() const;
};

// "[16, 256]"
std::string ShapeText(const std::vector<int64_t>& shape);

// All tensors of a model. Views live as long as `files`.
struct TensorSet {
  std::string path;  // of the only file or of what names the files, for error messages
  std::map<std::string, StoredTensor> tensors;
  std::vector<std::shared_ptr<const MappedFile>> files;
};

}  // namespace gantry::engine
