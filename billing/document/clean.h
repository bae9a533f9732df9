// Outside text made fit for paper: names of parties and models come from people.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace gantry::document {

// Valid UTF-8 without characters that hide, reorder or break what is read: bytes that are not UTF-8, controls (other
// than '\n'), line and paragraph separators, marks that turn the direction of text (a name must not be able to mirror
// the figure beside it), noncharacters. Each becomes one U+FFFD and is counted in *replaced. A tab becomes a blank.
std::string CleanText(absl::string_view text, size_t* replaced);

// The line of Rendering::warnings for them.
std::string ReplacedWarning(size_t replaced);

// Cells on a terminal: 2 for wide characters (Chinese, Japanese, Korean), 0 for combining marks. REQUIRES: clean.
size_t DisplayWidth(absl::string_view text);

}  // namespace gantry::document
