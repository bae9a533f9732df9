#include "engine/format/config_json.h"

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/format/internal/parse_json.h"

namespace gantry::engine {
namespace {

using nlohmann::json;
constexpr size_t kFileBytesMax = 16 << 20;
constexpr int kLevelsMax = 16;
constexpr size_t kFoundTextMax = 60;

absl::Status WrongValue(const std::string& where, const std::string& key, absl::string_view expected,
                        const json& found) {
  std::string text = found.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kFoundTextMax) text = text.substr(0, kFoundTextMax) + "...";
  return absl::InvalidArgumentError(absl::StrCat(where, ": `", key, "`: expected ", expected, ", found ", text));
}

absl::Status Missing(const std::string& where, const std::string& key) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": key `", key, "` is missing"));
}

bool IsIntegerIn(const json& value, int64_t min, int64_t max) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return false;
  return value.get<int64_t>() >= min && value.get<int64_t>() <= max;
}

}  // namespace

struct ConfigObject::Node {
  json value;
};

absl::StatusOr<ConfigObject> ConfigObject::ReadFile(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kFileBytesMax));
  auto node = std::make_shared<Node>();
  GANTRY_ASSIGN_OR_RETURN(node->value, ParseJsonObject(text, path, kLevelsMax));
  ConfigObject object;
  object.node_ = std::move(node);
  object.where_ = path;
  return object;
}

bool ConfigObject::Has(const std::string& key) const {
  return node_->value.contains(key) && !node_->value[key].is_null();
}

absl::StatusOr<ConfigObject> ConfigObject::Object(const std::string& key) const {
  if (!Has(key)) return Missing(where_, key);
  if (!node_->value[key].is_object()) return WrongValue(where_, key, "an object", node_->value[key]);
  auto node = std::make_shared<Node>();
  node->value = node_->value[key];
  ConfigObject object;
  object.node_ = std::move(node);
  object.where_ = absl::StrCat(where_, ": ", key);
  return object;
}

absl::StatusOr<int64_t> ConfigObject::Int(const std::string& key, int64_t min, int64_t max) const {
  if (!Has(key)) return Missing(where_, key);
  const json& value = node_->value[key];
  if (!IsIntegerIn(value, min, max)) {
    return WrongValue(where_, key, absl::StrCat("an integer in [", min, ", ", max, "]"), value);
  }
  return value.get<int64_t>();
}

absl::StatusOr<int64_t> ConfigObject::IntOr(const std::string& key, int64_t fallback, int64_t min, int64_t max) const {
  if (!Has(key)) return fallback;
  return Int(key, min, max);
}

absl::StatusOr<double> ConfigObject::NumberOr(const std::string& key, double fallback, double min, double max) const {
  if (!Has(key)) return fallback;
  const json& value = node_->value[key];
  if (!value.is_number() || !(value.get<double>() >= min && value.get<double>() <= max)) {
    return WrongValue(where_, key, absl::StrCat("a number in [", min, ", ", max, "]"), value);
  }
  return value.get<double>();
}

absl::StatusOr<bool> ConfigObject::BoolOr(const std::string& key, bool fallback) const {
  if (!Has(key)) return fallback;
  const json& value = node_->value[key];
  if (!value.is_boolean()) return WrongValue(where_, key, "true or false", value);
  return value.get<bool>();
}

absl::StatusOr<std::string> ConfigObject::String(const std::string& key) const {
  if (!Has(key)) return Missing(where_, key);
  const json& value = node_->value[key];
  if (!value.is_string()) return WrongValue(where_, key, "a string", value);
  return value.get<std::string>();
}

absl::StatusOr<std::string> ConfigObject::StringOr(const std::string& key, const std::string& fallback) const {
  if (!Has(key)) return fallback;
  return String(key);
}

absl::StatusOr<std::vector<std::string>> ConfigObject::Strings(const std::string& key) const {
  if (!Has(key)) return Missing(where_, key);
  std::vector<std::string> result;
  const json& value = node_->value[key];
  if (!value.is_array()) return WrongValue(where_, key, "a list of strings", value);
  for (const json& item : value) {
    if (!item.is_string()) return WrongValue(where_, key, "a list of strings", item);
    result.push_back(item.get<std::string>());
  }
  return result;
}

absl::StatusOr<std::vector<int64_t>> ConfigObject::IntOrInts(const std::string& key, int64_t min, int64_t max) const {
  std::vector<int64_t> result;
  if (!Has(key)) return result;
  const json& value = node_->value[key];
  const json list = value.is_array() ? value : json::array({value});
  for (const json& item : list) {
    if (!IsIntegerIn(item, min, max)) {
      return WrongValue(where_, key, absl::StrCat("integers in [", min, ", ", max, "]"), value);
    }
    result.push_back(item.get<int64_t>());
  }
  return result;
}

}  // namespace gantry::engine
