// CRC-32C (Castagnoli): notices torn and damaged records. Not a defence against people.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace gantry {

uint32_t Crc32c(absl::string_view bytes);

}  // namespace gantry
