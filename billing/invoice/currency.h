// The smallest unit of a currency. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace gantry::billing {

// ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD.
int MinorDigits(const std::string& currency);

// Micro-units of one smallest unit: 10,000 with two digits. REQUIRES: minor_digits <= 6.
int64_t MicroPerMinor(uint32_t minor_digits);

}  // namespace gantry::billing
