// Facts out of a TOML file, exactly: decimals are read as digits, whether they are written 0.26 or "0.26".
//
// The first problem wins and sticks: read everything, then ask status(). Every table must be Finish()ed, which refuses
// keys that nobody asked for.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"

namespace gantry::tco {

// "12", "0.26" -> units of 10^-scale. INVALID_ARGUMENT for signs, exponents, more than `scale` decimals, more than
// `max`.
absl::StatusOr<int64_t> ParseDecimal(absl::string_view text, int scale, int64_t max);

// Parses the file and lets `overrides` ("running.pue=1.3") win over it.
absl::StatusOr<toml::table> ParseToml(absl::string_view toml, const std::string& file_name,
                                      const std::vector<std::string>& overrides);

// One table of the file.
class TomlReader {
 public:
  struct Range {
    int scale = 0;  // the result counts 10^-scale
    int64_t min = 0, max = 0;
  };

  // `table` may be null: then nothing is there. `path` names it in messages: "running". All must outlive the reader.
  TomlReader(const toml::table* table, std::string path, const std::string* file_name, absl::Status* status)
      : table_(table), path_(std::move(path)), file_name_(file_name), status_(status) {}

  bool present() const { return table_ != nullptr; }
  bool Has(const std::string& key) const { return table_ != nullptr && table_->contains(key); }

  // Without a default the key must be there.
  std::string Text(const std::string& key, std::optional<std::string> otherwise = std::nullopt);
  int64_t Decimal(const std::string& key, const Range& range, std::optional<int64_t> otherwise = std::nullopt);
  bool Bool(const std::string& key, std::optional<bool> otherwise = std::nullopt);
  absl::CivilDay Day(const std::string& key);
  std::vector<int64_t> Decimals(const std::string& key, const Range& range, std::vector<int64_t> otherwise);
  // A table or the tables of an array, inside this one.
  TomlReader Table(const std::string& key);
  std::vector<TomlReader> Tables(const std::string& key, size_t count_max);
  void Finish();

  // Sticks: file, line and key before `what`. An empty key: the table.
  void Fail(const std::string& key, const std::string& what);
  bool failed() const { return !status_->ok(); }

 private:
  const toml::node* Find(const std::string& key, bool required);
  std::string Where(const toml::node* node) const;
  std::string Name(const std::string& key) const;
  std::optional<int64_t> ToDecimal(const std::string& key, const toml::node& node, const Range& range);

  const toml::table* table_;
  std::string path_;
  const std::string* file_name_;
  absl::Status* status_;
  std::set<std::string> known_;
};

}  // namespace gantry::tco
