// Reader of safetensors files (https://huggingface.co/docs/safetensors): 8 bytes header length, JSON header, data.
//
// The header is outside input: every offset, shape and type is checked before a view is handed out, and every error
// names file, tensor, what was expected and what was found. Views point into the mapping and live as long as the file
// object. Immutable after opening; may be read from any thread.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/base/mapped_file.h"
#include "engine/format/stored_tensor.h"

namespace gantry::engine {

class SafetensorsFile {
 public:
  // INVALID_ARGUMENT for anything malformed or truncated; NOT_FOUND and the like from the file system.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the result; `name` stands for the path in errors.
  static absl::StatusOr<SafetensorsFile> Parse(absl::string_view bytes, const std::string& name);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  // What keeps the views alive; null after Parse.
  const std::shared_ptr<const MappedFile>& mapping() const { return file_; }
  // NOT_FOUND naming file and tensor.
  absl::StatusOr<const StoredTensor*> Find(const std::string& name) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::string path_;
  std::map<std::string, StoredTensor> tensors_;
};

// All tensors of a model directory: model.safetensors, or the shards that model.safetensors.index.json names.
// Errors as of SafetensorsFile::Open; INVALID_ARGUMENT also where index and shards disagree.
absl::StatusOr<TensorSet> OpenModelTensors(const std::string& directory);

}  // namespace gantry::engine
