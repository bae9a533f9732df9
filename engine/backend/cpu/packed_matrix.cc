#include "engine/backend/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "engine/format/quant_blocks.h"

namespace gantry::engine::cpu {
namespace {

// Bytes of one row's block in the file.
int64_t FileBlockBytes(PackedType type) {
  return PanelBlockBytes(type) / kPanelRows;
}

// Each function puts row r's file block `in` into its panel block `out`.

void PackBF16(const uint8_t* in, int r, uint8_t* out) {
  std::memcpy(out + 4 * r, in, 4);
}

void PackQ8_0(const uint8_t* in, int r, uint8_t* out) {
  for (int e = 0; e < 32; ++e) out[64 * (e / 4) + 4 * r + e % 4] = static_cast<uint8_t>(in[2 + e] + 128);
  std::memcpy(out + 512 + 2 * r, in, 2);
}

void PackQ4(const uint8_t* in, int r, bool minimum, uint8_t* out) {
  const uint8_t* nibbles = in + (minimum ? 4 : 2);
  for (int i = 0; i < 16; ++i) out[64 * (i / 4) + 4 * r + i % 4] = nibbles[i];
  std::memcpy(out + 256 + 2 * r, in, 2);
  if (minimum) std::memcpy(out + 288 + 2 * r, in + 2, 2);
}

void PackQ45K(const uint8_t* in, int r, bool fifth_bit, uint8_t* out) {
  const uint8_t* nibbles = in + (fifth_bit ? 48 : 16);
  const auto nibble = [nibbles](int e) { return nibbles[32 * (e / 64) + e % 32] >> (4 * (e / 32 % 2)) & 15; };
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 16; ++i) {
      out[256 * g + 64 * (i / 4) + 4 * r + i % 4] =
          static_cast<uint8_t>(nibble(32 * g + i) | nibble(32 * g + 16 + i) << 4);
    }
    if (!fifth_bit) continue;
    for (int k = 0; k < 4; ++k) {
      int bits = 0;
      for (int i = 0; i < 8; ++i) bits |= (in[16 + 4 * i + k] >> g & 1) << i;
      out[2048 + 64 * g + 4 * r + k] = static_cast<uint8_t>(bits);
    }
  }
  uint8_t* scales = out + (fifth_bit ? 2560 : 2048);
  for (int j = 0; j < 12; ++j) scales[16 * j + r] = in[4 + j];
  std::memcpy(scales + 192 + 2 * r, in, 2);
  std::memcpy(scales + 224 + 2 * r, in + 2, 2);
}

void PackQ6K(const uint8_t* in, int r, uint8_t* out) {
  const auto value = [in](int e) {
    const int n = e / 128, j = e % 128 / 32, l = e % 32;
    return (in[64 * n + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15) | (in[128 + 32 * n + l] >> (2 * j) & 3) << 4;
  };
  for (int c = 0; c < 4; ++c) {
    const auto element = [&](int vector, int k) { return value(64 * c + 4 * vector + k); };
    for (int i = 0; i < 8; ++i) {
      for (int k = 0; k < 4; ++k) {
        out[512 * c + 64 * i + 4 * r + k] = static_cast<uint8_t>((element(i, k) & 15) | (element(i + 8, k) & 15) << 4);
      }
    }
    for (int j = 0; j < 4; ++j) {
      for (int k = 0; k < 4; ++k) {
        int bits = 0;
        for (int t = 0; t < 4; ++t) bits |= (element(j + 4 * t, k) >> 4) << (2 * t);
        out[2048 + 256 * c + 64 * j + 4 * r + k] = static_cast<uint8_t>(bits);
      }
    }
  }
  for (int s = 0; s < 16; ++s) out[3072 + 16 * s + r] = in[192 + s];
  std::memcpy(out + 3328 + 2 * r, in + 208, 2);
}

void PackBlock(PackedType type, const uint8_t* in, int r, uint8_t* out) {
  switch (type) {
    case PackedType::kBF16:
      return PackBF16(in, r, out);
    case PackedType::kQ8_0:
      return PackQ8_0(in, r, out);
    case PackedType::kQ4_0:
    case PackedType::kQ4_1:
      return PackQ4(in, r, type == PackedType::kQ4_1, out);
    case PackedType::kQ4_K:
    case PackedType::kQ5_K:
      return PackQ45K(in, r, type == PackedType::kQ5_K, out);
    case PackedType::kQ6_K:
      return PackQ6K(in, r, out);
  }
}

// The ways back: row r of panel block `in` becomes the file's block `out`.

void UnpackQ8_0(const uint8_t* in, int r, uint8_t* out) {
  for (int e = 0; e < 32; ++e) out[2 + e] = static_cast<uint8_t>(in[64 * (e / 4) + 4 * r + e % 4] - 128);
  std::memcpy(out, in + 512 + 2 * r, 2);
}

void UnpackQ4(const uint8_t* in, int r, bool minimum, uint8_t* out) {
  uint8_t* nibbles = out + (minimum ? 4 : 2);
  for (int i = 0; i < 16; ++i) nibbles[i] = in[64 * (i / 4) + 4 * r + i % 4];
  std::memcpy(out, in + 256 + 2 * r, 2);
  if (minimum) std::memcpy(out + 2, in + 288 + 2 * r, 2);
}

void UnpackQ45K(const uint8_t* in, int r, bool fifth_bit, uint8_t* out) {
  uint8_t* nibbles = out + (fifth_bit ? 48 : 16);
  const auto nibble = [in, r](int e) {
    const int i = e % 16;
    return in[256 * (e / 32) + 64 * (i / 4) + 4 * r + i % 4] >> (4 * (e / 16 % 2)) & 15;
  };
  for (int i = 0; i < 128; ++i) {
    const int e = 64 * (i / 32) + i % 32;
    nibbles[i] = static_cast<uint8_t>(nibble(e) | nibble(e + 32) << 4);
  }
  if (fifth_bit) {
    for (int i = 0; i < 32; ++i) {
      int bits = 0;
      for (int g = 0; g < 8; ++g) bits |= (in[2048 + 64 * g + 4 * r + i % 4] >> (i / 4) & 1) << g;
      out[16 + i] = static_cast<uint8_t>(bits);
    }
  }
  const uint8_t* scales = in + (fifth_bit ? 2560 : 2048);
  for (int j = 0; j < 12; ++j) out[4 + j] = scales[16 * j + r];
  std::memcpy(out, scales + 192 + 2 * r, 2);
  std::memcpy(out + 2, scales + 224 + 2 * r, 2);
}

void UnpackQ6K(const uint8_t* in, int r, uint8_t* out) {
  const auto value = [in, r](int e) {
    const int c = e / 64, vector = e % 64 / 4, k = e % 4;
    const int low = in[512 * c + 64 * (vector % 8) + 4 * r + k] >> (4 * (vector / 8)) & 15;
    const int high = in[2048 + 256 * c + 64 * (vector % 4) + 4 * r + k] >> (2 * (vector / 4)) & 3;
    return low | high << 4;
  };
  for (int n = 0; n < 2; ++n) {
    for (int l = 0; l < 32; ++l) {
      int quarters[4], high = 0;
      for (int j = 0; j < 4; ++j) {
        quarters[j] = value(128 * n + 32 * j + l);
        high |= (quarters[j] >> 4) << (2 * j);
      }
      out[64 * n + l] = static_cast<uint8_t>((quarters[0] & 15) | (quarters[2] & 15) << 4);
      out[64 * n + 32 + l] = static_cast<uint8_t>((quarters[1] & 15) | (quarters[3] & 15) << 4);
      out[128 + 32 * n + l] = static_cast<uint8_t>(high);
    }
  }
  for (int s = 0; s < 16; ++s) out[192 + s] = in[3072 + 16 * s + r];
  std::memcpy(out + 208, in + 3328 + 2 * r, 2);
}

// Returns the type of the file's block.
DType UnpackBlock(PackedType type, const uint8_t* in, int r, uint8_t* out) {
  switch (type) {
    case PackedType::kBF16:
      std::memcpy(out, in + 4 * r, 4);
      return DType::kBF16;
    case PackedType::kQ8_0:
      UnpackQ8_0(in, r, out);
      return DType::kQ8_0;
    case PackedType::kQ4_0:
      UnpackQ4(in, r, /*minimum=*/false, out);
      return DType::kQ4_0;
    case PackedType::kQ4_1:
      UnpackQ4(in, r, /*minimum=*/true, out);
      return DType::kQ4_1;
    case PackedType::kQ4_K:
      UnpackQ45K(in, r, /*fifth_bit=*/false, out);
      return DType::kQ4_K;
    case PackedType::kQ5_K:
      UnpackQ45K(in, r, /*fifth_bit=*/true, out);
      return DType::kQ5_K;
    case PackedType::kQ6_K:
      UnpackQ6K(in, r, out);
      return DType::kQ6_K;
  }
  __builtin_unreachable();
}

}  // namespace

int64_t PackedBytes(PackedType type, int64_t rows, int64_t columns) {
  return (rows + kPanelRows - 1) / kPanelRows * (columns / BlockElements(type)) * PanelBlockBytes(type);
}

void PackPanels(PackedType type, const uint8_t* rows_of_blocks, int64_t rows, int64_t columns, int64_t begin,
                int64_t end, uint8_t* out) {
  const int64_t blocks = columns / BlockElements(type), file_block = FileBlockBytes(type);
  const int64_t panel_block = PanelBlockBytes(type);
  for (int64_t p = begin; p < end; ++p) {
    uint8_t* panel = out + p * blocks * panel_block;
    const int64_t first = p * kPanelRows, count = std::min<int64_t>(kPanelRows, rows - first);
    // A row that is not there is all zeros, scales included, and gives zero.
    if (count < kPanelRows) std::memset(panel, 0, static_cast<size_t>(blocks * panel_block));
    for (int64_t b = 0; b < blocks; ++b) {
      for (int r = 0; r < count; ++r) {
        PackBlock(type, rows_of_blocks + ((first + r) * blocks + b) * file_block, r, panel + b * panel_block);
      }
    }
  }
}

void UnpackRow(const PackedView& packed, int64_t row, float* out) {
  constexpr int kFileBlockBytesMax = 210;
  const int elements = BlockElements(packed.type), r = static_cast<int>(row % kPanelRows);
  const uint8_t* block = packed.panel(row / kPanelRows);
  for (int64_t b = 0; b < packed.blocks(); ++b) {
    uint8_t file_block[kFileBlockBytesMax];
    const DType type = UnpackBlock(packed.type, block, r, file_block);
    DecodeRow(type, file_block, elements, out + b * elements);
    block += PanelBlockBytes(packed.type);
  }
}

}  // namespace gantry::engine::cpu
