// The int8 products over abstract vectors. Included once by each instruction set's file, which defines before:
//
//   kCountMax                     activation rows of one pass
//   Bytes                         64 bytes: 4 elements of each of 16 rows
//     Load(p), And(mask), Or(other), ShiftRight<bits>() (within bytes; upper bits are the neighbour's: mask them),
//     ShiftLeft<bits>() (likewise)
//   Ints                          16 int32, one per row
//     Set(int), Add, Mul, FromBytes(p) (16 u8), FromSignedBytes(p) (16 s8), ToFloats()
//     Dot<kWide>(acc, Bytes w, const int8_t* x4): acc + sum of w[r][i] * x4[i]; w is unsigned, <= 63 unless kWide
//   Floats                        16 float
//     Zero(), FromHalf(p), Set(float), Mul, Fma(a, b, c) = a * b + c, Store(p, rows)
//
// Only static functions and C headers here, as in kernels-inl.h.

// ---- block types: 32 elements, one scale ----

struct LayoutQ8_0 {
  static constexpr int kOffset = 128;  // stored + 128
  static constexpr bool kWide = true, kMin = false;
  static constexpr int kScaleAt = 512, kBlockBytes = 544;
  static inline void Unpack(const uint8_t* p, Bytes* w) {
    for (int g = 0; g < 8; ++g) w[g] = Bytes::Load(p + 64 * g);
  }
};
template <bool kHasMin>
struct LayoutQ4 {
  static constexpr int kOffset = kHasMin ? 0 : 8;
  static constexpr bool kWide = false, kMin = kHasMin;
  static constexpr int kScaleAt = 256, kBlockBytes = kHasMin ? 320 : 288;
  static inline void Unpack(const uint8_t* p, Bytes* w) {
    for (int g = 0; g < 4; ++g) {
      const Bytes both = Bytes::Load(p + 64 * g);
      w[g] = both.And(0x0f);
      w[g + 4] = both.template ShiftRight<4>().And(0x0f);
    }
  }
};

template <int N, typename Layout>
static inline void BlockPanel(const uint8_t* w, int64_t blocks, const QuantizedRow* x, float* const* y, int64_t row,
                              int rows) {
  Floats sum[N];
  for (int n = 0; n < N; ++n) sum[n] = Floats::Zero();
  for (int64_t b = 0; b < blocks; ++b, w += Layout::kBlockBytes) {
    Ints acc[N];
    int total[N];
    for (int n = 0; n < N; ++n) {
      total[n] = x[n].sum16[2 * b] + x[n].sum16[2 * b + 1];
      acc[n] = Ints::Set(-Layout::kOffset * total[n]);
    }
    Bytes v[8];
    Layout::Unpack(w, v);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[n] = Ints::Dot<Layout::kWide>(acc[n], v[g], x[n].q + 32 * b + 4 * g);
    }
    const Floats d = Floats::FromHalf(w + Layout::kScaleAt);
    for (int n = 0; n < N; ++n) {
      sum[n] = Floats::Fma(acc[n].ToFloats(), Floats::Mul(d, Floats::Set(x[n].scale[b])), sum[n]);
    }
    if (Layout::kMin) {
      const Floats m = Floats::FromHalf(w + Layout::kScaleAt + 32);
      for (int n = 0; n < N; ++n) {
        sum[n] = Floats::Fma(m, Floats::Set(x[n].scale[b] * (float)total[n]), sum[n]);
      }
    }
  }
  for (int n = 0; n < N; ++n) sum[n].Store(y[n] + row, rows);
}

// ---- super-block types: 256 elements, scales of 32 or 16 of them ----

// The 6-bit scales and minima of Q4_K and Q5_K: 12 bytes of each row, byte j of 16 rows at p + 16 j.
static inline void UnpackScales(const uint8_t* p, uint8_t* scales, uint8_t* minima) {
  for (int g = 0; g < 4; ++g) {
    for (int r = 0; r < 16; ++r) {
      const uint8_t a = p[16 * g + r], b = p[16 * (g + 4) + r], c = p[16 * (g + 8) + r];
      scales[16 * g + r] = a & 63;
      minima[16 * g + r] = b & 63;
      scales[16 * (g + 4) + r] = (uint8_t)((c & 15) | ((a >> 6) << 4));
      minima[16 * (g + 4) + r] = (uint8_t)((c >> 4) | ((b >> 6) << 4));
    }
  }
}

// Q4_K: [qs 2048][scales 192][d 32][dmin 32]; Q5_K: [qs 2048][qh 512][scales 192][d 32][dmin 32]. Group g of 32
// elements has its nibbles in the four vectors at 256 g, its fifth bits in the vector at 2048 + 64 g, bit i for vector
// i.
template <bool kFifthBit>
struct LayoutQ45K {
  static constexpr int kScalesAt = kFifthBit ? 2560 : 2048;
  static constexpr int kHalvesAt = kScalesAt + 192;
  static constexpr int kBlockBytes = kHalvesAt + 64;
  static inline void Unpack(const uint8_t* p, int g, Bytes* w) {
    for (int i = 0; i < 4; ++i) {
      const Bytes both = Bytes::Load(p + 256 * g + 64 * i);
      w[i] = both.And(0x0f);
      w[i + 4] = both.template ShiftRight<4>().And(0x0f);
    }
    if (kFifthBit) {
      const Bytes high = Bytes::Load(p + 2048 + 64 * g);
      w[0] = w[0].Or(high.template ShiftLeft<4>().And(0x10));
      w[1] = w[1].Or(high.template ShiftLeft<3>().And(0x10));
      w[2] = w[2].Or(high.template ShiftLeft<2>().And(0x10));
      w[3] = w[3].Or(high.template ShiftLeft<1>().And(0x10));
      w[4] = w[4].Or(high.And(0x10));
      w[5] = w[5].Or(high.template ShiftRight<1>().And(0x10));
      w[6] = w[6].Or(high.template ShiftRight<2>().And(0x10));
      w[7] = w[7].Or(high.template ShiftRight<3>().And(0x10));
    }
  }
};

template <int N, typename Layout>
static inline void SuperPanel45(const uint8_t* w, int64_t blocks, const QuantizedRow* x, float* const* y, int64_t row,
                                int rows) {
  Floats sum[N];
  for (int n = 0; n < N; ++n) sum[n] = Floats::Zero();
  for (int64_t b = 0; b < blocks; ++b, w += Layout::kBlockBytes) {
    uint8_t scales[128], minima[128];
    UnpackScales(w + Layout::kScalesAt, scales, minima);
    Ints products[N], offsets[N];
    for (int n = 0; n < N; ++n) products[n] = offsets[n] = Ints::Set(0);
    for (int g = 0; g < 8; ++g) {
      Bytes v[8];
      Layout::Unpack(w, g, v);
      Ints acc[N];
      for (int n = 0; n < N; ++n) acc[n] = Ints::Set(0);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) acc[n] = Ints::Dot<false>(acc[n], v[i], x[n].q + 256 * b + 32 * g + 4 * i);
      }
      const Ints scale = Ints::FromBytes(scales + 16 * g), minimum = Ints::FromBytes(minima + 16 * g);
      for (int n = 0; n < N; ++n) {
        const int16_t* s = x[n].sum16 + 16 * b + 2 * g;
        products[n] = Ints::Add(products[n], Ints::Mul(acc[n], scale));
        offsets[n] = Ints::Add(offsets[n], Ints::Mul(minimum, Ints::Set(-(s[0] + s[1]))));
      }
    }
    const Floats d = Floats::FromHalf(w + Layout::kHalvesAt), dmin = Floats::FromHalf(w + Layout::kHalvesAt + 32);
    for (int n = 0; n < N; ++n) {
      const Floats dx = Floats::Set(x[n].scale[b]);
      sum[n] = Floats::Fma(products[n].ToFloats(), Floats::Mul(d, dx), sum[n]);
      sum[n] = Floats::Fma(offsets[n].ToFloats(), Floats::Mul(dmin, dx), sum[n]);
    }
  }
  for (int n = 0; n < N; ++n) sum[n].Store(y[n] + row, rows);
}

// Q6_K: [ql 2048][qh 1024][scales 256][d 32]. Chunk c of 64 elements is 16 vectors: nibbles of vectors i and i + 8 in
// the vector at 512 c + 64 i, upper two bits of vectors j, j + 4, j + 8, j + 12 in the vector at 2048 + 256 c + 64 j.
struct LayoutQ6K {
  static constexpr int kScalesAt = 3072, kHalvesAt = 3328, kBlockBytes = 3360;
  static inline void Unpack(const uint8_t* p, int c, Bytes* w) {
    for (int i = 0; i < 8; ++i) {
      const Bytes both = Bytes::Load(p + 512 * c + 64 * i);
      w[i] = both.And(0x0f);
      w[i + 8] = both.template ShiftRight<4>().And(0x0f);
    }
    for (int j = 0; j < 4; ++j) {
      const Bytes high = Bytes::Load(p + 2048 + 256 * c + 64 * j);
      w[j] = w[j].Or(high.template ShiftLeft<4>().And(0x30));
      w[j + 4] = w[j + 4].Or(high.template ShiftLeft<2>().And(0x30));
      w[j + 8] = w[j + 8].Or(high.And(0x30));
      w[j + 12] = w[j + 12].Or(high.template ShiftRight<2>().And(0x30));
    }
  }
};

template <int N>
static inline void SuperPanel6(const uint8_t* w, int64_t blocks, const QuantizedRow* x, float* const* y, int64_t row,
                               int rows) {
  Floats sum[N];
  for (int n = 0; n < N; ++n) sum[n] = Floats::Zero();
  for (int64_t b = 0; b < blocks; ++b, w += LayoutQ6K::kBlockBytes) {
    Ints products[N];
    for (int n = 0; n < N; ++n) products[n] = Ints::Set(0);
    for (int c = 0; c < 4; ++c) {
      Bytes v[16];
      LayoutQ6K::Unpack(w, c, v);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        Ints acc[N];
        for (int n = 0; n < N; ++n) acc[n] = Ints::Set(-32 * x[n].sum16[16 * b + 4 * c + g]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) {
            acc[n] = Ints::Dot<false>(acc[n], v[4 * g + i], x[n].q + 256 * b + 64 * c + 16 * g + 4 * i);
          }
        }
        const Ints scale = Ints::FromSignedBytes(w + LayoutQ6K::kScalesAt + 16 * (4 * c + g));
        for (int n = 0; n < N; ++n) products[n] = Ints::Add(products[n], Ints::Mul(acc[n], scale));
      }
    }
    const Floats d = Floats::FromHalf(w + LayoutQ6K::kHalvesAt);
    for (int n = 0; n < N; ++n) {
      sum[n] = Floats::Fma(products[n].ToFloats(), Floats::Mul(d, Floats::Set(x[n].scale[b])), sum[n]);
    }
  }
  for (int n = 0; n < N; ++n) sum[n].Store(y[n] + row, rows);
}

// ---- every type, any number of activation rows ----

template <int N>
static inline void OnePanel(PackedType type, const uint8_t* w, int64_t blocks, const QuantizedRow* x, float* const* y,
                            int64_t row, int rows) {
  switch (type) {
    case PackedType::kQ8_0:
      return BlockPanel<N, LayoutQ8_0>(w, blocks, x, y, row, rows);
    case PackedType::kQ4_0:
      return BlockPanel<N, LayoutQ4<false>>(w, blocks, x, y, row, rows);
    case PackedType::kQ4_1:
      return BlockPanel<N, LayoutQ4<true>>(w, blocks, x, y, row, rows);
    case PackedType::kQ4_K:
      return SuperPanel45<N, LayoutQ45K<false>>(w, blocks, x, y, row, rows);
    case PackedType::kQ5_K:
      return SuperPanel45<N, LayoutQ45K<true>>(w, blocks, x, y, row, rows);
    case PackedType::kQ6_K:
      return SuperPanel6<N>(w, blocks, x, y, row, rows);
  }
}

template <int N>
static void PanelsOf(const PackedView& w, int64_t begin, int64_t end, const QuantizedRow* x, float* const* y) {
  const int64_t panel_bytes = w.blocks() * PanelBlockBytes(w.type);
  for (int64_t p = begin; p < end; ++p) {
    const int64_t row = p * kPanelRows, left = w.rows - row;
    OnePanel<N>(w.type, w.data + p * panel_bytes, w.blocks(), x, y, row, left < kPanelRows ? (int)left : kPanelRows);
  }
}

// All activation rows for one panel before the next: a panel stays in the first-level cache.
static void Int8MatMul(const PackedView& w, int64_t begin, int64_t end, const QuantizedRow* x, int count,
                       float* const* y) {
  for (int64_t p = begin; p < end; ++p) {
    int i = 0;
    for (; i + kCountMax <= count; i += kCountMax) PanelsOf<kCountMax>(w, p, p + 1, x + i, y + i);
    switch (count - i) {
      case 1:
        PanelsOf<1>(w, p, p + 1, x + i, y + i);
        break;
      case 2:
        PanelsOf<2>(w, p, p + 1, x + i, y + i);
        break;
      case 3:
        PanelsOf<3>(w, p, p + 1, x + i, y + i);
        break;
#if GANTRY_INT8_COUNT_MAX > 4
      case 4:
        PanelsOf<4>(w, p, p + 1, x + i, y + i);
        break;
      case 5:
        PanelsOf<5>(w, p, p + 1, x + i, y + i);
        break;
      case 6:
        PanelsOf<6>(w, p, p + 1, x + i, y + i);
        break;
      case 7:
        PanelsOf<7>(w, p, p + 1, x + i, y + i);
        break;
#endif
      default:
        break;
    }
  }
}

// q = round to nearest even of x * (127 / max |x|). The same arithmetic, element by element, on every path.
static void Quantize(const float* x, int64_t columns, int block, int8_t* q, float* scale, int16_t* sum16) {
  for (int64_t b = 0; b < columns / block; ++b) {
    const float* in = x + b * block;
    int8_t* out = q + b * block;
    uint32_t largest = 0;
    for (int i = 0; i < block; ++i) {
      uint32_t bits;
      memcpy(&bits, in + i, sizeof(bits));
      bits &= 0x7fffffffu;
      largest = bits > largest ? bits : largest;
    }
    float magnitude;
    memcpy(&magnitude, &largest, sizeof(magnitude));
    const int finite = largest < 0x7f800000u;
    const float inverse = finite && magnitude > 0 ? 127.0f / magnitude : 0.0f;
    scale[b] = finite ? magnitude / 127.0f : NAN;
    for (int i = 0; i < block; i += 16) {
      int sum = 0;
      for (int j = 0; j < 16; ++j) {
        // Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even, for |value| < 2^22.
        const float value = finite ? in[i + j] * inverse : 0.0f;
        const float rounded = (value + 12582912.0f) - 12582912.0f;
        const int integer = (int)rounded;
        out[i + j] = (int8_t)integer;
        sum += integer;
      }
      sum16[(b * block + i) / 16] = (int16_t)sum;
    }
  }
}
