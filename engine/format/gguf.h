// Reader of GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little endian:
// header, metadata keys, tensor infos, data.
//
// Everything in a file is outside input: each count and length is checked against the bytes that are there before
// memory is spent on it, and every error names file, key or tensor, what was expected and what was found. Views point
// into the mapping. Immutable after opening; may be read from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/format/stored_tensor.h"

namespace gantry::engine {

// The metadata seen through typed getters, as ConfigObject does for JSON. Integers of every width are integers; an
// integer counts as a number.
class GgufKeys {
 public:
  bool Has(const std::string& key) const { return values_.contains(key); }

  absl::StatusOr<int64_t> Int(const std::string& key, int64_t min, int64_t max) const;
  absl::StatusOr<int64_t> IntOr(const std::string& key, int64_t fallback, int64_t min, int64_t max) const;
  absl::StatusOr<double> NumberOr(const std::string& key, double fallback, double min, double max) const;
  absl::StatusOr<bool> BoolOr(const std::string& key, bool fallback) const;
  absl::StatusOr<std::string> String(const std::string& key) const;
  absl::StatusOr<std::string> StringOr(const std::string& key, const std::string& fallback) const;
  // Views into the file; it may be a quarter of a million of them.
  absl::StatusOr<std::vector<absl::string_view>> Strings(const std::string& key) const;
  // An integer, or an array of integers or booleans; empty when absent.
  absl::StatusOr<std::vector<int64_t>> IntOrInts(const std::string& key, int64_t min, int64_t max) const;

  // The file, for error messages.
  const std::string& where() const { return where_; }

 private:
  friend class GgufParser;
  struct Value {
    uint32_t type = 0;          // as in the file; of the elements, for an array
    bool is_array = false;      //
    uint64_t count = 1;         // elements
    absl::string_view payload;  // their bytes
  };
  absl::Status Missing(const std::string& key) const;
  absl::Status Wrong(const std::string& key, absl::string_view expected, const Value& found) const;
  absl::StatusOr<const Value*> Find(const std::string& key) const;

  std::string where_;
  std::map<std::string, Value> values_;
};

// Keys of the first file and tensors of all of them. Shapes are given slowest dimension first, the reverse of the
// file's own order, so that a matrix is [out_features, in_features] here as everywhere.
struct Gguf {
  GgufKeys keys;
  TensorSet tensors;
};

// `path` is a whole file or the first of a split model (NAME-00001-of-0000N.gguf), whose other files are opened too.
// INVALID_ARGUMENT for anything malformed or truncated; NOT_FOUND and the like from the file system.
absl::StatusOr<Gguf> OpenGguf(const std::string& path);
// One whole file in memory, which must outlive the result; `name` stands for the path in errors.
absl::StatusOr<Gguf> ParseGguf(absl::string_view bytes, const std::string& name);

}  // namespace gantry::engine
