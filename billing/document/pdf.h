// Documents as PDF: A4, fonts embedded, text that can be searched and copied.
#pragma once

#include "absl/status/statusor.h"
#include "billing/document/document.h"

namespace gantry::document {

// The same description gives the same bytes, whatever the time, as long as cairo, Pango, fontconfig and the fonts of
// the machine stay the same: store the file (or its digest) where it must not change. Warns when no font has a
// character, which is then drawn as a box with its number. May be called from several threads; takes about 10 ms and
// 0.1 ms a cell. INVALID_ARGUMENT: CheckDocument; INTERNAL: cairo failed.
absl::StatusOr<Rendering> RenderPdf(const Document& document);

}  // namespace gantry::document
