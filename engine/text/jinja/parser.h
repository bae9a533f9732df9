#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/ast.h"

namespace gantry::engine::text::jinja {

// Parses a template. INVALID_ARGUMENT names the line; nesting is bounded.
absl::StatusOr<Body> Parse(absl::string_view source);

}  // namespace gantry::engine::text::jinja
