// The decision as a document, for terminal, PDF and HTML alike, and as JSON.
#pragma once

#include <string>

#include "billing/document/document.h"
#include "billing/tco/model.h"

namespace gantry::tco {

document::Document ReportDocument(const Report& report);

// Integers with their unit in the name, amounts as decimal strings beside them, the verdict in words. Ends with a
// newline.
std::string ReportJson(const Report& report);

}  // namespace gantry::tco
