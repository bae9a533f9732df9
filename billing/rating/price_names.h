// What a price is for, as the API's messages have it, in the words of files and tables.
#pragma once

#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

const char* TokenClassName(v1::TokenClass token_class);  // "input", "cached_input", "output", "request", "unspecified"
const char* TierModeName(v1::TierMode mode);  // "flat" (also when unspecified), "graduated", "volume", "package"

}  // namespace gantry::billing
