#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/base/check.h"
#include "engine/format/quant_blocks.h"

namespace gantry::engine {
namespace {

void PutU16(uint8_t* b, uint16_t value) {
  std::memcpy(b, &value, sizeof(value));
}

// Stores `value` as float16 and returns what a reader will see: levels are rounded against that, not against `value`.
float PutF16(uint8_t* b, float value) {
  const uint16_t bits = FloatToF16(value);
  PutU16(b, bits);
  return F16ToFloat(bits);
}

// The level nearest to x / step, within [low, high]; `step` 0 means that nothing but zero can be stored.
int Level(float x, float step, int low, int high) {
  if (step == 0) return std::clamp(0, low, high);
  // The clamp comes first: far outside of [low, high] the quotient may not fit an int.
  return static_cast<int>(
      std::lround(std::clamp(x / step, static_cast<float>(low) - 0.25f, static_cast<float>(high) + 0.25f)));
}

// The element of largest magnitude, with its sign.
float Extreme(const float* x, int n) {
  return *std::max_element(x, x + n, [](float a, float b) { return std::abs(a) < std::abs(b); });
}

void PutNibble(uint8_t* byte, int high, int value) {
  *byte |= static_cast<uint8_t>(value << (4 * high));
}

// Symmetric types put the extreme element on the lowest level, which has no positive counterpart.
void EncodeQ4_0(const float* x, uint8_t* b) {
  const float d = PutF16(b, Extreme(x, 32) / -8);
  for (int j = 0; j < 32; ++j) PutNibble(&b[2 + j % 16], j / 16, Level(x[j], d, -8, 7) + 8);
}

void EncodeQ4_1(const float* x, uint8_t* b) {
  const auto [min, max] = std::minmax_element(x, x + 32);
  const float d = PutF16(b, (*max - *min) / 15), m = PutF16(b + 2, *min);
  for (int j = 0; j < 32; ++j) PutNibble(&b[4 + j % 16], j / 16, Level(x[j] - m, d, 0, 15));
}

void EncodeQ5_0(const float* x, uint8_t* b) {
  const float d = PutF16(b, Extreme(x, 32) / -16);
  uint32_t high_bits = 0;
  for (int j = 0; j < 32; ++j) {
    const int q = Level(x[j], d, -16, 15) + 16;
    PutNibble(&b[6 + j % 16], j / 16, q & 15);
    high_bits |= static_cast<uint32_t>(q >> 4) << j;
  }
  std::memcpy(b + 2, &high_bits, sizeof(high_bits));
}

void EncodeQ8_0(const float* x, uint8_t* b) {
  const float d = PutF16(b, std::abs(Extreme(x, 32)) / 127);
  for (int j = 0; j < 32; ++j) b[2 + j] = static_cast<uint8_t>(Level(x[j], d, -127, 127));
}

// Scales and minima of Q4_K and Q5_K into their twelve bytes; the inverse of SixBitPair in quant_blocks.cc.
void PutSixBitPair(uint8_t* c, int g, int scale, int minimum) {
  if (g < 4) {
    c[g] |= static_cast<uint8_t>(scale);
    c[g + 4] |= static_cast<uint8_t>(minimum);
    return;
  }
  c[g + 4] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  c[g - 4] |= static_cast<uint8_t>((scale >> 4) << 6);
  c[g] |= static_cast<uint8_t>((minimum >> 4) << 6);
}

// The common head of Q4_K and Q5_K: returns the levels of all 256 elements, 0 to `level_max`.
std::array<uint8_t, 256> EncodeRuns(const float* x, int level_max, uint8_t* b) {
  float scale[8], minimum[8];
  for (int g = 0; g < 8; ++g) {
    const auto [low, high] = std::minmax_element(x + 32 * g, x + 32 * g + 32);
    minimum[g] = std::max(0.0f, -*low);  // values are scale * level - minimum, and minima are not negative
    scale[g] = (std::max(0.0f, *high) + minimum[g]) / static_cast<float>(level_max);
  }
  const float d = PutF16(b, *std::max_element(scale, scale + 8) / 63);
  const float d_min = PutF16(b + 2, *std::max_element(minimum, minimum + 8) / 63);
  std::array<uint8_t, 256> levels;
  for (int g = 0; g < 8; ++g) {
    const int s = Level(scale[g], d, 0, 63), m = Level(minimum[g], d_min, 0, 63);
    PutSixBitPair(b + 4, g, s, m);
    const float step = d * static_cast<float>(s), offset = d_min * static_cast<float>(m);
    for (int l = 0; l < 32; ++l) {
      levels[32 * g + l] = static_cast<uint8_t>(Level(x[32 * g + l] + offset, step, 0, level_max));
    }
  }
  return levels;
}

void EncodeQ4K(const float* x, uint8_t* b) {
  const std::array<uint8_t, 256> levels = EncodeRuns(x, 15, b);
  for (int e = 0; e < 256; ++e) PutNibble(&b[16 + 32 * (e / 64) + e % 32], e / 32 % 2, levels[e]);
}

void EncodeQ5K(const float* x, uint8_t* b) {
  const std::array<uint8_t, 256> levels = EncodeRuns(x, 31, b);
  for (int e = 0; e < 256; ++e) {
    PutNibble(&b[48 + 32 * (e / 64) + e % 32], e / 32 % 2, levels[e] & 15);
    b[16 + e % 32] |= static_cast<uint8_t>((levels[e] >> 4) << (e / 32));
  }
}

void EncodeQ6K(const float* x, uint8_t* b) {
  float scale[16];
  for (int s = 0; s < 16; ++s) scale[s] = Extreme(x + 16 * s, 16) / -32;
  const float d = PutF16(b + 208, std::abs(Extreme(scale, 16)) / 127);
  for (int e = 0; e < 256; ++e) {
    const int n = e / 128, j = e % 128 / 32, l = e % 32;
    const int s = Level(scale[e / 16], d, -127, 127);
    b[192 + e / 16] = static_cast<uint8_t>(s);
    const int q = Level(x[e], d * static_cast<float>(s), -32, 31) + 32;
    PutNibble(&b[64 * n + 32 * (j % 2) + l], j / 2, q & 15);
    b[128 + 32 * n + l] |= static_cast<uint8_t>((q >> 4) << (2 * j));
  }
}

// Each works on a zeroed block.
void (*BlockEncoder(DType type))(const float*, uint8_t*) {
  switch (type) {
    case DType::kQ4_0:
      return EncodeQ4_0;
    case DType::kQ4_1:
      return EncodeQ4_1;
    case DType::kQ5_0:
      return EncodeQ5_0;
    case DType::kQ8_0:
      return EncodeQ8_0;
    case DType::kQ4_K:
      return EncodeQ4K;
    case DType::kQ5_K:
      return EncodeQ5K;
    case DType::kQ6_K:
      return EncodeQ6K;
    default:
      return nullptr;
  }
}

bool IsPlain(DType type) {
  return InfoOf(type).block_elements == 1;
}

}  // namespace

bool CanEncode(DType type) {
  return IsPlain(type) || BlockEncoder(type) != nullptr;
}

void EncodeRow(DType type, const float* values, int64_t columns, void* row) {
  const DTypeInfo& info = InfoOf(type);
  GANTRY_CHECK(CanEncode(type) && columns % info.block_elements == 0,
               "rows are whole blocks of a type that is written");
  auto* bytes = static_cast<uint8_t*>(row);
  if (type == DType::kF32) {
    std::memcpy(bytes, values, columns * sizeof(float));
  } else if (IsPlain(type)) {
    for (int64_t i = 0; i < columns; ++i) {
      PutU16(bytes + 2 * i, type == DType::kF16 ? FloatToF16(values[i]) : FloatToBf16(values[i]));
    }
  } else {
    const auto encode = BlockEncoder(type);
    std::memset(bytes, 0, RowBytes(type, columns));
    for (int64_t i = 0; i < columns; i += info.block_elements, bytes += info.block_bytes) encode(values + i, bytes);
  }
}

}  // namespace gantry::engine
