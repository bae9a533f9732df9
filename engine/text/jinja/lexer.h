// Template source -> tokens, with trim_blocks and lstrip_blocks on, as chat templates are rendered by transformers.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine::text::jinja {

struct Token {
  enum class Kind {
    kText,
    kOutputBegin,
    kOutputEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  std::string text;  // of a string: its value
  int line = 0;
};

// INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace gantry::engine::text::jinja
