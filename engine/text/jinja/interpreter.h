// Runs a parsed template over a context.
#pragma once

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/builtins.h"

namespace gantry::engine::text::jinja {

// `context` is what the template may name beside the globals. INVALID_ARGUMENT names the template's line, or carries
// the message of raise_exception alone; RESOURCE_EXHAUSTED when a limit is reached. Thread-safe: a template may be
// rendered by several threads at once.
absl::StatusOr<Text> Render(const Body& body, const Dict& context, const Limits& limits);

}  // namespace gantry::engine::text::jinja
