// Documents as HTML: one file without scripts, fonts, images or links, fit for a browser, a mail and its printer.
#pragma once

#include "absl/status/statusor.h"
#include "billing/document/document.h"

namespace gantry::document {

// All text is escaped; a content security policy in the file forbids everything but its own style. The same description
// gives the same bytes on every machine. INVALID_ARGUMENT: CheckDocument.
absl::StatusOr<Rendering> RenderHtml(const Document& document);

}  // namespace gantry::document
