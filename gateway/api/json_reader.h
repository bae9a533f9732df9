// JSON from outside: bounded before it is built, then read field by field with errors that name the field, what was
// expected and what was found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"
#include "gateway/api/api_error.h"
#include "nlohmann/json.hpp"

namespace gantry::gateway {

// Keeps the order of members: templates show tools and arguments as the tenant wrote them.
using Json = nlohmann::ordered_json;

// Bounds of one body, checked in one pass over the bytes that allocates nothing. Members are looked up one after the
// other, hence the bound per object.
struct JsonLimits {
  int depth = 64;
  size_t values = 400'000;  // a prompt of token ids is the largest honest use
  size_t members = 65'536;  // of all objects
  size_t members_per_object = 512;
};

// The object that the body holds, or a 400: not UTF-8, too deep, too many values, not JSON (with the byte), not an
// object.
std::variant<Json, ApiError> ParseJsonObject(absl::string_view body, const JsonLimits& limits = {});

// "a string", "an array", "null": for messages.
absl::string_view JsonTypeName(const Json& value);

// Reads members of one object. The first problem sticks: later reads return nothing, so a parser reads straight on and
// looks at `error()` once. Members that are absent or null give nullopt.
class FieldReader {
 public:
  // `path` prefixes the param of errors: "messages[0]". `first_error` is shared by readers of one body.
  FieldReader(const Json& object, std::string path, std::optional<ApiError>* first_error)
      : object_(object), path_(std::move(path)), error_(first_error) {}

  bool ok() const { return !error_->has_value(); }
  const Json* Find(absl::string_view key) const;  // null when absent, null or after an error

  std::optional<double> Number(absl::string_view key, double min, double max);
  std::optional<int64_t> Integer(absl::string_view key, int64_t min, int64_t max);
  std::optional<bool> Bool(absl::string_view key);
  std::optional<std::string> String(absl::string_view key, size_t max_bytes);
  const Json* Array(absl::string_view key, size_t max_items);
  const Json* Object(absl::string_view key);

  // Fail and return nothing.
  void WrongType(absl::string_view key, absl::string_view expected, const Json& found);
  void WrongValue(absl::string_view key, absl::string_view message, absl::string_view code = "invalid_value");
  void Missing(absl::string_view key);
  std::string Param(absl::string_view key) const;

 private:
  const Json& object_;
  std::string path_;
  std::optional<ApiError>* error_;
};

}  // namespace gantry::gateway
