#include "gateway/api/json_reader.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/unicode.h"

namespace gantry::gateway {
namespace {

// Depth and counts of what looks like JSON. Bytes inside strings are skipped; anything malformed is left to the parser,
// which by then cannot build more than the limits allow.
std::optional<ApiError> CheckBounds(absl::string_view body, const JsonLimits& limits) {
  std::vector<size_t> members;  // per open container; <= limits.depth entries
  size_t values = 1;
  size_t all_members = 0;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '[':
      case '{':
        if (members.size() >= static_cast<size_t>(limits.depth)) {
          return InvalidRequest(absl::StrCat("The body nests deeper than ", limits.depth, " levels (byte ", i, ")."),
                                "", "invalid_json");
        }
        members.push_back(0);
        ++values;
        break;
      case ']':
      case '}':
        if (!members.empty()) members.pop_back();
        break;
      case ',':
        ++values;
        break;
      case ':':
        ++all_members;
        if (!members.empty() && ++members.back() > limits.members_per_object) {
          return InvalidRequest(absl::StrCat("An object of the body has more than ", limits.members_per_object,
                                             " members (byte ", i, ")."),
                                "", "invalid_json");
        }
        break;
      default:
        break;
    }
    if (values > limits.values || all_members > limits.members) {
      return InvalidRequest(absl::StrCat("The body holds more than ", limits.values, " values or ", limits.members,
                                         " members (byte ", i, ")."),
                            "", "invalid_json");
    }
  }
  return std::nullopt;
}

}  // namespace

std::variant<Json, ApiError> ParseJsonObject(absl::string_view body, const JsonLimits& limits) {
  if (std::optional<ApiError> error = CheckBounds(body, limits)) return *std::move(error);
  size_t invalid = engine::text::FindInvalidUtf8(body);
  if (invalid != absl::string_view::npos) {
    return InvalidRequest(absl::StrCat("The body is not valid UTF-8 at byte ", invalid, "."), "", "invalid_utf8");
  }
  try {
    Json json = Json::parse(body.begin(), body.end());
    if (!json.is_object()) {
      return InvalidRequest(absl::StrCat("The body must be a JSON object, found ", JsonTypeName(json), "."), "",
                            "invalid_type");
    }
    return json;
  } catch (const nlohmann::json::parse_error& e) {
    return InvalidRequest(absl::StrCat("The body is not valid JSON: unexpected input at byte ", e.byte, "."), "",
                          "invalid_json");
  } catch (const nlohmann::json::exception&) {  // a number that no double holds
    return InvalidRequest("The body is not valid JSON: a number is out of range.", "", "invalid_json");
  }
}

absl::string_view JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    case Json::value_t::number_float:
      return "a number";
    default:
      return "something else";
  }
}

std::string FieldReader::Param(absl::string_view key) const {
  if (path_.empty()) return std::string(key);
  if (key.empty()) return path_;
  return absl::StrCat(path_, ".", key);
}

void FieldReader::WrongType(absl::string_view key, absl::string_view expected, const Json& found) {
  if (!ok()) return;
  std::string param = Param(key);
  *error_ = InvalidRequest(absl::StrCat("Invalid type for '", param, "': expected ", expected, ", but got ",
                                        JsonTypeName(found), " instead."),
                           param, "invalid_type");
}

void FieldReader::WrongValue(absl::string_view key, absl::string_view message, absl::string_view code) {
  if (!ok()) return;
  std::string param = Param(key);
  *error_ = InvalidRequest(absl::StrCat("Invalid '", param, "': ", message), param, std::string(code));
}

void FieldReader::Missing(absl::string_view key) {
  if (!ok()) return;
  std::string param = Param(key);
  *error_ =
      InvalidRequest(absl::StrCat("Missing required parameter: '", param, "'."), param, "missing_required_parameter");
}

const Json* FieldReader::Find(absl::string_view key) const {
  if (!ok()) return nullptr;
  auto it = object_.find(std::string(key));
  if (it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

std::optional<double> FieldReader::Number(absl::string_view key, double min, double max) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    WrongType(key, "a number", *value);
    return std::nullopt;
  }
  double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    WrongValue(key, absl::StrCat("expected a number from ", min, " to ", max, ", but got ", number, " instead."),
               number < min ? "decimal_below_min_value" : "decimal_above_max_value");
    return std::nullopt;
  }
  return number;
}

std::optional<int64_t> FieldReader::Integer(absl::string_view key, int64_t min, int64_t max) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  // 16.0 is an integer to JavaScript clients.
  const bool whole = value->is_number_float() && std::floor(value->get<double>()) == value->get<double>();
  if (!value->is_number_integer() && !whole) {
    WrongType(key, "an integer", *value);
    return std::nullopt;
  }
  bool inside = false;
  int64_t number = 0;
  if (value->is_number_unsigned()) {
    uint64_t raw = value->get<uint64_t>();
    inside = raw <= static_cast<uint64_t>(INT64_MAX) && (number = static_cast<int64_t>(raw)) >= min && number <= max;
  } else if (whole) {
    double raw = value->get<double>();
    inside = raw >= -9.2e18 && raw <= 9.2e18 && (number = static_cast<int64_t>(raw)) >= min && number <= max;
  } else {
    number = value->get<int64_t>();
    inside = number >= min && number <= max;
  }
  if (!inside) {
    WrongValue(key,
               absl::StrCat("expected an integer from ", min, " to ", max, ", but got ", value->dump().substr(0, 32),
                            " instead."),
               value->get<double>() < static_cast<double>(min) ? "integer_below_min_value" : "integer_above_max_value");
    return std::nullopt;
  }
  return number;
}

std::optional<bool> FieldReader::Bool(absl::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    WrongType(key, "a boolean", *value);
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<std::string> FieldReader::String(absl::string_view key, size_t max_bytes) {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    WrongType(key, "a string", *value);
    return std::nullopt;
  }
  const std::string& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    WrongValue(key, absl::StrCat("expected at most ", max_bytes, " bytes, but got ", text.size(), " instead."),
               "string_above_max_length");
    return std::nullopt;
  }
  return text;
}

const Json* FieldReader::Array(absl::string_view key, size_t max_items) {
  const Json* value = Find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) {
    WrongType(key, "an array", *value);
    return nullptr;
  }
  if (value->size() > max_items) {
    WrongValue(key, absl::StrCat("expected at most ", max_items, " items, but got ", value->size(), " instead."),
               "array_above_max_length");
    return nullptr;
  }
  return value;
}

const Json* FieldReader::Object(absl::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) {
    WrongType(key, "an object", *value);
    return nullptr;
  }
  return value;
}

}  // namespace gantry::gateway
