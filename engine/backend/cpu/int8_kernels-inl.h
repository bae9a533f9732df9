// The int8 products over abstract vectors. Included once by each instruction set's file, which defines before:
//
//   kTilePanels, kTileRows        a register tile: panels of weights times activation rows
//   Bytes                         64 bytes: 4 elements of each of 16 rows
//     Load(p), And(mask), Or(other), ShiftRight<bits>() (within bytes; upper bits are the neighbour's: mask them),
//     ShiftLeft<bits>() (likewise), Store(p)
//   Ints                          16 int32, one per row
//     Set(int), Add, Mul, FromBytes(p) (16 u8), FromSignedBytes(p) (16 s8), ToFloats()
//     Pairs(p, q): 16 u8 each as int16, p's in the lower half of a lane, q's in the upper
//     Dot<kWide>(acc, Bytes w, Quad x): acc + sum of w[r][i] * x[i]; w is unsigned, <= 63 unless kWide
//     DotPairs(acc, Ints pairs, const int16_t* x2): acc + p x2[0] + q x2[1]
//   Quad                          4 activations for all rows: Load(const int8_t*)
//   Floats                        16 float
//     Zero(), FromHalf(p), Set(float), Mul, Fma(a, b, c) = a * b + c, Store(p, rows)
//   LargestBits(x, n)             max of the bits of |x|, n a multiple of 16
//   Quantize16(x, inverse, q)     q = nearest even of x * inverse, 16 of them; returns their sum
//
// Only static functions and C headers here, as in kernels-inl.h.
//
// A tile of kTilePanels x kTileRows keeps all its integer and float sums in registers, and has enough of them that the
// latency of a dot product is hidden. Weights are unpacked vector by vector as the tile consumes them.

// How far ahead of the tile that meets them first weights are asked for, in each of its panels: a page or so, as the
// hardware's own prefetch stops at its end.
static constexpr int kPrefetchAhead = 4096;

// What is read from memory: panels up to `end`, then what lies at `next`.
struct Stream {
  const uint8_t* end;
  const uint8_t* next;
};

// The blocks that a tile of P panels, panel_bytes apart, will reach kPrefetchAhead bytes after those at w.
template <int kBytes, int P>
struct BlocksAhead {
  const uint8_t* block[P];
  // `left` bytes are to come in each panel. Behind its end lies the next panel, which the tile reads too: its
  // successor's lies further. A tile without a stream finds its panels in the caches and asks for nothing.
  inline BlocksAhead(const Stream* stream, const uint8_t* w, int64_t panel_bytes, int64_t left) {
    w += kPrefetchAhead + (left <= kPrefetchAhead ? (P - 1) * panel_bytes : 0);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p, w += panel_bytes) {
      block[p] = stream == nullptr ? nullptr : w < stream->end ? w : stream->next + (w - stream->end);
    }
  }
  // Asks for part `part` of the `parts` that each block is divided into: too many requests at once wait for each other.
  // Into the second-level cache: hints that pass it by halve the speed of some processors
  // (docs/decisions/0006-prefetch-hint.md). Always inlined, as calls that only prefetch count as no work.
  inline __attribute__((always_inline)) void Ask(int part, int parts) const {
    if (block[0] == nullptr) return;
    constexpr int kLines = (kBytes + 63) / 64;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const int stop = kLines * (part + 1) / parts;
      for (int line = kLines * part / parts; line < stop; ++line) __builtin_prefetch(block[p] + 64 * line, 0, 2);
    }
  }
};

// ---- block types: 32 elements, one scale ----

struct LayoutQ8_0 {  // stored + 128
  static constexpr bool kWide = true, kMin = false;
  static constexpr int kScaleAt = 512, kBlockBytes = 544;
  static inline Bytes Vector(const uint8_t* p, int g) { return Bytes::Load(p + 64 * g); }
  static inline Ints Offset(const ActivationBlock32& x) { return Ints::Set(x.minus_sum_by_128); }
};
// Low nibbles are vectors 0-3, high nibbles 4-7.
static inline Bytes Nibbles(const uint8_t* p, int low) {
  const Bytes both = Bytes::Load(p);
  return low ? both.And(0x0f) : both.template ShiftRight<4>().And(0x0f);
}
struct LayoutQ4_0 {
  static constexpr bool kWide = false, kMin = false;
  static constexpr int kScaleAt = 256, kBlockBytes = 288;
  static inline Bytes Vector(const uint8_t* p, int g) { return Nibbles(p + 64 * (g % 4), g < 4); }
  static inline Ints Offset(const ActivationBlock32& x) { return Ints::Set(x.minus_sum_by_8); }
};
struct LayoutQ4_1 {
  static constexpr bool kWide = false, kMin = true;
  static constexpr int kScaleAt = 256, kBlockBytes = 320;
  static inline Bytes Vector(const uint8_t* p, int g) { return Nibbles(p + 64 * (g % 4), g < 4); }
  static inline Ints Offset(const ActivationBlock32&) { return Ints::Set(0); }
};

// P panels that lie panel_bytes apart times X activation rows; rows of the last panel that exist: `rows`.
template <typename Layout, int P, int X>
static void BlockTile(const uint8_t* w, int64_t panel_bytes, int64_t blocks, const Stream* stream,
                      const ActivationRow* rows_of_x, float* const* y, int64_t row, int rows) {
  const ActivationBlock32* x[X];
  for (int n = 0; n < X; ++n) x[n] = (const ActivationBlock32*)rows_of_x[n].data;
  Floats sum[P][X];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n] = Floats::Zero();
  }
  for (int64_t b = 0; b < blocks; ++b, w += Layout::kBlockBytes) {
    const BlocksAhead<Layout::kBlockBytes, P> ahead(stream, w, panel_bytes, (blocks - b) * Layout::kBlockBytes);
    Ints acc[P][X];
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[p][n] = Layout::Offset(x[n][b]);
    }
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
      ahead.Ask(g, 8);
      Bytes v[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) v[p] = Layout::Vector(w + p * panel_bytes, g);
#pragma GCC unroll 8
      for (int n = 0; n < X; ++n) {
        const Quad four = Quad::Load(x[n][b].q + 4 * g);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) acc[p][n] = Ints::Dot<Layout::kWide>(acc[p][n], v[p], four);
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Floats d = Floats::FromHalf(w + p * panel_bytes + Layout::kScaleAt);
#pragma GCC unroll 8
      for (int n = 0; n < X; ++n) {
        sum[p][n] = Floats::Fma(acc[p][n].ToFloats(), Floats::Mul(d, Floats::Set(x[n][b].scale)), sum[p][n]);
      }
      if (Layout::kMin) {
        const Floats m = Floats::FromHalf(w + p * panel_bytes + Layout::kScaleAt + 32);
#pragma GCC unroll 8
        for (int n = 0; n < X; ++n) sum[p][n] = Floats::Fma(m, Floats::Set(x[n][b].scaled_sum), sum[p][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n].Store(y[n] + row + 16 * p, p + 1 < P ? 16 : rows);
  }
}

// ---- super-block types: 256 elements, scales of 32 or 16 of them ----

// Every super-block layout has kGroups groups of kVectors vectors, each group with its scale:
//   Vector<i>(p, g): vector i of group g;  Scale(p, scales, g), where scales has been filled by UnpackScales.

// The 6-bit scales and minima of Q4_K and Q5_K: 12 bytes of each row, byte j of 16 rows at p + 16 j.
static inline void UnpackScales45(const uint8_t* p, uint8_t* scales, uint8_t* minima) {
  const Bytes a = Bytes::Load(p), b = Bytes::Load(p + 64), c = Bytes::Load(p + 128);
  a.And(63).Store(scales);
  b.And(63).Store(minima);
  c.And(15).Or(a.template ShiftRight<2>().And(0x30)).Store(scales + 64);
  c.template ShiftRight<4>().And(15).Or(b.template ShiftRight<2>().And(0x30)).Store(minima + 64);
}

// Q4_K: [qs 2048][scales 192][d 32][dmin 32]; Q5_K: [qs 2048][qh 512][scales 192][d 32][dmin 32]. Group g of 32
// elements has its nibbles in the four vectors at 256 g, its fifth bits in the vector at 2048 + 64 g, bit i for vector
// i.
template <bool kFifthBit>
struct LayoutQ45K {
  static constexpr bool kMin = true;
  static constexpr int kGroups = 8, kVectors = 8;
  static constexpr int kScalesAt = kFifthBit ? 2560 : 2048;
  static constexpr int kHalvesAt = kScalesAt + 192;
  static constexpr int kBlockBytes = kHalvesAt + 64;
  template <int i>
  static inline Bytes Vector(const uint8_t* p, int g) {
    const Bytes low = Nibbles(p + 256 * g + 64 * (i % 4), i < 4);
    if (!kFifthBit) return low;
    const Bytes high = Bytes::Load(p + 2048 + 64 * g);
    constexpr int kLeft = i < 4 ? 4 - i : 0, kRight = i > 4 ? i - 4 : 0;
    return low.Or(high.template ShiftLeft<kLeft>().template ShiftRight<kRight>().And(0x10));
  }
  static inline Ints Offset(const ActivationBlock256&, int) { return Ints::Set(0); }
  static inline Ints Scale(const uint8_t*, const uint8_t* scales, int g) { return Ints::FromBytes(scales + 16 * g); }
};

// Q6_K: [ql 2048][qh 1024][scales 256][d 32]. Chunk c of 64 elements is 16 vectors: nibbles of vectors i and i + 8 in
// the vector at 512 c + 64 i, upper two bits of vectors j, j + 4, j + 8, j + 12 in the vector at 2048 + 256 c + 64 j.
// Group g is a quarter of chunk g / 4.
struct LayoutQ6K {
  static constexpr bool kMin = false;
  static constexpr int kGroups = 16, kVectors = 4;
  static constexpr int kScalesAt = 3072, kHalvesAt = 3328, kBlockBytes = 3360;
  template <int i>
  static inline Bytes Vector(const uint8_t* p, int g) {
    const int c = g / 4, quarter = g % 4;
    const Bytes low = Nibbles(p + 512 * c + 64 * (4 * (quarter % 2) + i), quarter < 2);
    const Bytes high = Bytes::Load(p + 2048 + 256 * c + 64 * i);
    switch (quarter) {
      case 0:
        return low.Or(high.template ShiftLeft<4>().And(0x30));
      case 1:
        return low.Or(high.template ShiftLeft<2>().And(0x30));
      case 2:
        return low.Or(high.And(0x30));
      default:
        return low.Or(high.template ShiftRight<2>().And(0x30));
    }
  }
  static inline Ints Offset(const ActivationBlock256& x, int g) { return Ints::Set(x.minus_sum16_by_32[g]); }
  static inline Ints Scale(const uint8_t* p, const uint8_t*, int g) {
    return Ints::FromSignedBytes(p + kScalesAt + 16 * g);
  }
};

template <typename Layout, int i, int P, int X>
static inline void SuperVectors(const uint8_t* w, int64_t panel_bytes, const ActivationBlock256* const* x, int64_t b,
                                int g, Ints (*acc)[X]) {
  if constexpr (i < Layout::kVectors) {
    Bytes v[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) v[p] = Layout::template Vector<i>(w + p * panel_bytes, g);
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) {
      const Quad four = Quad::Load(x[n][b].q + 4 * (Layout::kVectors * g + i));
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[p][n] = Ints::Dot<false>(acc[p][n], v[p], four);
    }
    SuperVectors<Layout, i + 1, P, X>(w, panel_bytes, x, b, g, acc);
  }
}

template <typename Layout, int P, int X>
static void SuperTile(const uint8_t* w, int64_t panel_bytes, int64_t blocks, const Stream* stream,
                      const ActivationRow* rows_of_x, float* const* y, int64_t row, int rows) {
  const ActivationBlock256* x[X];
  for (int n = 0; n < X; ++n) x[n] = (const ActivationBlock256*)rows_of_x[n].data;
  Floats sum[P][X];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n] = Floats::Zero();
  }
  for (int64_t b = 0; b < blocks; ++b, w += Layout::kBlockBytes) {
    const BlocksAhead<Layout::kBlockBytes, P> ahead(stream, w, panel_bytes, (blocks - b) * Layout::kBlockBytes);
    uint8_t scales[P][128], minima[P][128];
    Ints products[P][X];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (Layout::kMin) UnpackScales45(w + p * panel_bytes + Layout::kScalesAt, scales[p], minima[p]);
#pragma GCC unroll 8
      for (int n = 0; n < X; ++n) products[p][n] = Ints::Set(0);
    }
#pragma GCC unroll 4
    for (int g = 0; g < Layout::kGroups; ++g) {
      ahead.Ask(g, Layout::kGroups);
      Ints acc[P][X];
#pragma GCC unroll 8
      for (int n = 0; n < X; ++n) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) acc[p][n] = Layout::Offset(x[n][b], g);
      }
      SuperVectors<Layout, 0, P, X>(w, panel_bytes, x, b, g, acc);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const Ints scale = Layout::Scale(w + p * panel_bytes, scales[p], g);
#pragma GCC unroll 8
        for (int n = 0; n < X; ++n) products[p][n] = Ints::Add(products[p][n], Ints::Mul(acc[p][n], scale));
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Floats d = Floats::FromHalf(w + p * panel_bytes + Layout::kHalvesAt);
#pragma GCC unroll 8
      for (int n = 0; n < X; ++n) {
        sum[p][n] = Floats::Fma(products[p][n].ToFloats(), Floats::Mul(d, Floats::Set(x[n][b].scale)), sum[p][n]);
      }
      if (Layout::kMin) {
        const Floats dmin = Floats::FromHalf(w + p * panel_bytes + Layout::kHalvesAt + 32);
        Ints offsets[X];
#pragma GCC unroll 8
        for (int n = 0; n < X; ++n) offsets[n] = Ints::Set(0);
#pragma GCC unroll 4
        for (int g = 0; g < 8; g += 2) {
          const Ints pairs = Ints::Pairs(minima[p] + 16 * g, minima[p] + 16 * (g + 1));
#pragma GCC unroll 8
          for (int n = 0; n < X; ++n) offsets[n] = Ints::DotPairs(offsets[n], pairs, x[n][b].minus_sum32 + g);
        }
#pragma GCC unroll 8
        for (int n = 0; n < X; ++n) {
          sum[p][n] = Floats::Fma(offsets[n].ToFloats(), Floats::Mul(dmin, Floats::Set(x[n][b].scale)), sum[p][n]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n].Store(y[n] + row + 16 * p, p + 1 < P ? 16 : rows);
  }
}

// ---- every type, any number of activation rows ----

template <int P, int X>
static inline void Tile(const PackedView& w, int64_t panel, const Stream* stream, const ActivationRow* x,
                        float* const* y) {
  const int64_t blocks = w.blocks(), panel_bytes = blocks * PanelBlockBytes(w.type);
  const uint8_t* data = w.panel(panel);
  const int64_t row = panel * kPanelRows, left = w.rows - row - (P - 1) * kPanelRows;
  const int rows = left < kPanelRows ? (int)left : kPanelRows;
  switch (w.type) {
    case PackedType::kBF16:  // bf16_kernels.h
      return;
    case PackedType::kQ8_0:
      return BlockTile<LayoutQ8_0, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
    case PackedType::kQ4_0:
      return BlockTile<LayoutQ4_0, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
    case PackedType::kQ4_1:
      return BlockTile<LayoutQ4_1, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
    case PackedType::kQ4_K:
      return SuperTile<LayoutQ45K<false>, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
    case PackedType::kQ5_K:
      return SuperTile<LayoutQ45K<true>, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
    case PackedType::kQ6_K:
      return SuperTile<LayoutQ6K, P, X>(data, panel_bytes, blocks, stream, x, y, row, rows);
  }
}

// `left` of the activation rows in the tile of at most X.
template <int P, int X>
static inline void TileOfUpTo(int left, const PackedView& w, int64_t panel, const Stream* stream,
                              const ActivationRow* x, float* const* y) {
  if constexpr (X > 1) {
    if (left < X) return TileOfUpTo<P, X - 1>(left, w, panel, stream, x, y);
  }
  Tile<P, X>(w, panel, stream, x, y);
}

static void Int8MatMul(const PackedView& w, int64_t begin, int64_t end, const ActivationRow* x, int count,
                       float* const* y, const uint8_t* next) {
  const uint8_t* stream_end = w.panel(end);
  const Stream stream{stream_end, next != nullptr ? next : stream_end};
  // Activation rows that stay in the second-level cache while the panels pass.
  constexpr int64_t kRowsBytes = 256 << 10;
  int64_t chunk = kRowsBytes / ActivationBytes(FormOf(w.type), w.columns) / kTileRows * kTileRows;
  if (chunk < kTileRows) chunk = kTileRows;
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t stop = first + chunk < count ? first + chunk : count;
    int64_t p = begin;
    // A lone row takes one panel after the other, which is one stream from memory.
    if (count > 1) {
      for (; p + kTilePanels <= end; p += kTilePanels) {
        for (int64_t i = first; i < stop; i += kTileRows) {
          TileOfUpTo<kTilePanels, kTileRows>((int)(stop - i), w, p, i == 0 ? &stream : nullptr, x + i, y + i);
        }
      }
    }
    for (; p < end; ++p) {
      for (int64_t i = first; i < stop; i += kTileRows)
        TileOfUpTo<1, kTileRows>((int)(stop - i), w, p, i == 0 ? &stream : nullptr, x + i, y + i);
    }
  }
}

// q = round to nearest even of x * (127 / max |x|). The same arithmetic, element by element, on every path.
static inline void QuantizeBlock(const float* x, int block, int8_t* q, float* scale, int* sum16) {
  const uint32_t largest = LargestBits(x, block);
  float magnitude;
  memcpy(&magnitude, &largest, sizeof(magnitude));
  if (largest >= 0x7f800000u) {
    *scale = NAN;
    memset(q, 0, block);
    for (int i = 0; i < block / 16; ++i) sum16[i] = 0;
    return;
  }
  const float inverse = magnitude > 0 ? 127.0f / magnitude : 0.0f;
  *scale = magnitude / 127.0f;
  for (int i = 0; i < block / 16; ++i) sum16[i] = Quantize16(x + 16 * i, inverse, q + 16 * i);
}

// To the 11 significant bits of a float16, ties to even, over the range of a float32: what files of these block types
// keep their own scales in. NaN stays NaN.
static inline float RoundToHalf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x0fffu + (bits >> 13 & 1)) & ~0x1fffu;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static void Quantize(const float* x, int64_t columns, int block, void* blocks) {
  int sum16[16];
  if (block == 32) {
    ActivationBlock32* out = (ActivationBlock32*)blocks;
    for (int64_t b = 0; b < columns / 32; ++b) {
      QuantizeBlock(x + 32 * b, 32, out[b].q, &out[b].scale, sum16);
      const int sum = sum16[0] + sum16[1];
      out[b].scaled_sum = RoundToHalf(out[b].scale * (float)sum);
      out[b].scale = RoundToHalf(out[b].scale);
      out[b].minus_sum_by_8 = -8 * sum;
      out[b].minus_sum_by_128 = -128 * sum;
    }
    return;
  }
  ActivationBlock256* out = (ActivationBlock256*)blocks;
  for (int64_t b = 0; b < columns / 256; ++b) {
    QuantizeBlock(x + 256 * b, 256, out[b].q, &out[b].scale, sum16);
    for (int i = 0; i < 16; ++i) out[b].minus_sum16_by_32[i] = -32 * sum16[i];
    for (int i = 0; i < 8; ++i) out[b].minus_sum32[i] = (int16_t) - (sum16[2 * i] + sum16[2 * i + 1]);
  }
}
