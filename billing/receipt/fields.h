// Which members an object of a receipt file has, and what each must look like.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace gantry::billing {

enum class FieldForm {
  kHex16,  // bytes as lower-case hex
  kHex32,
  kHex64,
  kCount,  // a non-negative integer
  kInteger,
  kDecimal,   // an int64 as its shortest string of digits, '-' before a negative one
  kOrdinal,   // the same from 1 on
  kCurrency,  // three capital letters
  kText,      // 1 to 1024 bytes
  kDay,       // YYYY-MM-DD
  kObject,
  kHex32List,  // at most 32
};

struct FieldRule {
  const char* name;
  FieldForm form;
  bool optional = false;
  // Not null: the only values that are possible, separated by '|'.
  const char* one_of = nullptr;
};

// `path` names the object in messages: "receipt". Members that no rule names come first, then the rules in their order.
// DATA_LOSS: "receipt.model: expected …".
absl::Status CheckFields(absl::string_view path, const nlohmann::json& object, absl::Span<const FieldRule> rules);

}  // namespace gantry::billing
