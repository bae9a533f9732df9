// Keys and values of one attention layer, in pages of 64 positions.
//
// Layout: page after page, in it KV head after KV head, each one record of
//   keys    [4][head_dim][16]       16 positions side by side: a query's element meets 16 keys in one vector
//   values  [64][padded head_dim]   padding stays zero
//   scales  [64] of keys, [64] of values, int8 only
// so what one KV head's queries read of a page is one stretch of memory, read once for all of them.
//
// Numerics: F16 is rounded to nearest even when written, and beyond 65504 infinite (the row then fails its finite
// check); int8 is q = nearest even of x * (127 / max |x|), scale = max |x| / 127 for each position and KV head, NaN
// where x is not finite. Reading widens exactly; scores are multiplied by the key's scale, weights by the value's.
#pragma once

#include <cstdint>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/kernels.h"

namespace gantry::engine::cpu {

inline constexpr KvFormat FormatOf(KvType type) {
  return type == KvType::kF32 ? KvFormat::kF32 : type == KvType::kF16 ? KvFormat::kF16 : KvFormat::kInt8;
}

class KvCache {
 public:
  static int64_t PageBytes(KvFormat format, int kv_heads, int head_dim) {
    return kv_heads * HeadBytes(format, head_dim);
  }

  // `memory`: pages * PageBytes, zeroed, aligned to 64 bytes; the caller's.
  KvCache(KvFormat format, int kv_heads, int head_dim, uint8_t* memory)
      : format_(format),
        kv_heads_(kv_heads),
        head_dim_(head_dim),
        head_bytes_(HeadBytes(format, head_dim)),
        memory_(memory) {}

  KvHeadPage At(KvPage page, int kv_head) const {
    uint8_t* base = memory_ + (int64_t{page} * kv_heads_ + kv_head) * head_bytes_;
    uint8_t* values = base + KeyBytes(format_, head_dim_);
    auto* scales = reinterpret_cast<float*>(values + ValueBytes(format_, head_dim_));
    return {format_, head_dim_, base, values, scales, scales + kKvPageTokens};
  }
  uint8_t* page(KvPage page) const { return memory_ + int64_t{page} * kv_heads_ * head_bytes_; }
  int64_t page_bytes() const { return kv_heads_ * head_bytes_; }

 private:
  static int64_t ElementBytes(KvFormat format) {
    return format == KvFormat::kF32 ? 4 : format == KvFormat::kF16 ? 2 : 1;
  }
  static int64_t KeyBytes(KvFormat format, int head_dim) { return ElementBytes(format) * kKvPageTokens * head_dim; }
  static int64_t ValueBytes(KvFormat format, int head_dim) {
    return ElementBytes(format) * kKvPageTokens * PaddedTo16(head_dim);
  }
  static int64_t HeadBytes(KvFormat format, int head_dim) {
    const int64_t scales = format == KvFormat::kInt8 ? 2 * kKvPageTokens * int64_t{sizeof(float)} : 0;
    return KeyBytes(format, head_dim) + ValueBytes(format, head_dim) + scales;
  }

  KvFormat format_;
  int kv_heads_, head_dim_;
  int64_t head_bytes_;
  uint8_t* memory_;
};

}  // namespace gantry::engine::cpu
