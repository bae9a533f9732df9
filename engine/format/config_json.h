// config.json and its like, read with errors that name file, key, what was expected and what was found.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gantry::engine {

// A JSON object seen through typed getters. Cheap to copy; shares the parsed document.
class ConfigObject {
 public:
  // The file must hold one JSON object of at most 16 MiB, nested at most 16 levels.
  static absl::StatusOr<ConfigObject> ReadFile(const std::string& path);

  bool Has(const std::string& key) const;  // present and not null
  // A nested object; INVALID_ARGUMENT when absent or of another type.
  absl::StatusOr<ConfigObject> Object(const std::string& key) const;

  absl::StatusOr<int64_t> Int(const std::string& key, int64_t min, int64_t max) const;
  absl::StatusOr<int64_t> IntOr(const std::string& key, int64_t fallback, int64_t min, int64_t max) const;
  absl::StatusOr<double> NumberOr(const std::string& key, double fallback, double min, double max) const;
  absl::StatusOr<bool> BoolOr(const std::string& key, bool fallback) const;
  absl::StatusOr<std::string> String(const std::string& key) const;
  absl::StatusOr<std::string> StringOr(const std::string& key, const std::string& fallback) const;
  absl::StatusOr<std::vector<std::string>> Strings(const std::string& key) const;
  // An integer or a list of integers; empty when absent or null.
  absl::StatusOr<std::vector<int64_t>> IntOrInts(const std::string& key, int64_t min, int64_t max) const;

  // "models/demo/config.json: text_config"
  const std::string& where() const { return where_; }

 private:
  struct Node;
  std::shared_ptr<const Node> node_;
  std::string where_;
};

}  // namespace gantry::engine
