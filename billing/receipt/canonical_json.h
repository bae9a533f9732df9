// JSON of which every value has exactly one spelling (RFC 8785), so that it can be hashed and signed.
//
// The subset that receipts use: objects with ASCII names, arrays, UTF-8 strings, integers of at most 53 bits. Larger
// ones are written as strings of decimal digits. No floating point, no true, false or null.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace gantry::billing {

inline constexpr int64_t kCanonicalIntegerMax = (int64_t{1} << 53) - 1;

// Writes one object; names come in ascending order.
class CanonicalObject {
 public:
  // REQUIRES: `text` is valid UTF-8.
  CanonicalObject& Add(absl::string_view name, absl::string_view text);
  CanonicalObject& Add(absl::string_view name, const std::string& text) { return Add(name, absl::string_view(text)); }
  CanonicalObject& Add(absl::string_view name, const char* text) { return Add(name, absl::string_view(text)); }
  // REQUIRES: |number| <= kCanonicalIntegerMax.
  CanonicalObject& Add(absl::string_view name, int64_t number);
  // `json` is canonical already.
  CanonicalObject& AddJson(absl::string_view name, absl::string_view json);
  // The whole object, once.
  std::string Finish();

 private:
  void Name(absl::string_view name);
  std::string out_;
  std::string last_name_;
};

// Reads an object and insists on its one spelling. INVALID_ARGUMENT: "json: …" when it is not JSON of the subset above
// (a name twice and nesting beyond 8 levels included), "canonical: byte N …" when it is and is spelled otherwise.
absl::StatusOr<nlohmann::json> ParseCanonicalObject(absl::string_view bytes);

// The one spelling of a value of the subset.
std::string Canonical(const nlohmann::json& value);

}  // namespace gantry::billing
