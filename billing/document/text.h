// Documents on a terminal.
#pragma once

#include "absl/status/statusor.h"
#include "billing/document/document.h"

namespace gantry::document {

// Paragraphs are broken at `width` cells; tables are as wide as their longest cells, with blanks between columns and
// nothing at a line's end. Control characters of outside text never reach the terminal (clean.h). INVALID_ARGUMENT:
// CheckDocument.
absl::StatusOr<Rendering> RenderText(const Document& document, size_t width = 100);

}  // namespace gantry::document
