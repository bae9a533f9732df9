#pragma once

#include <cstdint>

namespace gantry::engine {

// Index into a model's vocabulary. Signed, because -1 says "none" in several places.
using TokenId = int32_t;

}  // namespace gantry::engine
