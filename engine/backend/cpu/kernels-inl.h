// The kernels over an abstract vector of 16 lanes. Included once by each instruction set's file, which defines Vec
// before. Only static functions and C headers here: an inline function of a C++ header compiled with wider instructions
// could be the copy that the linker keeps for everybody.
//
// Vec: Zero(), Load(const float*), LoadBf16(const uint16_t*), LoadTail(p, n), LoadBf16Tail(p, n), Broadcast(float),
// Fma(a, b, c) = a * b + c, Add, Sub, Mul, Div, Min, Max (the second operand where one is NaN), PowerOfTwo(),
// Store(float*), StoreTail(p, n), Reduce() in the order of the contract, ReduceMax(), LoadHalf(const uint16_t*),
// StoreHalf(uint16_t*), LoadInt8(const int8_t*). kQueryTile x kVectorTile sums of attention fit the registers.

#include <math.h>
#include <string.h>

static inline Vec LoadWeights(const float* p) {
  return Vec::Load(p);
}
static inline Vec LoadWeights(const uint16_t* p) {
  return Vec::LoadBf16(p);
}
// An element of F16 weights; BF16 is uint16_t.
struct Half {
  uint16_t bits;
};
static inline Vec LoadWeights(const Half* p) {
  return Vec::LoadHalf((const uint16_t*)p);
}
static inline Vec LoadWeightsTail(const Half* p, int64_t n) {
  uint16_t padded[16] = {};
  memcpy(padded, p, sizeof(uint16_t) * n);
  return Vec::LoadHalf(padded);
}
static inline Vec LoadWeightsTail(const float* p, int64_t n) {
  return Vec::LoadTail(p, n);
}
static inline Vec LoadWeightsTail(const uint16_t* p, int64_t n) {
  return Vec::LoadBf16Tail(p, n);
}

// W weight rows times X activation rows, every weight loaded once.
template <int W, int X, typename T>
static inline void MatMulTile(const T* w, int64_t columns, const float* const* x, float* const* y, int64_t row) {
  Vec acc[W][X];
  for (int i = 0; i < W; ++i) {
    for (int j = 0; j < X; ++j) acc[i][j] = Vec::Zero();
  }
  int64_t c = 0;
  for (; c + 16 <= columns; c += 16) {
    Vec weights[W];
    for (int i = 0; i < W; ++i) weights[i] = LoadWeights(w + i * columns + c);
    for (int j = 0; j < X; ++j) {
      const Vec value = Vec::Load(x[j] + c);
      for (int i = 0; i < W; ++i) acc[i][j] = Vec::Fma(weights[i], value, acc[i][j]);
    }
  }
  if (c < columns) {
    for (int i = 0; i < W; ++i) {
      const Vec weights = LoadWeightsTail(w + i * columns + c, columns - c);
      for (int j = 0; j < X; ++j) acc[i][j] = Vec::Fma(weights, Vec::Load(x[j] + c), acc[i][j]);
    }
  }
  for (int i = 0; i < W; ++i) {
    for (int j = 0; j < X; ++j) y[j][row + i] = acc[i][j].Reduce();
  }
}

template <int X, typename T>
static inline void MatMulColumns(const T* w, int64_t columns, int64_t begin, int64_t end, const float* const* x,
                                 float* const* y) {
  // Fewer activation rows leave registers for more weight rows: several independent chains hide the latency of the
  // adds.
  constexpr int kRows = X == 1 ? kTileRowsOne : kTileRows;
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) MatMulTile<kRows, X>(w + row * columns, columns, x, y, row);
  for (; row < end; ++row) MatMulTile<1, X>(w + row * columns, columns, x, y, row);
}

template <typename T>
static void MatMulOf(const T* w, int64_t columns, int64_t begin, int64_t end, const float* const* x, int count,
                     float* const* y) {
  int i = 0;
  for (; i + kTileColumns <= count; i += kTileColumns)
    MatMulColumns<kTileColumns>(w, columns, begin, end, x + i, y + i);
  for (; i < count; ++i) MatMulColumns<1>(w, columns, begin, end, x + i, y + i);
}

static void MatMul(const WeightView& w, int64_t begin, int64_t end, const float* const* x, int count, float* const* y) {
  switch (w.type) {
    case PlainType::kF32:
      return MatMulOf((const float*)w.data, w.columns, begin, end, x, count, y);
    case PlainType::kBF16:
      return MatMulOf((const uint16_t*)w.data, w.columns, begin, end, x, count, y);
    case PlainType::kF16:
      return MatMulOf((const Half*)w.data, w.columns, begin, end, x, count, y);
  }
}

static float Dot(const float* a, const float* b, int64_t n) {
  Vec acc = Vec::Zero();
  for (int64_t i = 0; i < n; i += 16) acc = Vec::Fma(Vec::Load(a + i), Vec::Load(b + i), acc);
  return acc.Reduce();
}

// ---- element by element ----

static inline Vec LoadUpTo16(const float* p, int64_t left) {
  return left >= 16 ? Vec::Load(p) : Vec::LoadTail(p, left);
}
static inline void StoreUpTo16(const Vec& v, float* p, int64_t left) {
  if (left >= 16) {
    v.Store(p);
  } else {
    v.StoreTail(p, left);
  }
}

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by a polynomial of degree 7 (Taylor's coefficients
// adjusted to the interval, as in Cephes). n is read off the bits of x / ln 2 + 1.5 * 2^23.
static inline Vec Exp(const Vec& input) {
  const Vec x = Vec::Min(Vec::Broadcast(88.37f), Vec::Max(Vec::Broadcast(-87.33f), input));
  const Vec shift = Vec::Broadcast(12582912.0f);
  const Vec t = Vec::Fma(x, Vec::Broadcast(1.44269504f), shift);
  const Vec n = Vec::Sub(t, shift);
  Vec r = Vec::Fma(n, Vec::Broadcast(-0.693359375f), x);
  r = Vec::Fma(n, Vec::Broadcast(2.12194440e-4f), r);
  Vec p = Vec::Broadcast(1.9875691500e-4f);
  p = Vec::Fma(p, r, Vec::Broadcast(1.3981999507e-3f));
  p = Vec::Fma(p, r, Vec::Broadcast(8.3334519073e-3f));
  p = Vec::Fma(p, r, Vec::Broadcast(4.1665795894e-2f));
  p = Vec::Fma(p, r, Vec::Broadcast(1.6666665459e-1f));
  p = Vec::Fma(p, r, Vec::Broadcast(5.0000001201e-1f));
  p = Vec::Fma(p, Vec::Mul(r, r), r);
  return Vec::Mul(Vec::Add(p, Vec::Broadcast(1.0f)), t.PowerOfTwo());
}
static inline Vec SigmoidOf(const Vec& x) {
  const Vec one = Vec::Broadcast(1.0f);
  return Vec::Div(one, Vec::Add(one, Exp(Vec::Sub(Vec::Zero(), x))));
}
static inline Vec SiluOf(const Vec& x) {
  return Vec::Div(x, Vec::Add(Vec::Broadcast(1.0f), Exp(Vec::Sub(Vec::Zero(), x))));
}

// 1 / sqrt(mean x^2 + eps), the squares summed by the contract.
static inline float InverseRms(const float* x, int64_t n, float eps) {
  Vec acc = Vec::Zero();
  for (int64_t i = 0; i < n; i += 16) {
    const Vec v = LoadUpTo16(x + i, n - i);
    acc = Vec::Fma(v, v, acc);
  }
  return 1.0f / sqrtf(acc.Reduce() / (float)n + eps);
}

static void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* y) {
  const Vec scale = Vec::Broadcast(InverseRms(x, n, eps));
  for (int64_t i = 0; i < n; i += 16) {
    StoreUpTo16(Vec::Mul(Vec::Mul(LoadUpTo16(x + i, n - i), scale), LoadUpTo16(weight + i, n - i)), y + i, n - i);
  }
}

static void AddNorm(float* x, const float* delta, const float* weight, int64_t n, float eps, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    StoreUpTo16(Vec::Add(LoadUpTo16(x + i, n - i), LoadUpTo16(delta + i, n - i)), x + i, n - i);
  }
  RmsNorm(x, weight, n, eps, y);
}

static void SiluMul(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    StoreUpTo16(Vec::Mul(SiluOf(LoadUpTo16(gate + i, n - i)), LoadUpTo16(up + i, n - i)), gate + i, n - i);
  }
}

static void ConvolveSilu(const float* const* inputs, int taps, const float* weights, int64_t stride, int64_t channels,
                         float* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    const int64_t left = channels - c;
    Vec sum = Vec::Zero();
    for (int j = 0; j < taps; ++j) {
      sum = Vec::Fma(LoadUpTo16(weights + j * stride + c, left), LoadUpTo16(inputs[j] + c, left), sum);
    }
    StoreUpTo16(SiluOf(sum), out + c, left);
  }
}

static void GatedNorm(const float* x, const float* gate, const float* weight, int64_t n, float eps, float* out) {
  const Vec scale = Vec::Broadcast(InverseRms(x, n, eps));
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t left = n - i;
    const Vec normed = Vec::Mul(LoadUpTo16(weight + i, left), Vec::Mul(LoadUpTo16(x + i, left), scale));
    StoreUpTo16(Vec::Mul(normed, SiluOf(LoadUpTo16(gate + i, left))), out + i, left);
  }
}

static void GateBySigmoid(float* out, float factor, const float* gate, int64_t n) {
  const Vec f = Vec::Broadcast(factor);
  for (int64_t i = 0; i < n; i += 16) {
    Vec v = Vec::Mul(LoadUpTo16(out + i, n - i), f);
    if (gate != nullptr) v = Vec::Mul(v, SigmoidOf(LoadUpTo16(gate + i, n - i)));
    StoreUpTo16(v, out + i, n - i);
  }
}

static void AddWeighted(float* sum, float factor, const float* y, int64_t n) {
  const Vec f = Vec::Broadcast(factor);
  for (int64_t i = 0; i < n; i += 16) {
    StoreUpTo16(Vec::Fma(f, LoadUpTo16(y + i, n - i), LoadUpTo16(sum + i, n - i)), sum + i, n - i);
  }
}

// ---- gated delta net ----

// Elements i, i + 1, i + 2, i + 3 of the key dimension, each in its chain, for S slabs that lie side by side.
template <int S>
static inline void PredictRows(const float* state, int64_t slab, const float* k, int i, int count, Vec (*sum)[4]) {
#pragma GCC unroll 4
  for (int j = 0; j < count; ++j) {
    const Vec key = Vec::Broadcast(k[i + j]);
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) sum[s][j] = Vec::Fma(Vec::Load(state + s * slab + (i + j) * 16), key, sum[s][j]);
  }
}
template <int S>
static inline void UpdateRows(float* state, int64_t slab, const float* k, const float* q, int i, int count,
                              const Vec& decay, const Vec* d, Vec (*out)[4]) {
#pragma GCC unroll 4
  for (int j = 0; j < count; ++j) {
    const Vec key = Vec::Broadcast(k[i + j]), query = Vec::Broadcast(q[i + j]);
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      float* at = state + s * slab + (i + j) * 16;
      const Vec row = Vec::Fma(key, d[s], Vec::Mul(Vec::Load(at), decay));
      row.Store(at);
      out[s][j] = Vec::Fma(row, query, out[s][j]);
    }
  }
}
static inline Vec AddChains(const Vec* chain) {
  return Vec::Add(Vec::Add(chain[0], chain[1]), Vec::Add(chain[2], chain[3]));
}

template <int S>
static void RunDeltaSlabs(const DeltaSlab& slab) {
  const int rows = slab.key_dim, whole = rows / 4 * 4;
  const int64_t size = (int64_t)rows * 16;
  for (int t = 0; t < slab.tokens; ++t) {
    const float* q = slab.q + t * slab.qk_stride;
    const float* k = slab.k + t * slab.qk_stride;
    const Vec decay = Vec::Broadcast(slab.decay[t * slab.gate_stride]);
    const Vec beta = Vec::Broadcast(slab.beta[t * slab.gate_stride]);
    Vec sum[S][4], out[S][4], d[S];
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sum[s][j] = out[s][j] = Vec::Zero();
    }
    for (int i = 0; i < whole; i += 4) PredictRows<S>(slab.state, size, k, i, 4, sum);
    if (whole < rows) PredictRows<S>(slab.state, size, k, whole, rows - whole, sum);
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      const Vec predicted = Vec::Mul(decay, AddChains(sum[s]));
      d[s] = Vec::Mul(beta, Vec::Sub(Vec::Load(slab.v + t * slab.v_stride + 16 * s), predicted));
    }
    for (int i = 0; i < whole; i += 4) UpdateRows<S>(slab.state, size, k, q, i, 4, decay, d, out);
    if (whole < rows) UpdateRows<S>(slab.state, size, k, q, whole, rows - whole, decay, d, out);
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) AddChains(out[s]).Store(slab.out + t * slab.out_stride + 16 * s);
  }
}

static void RunDeltaSlab(const DeltaSlab& slab) {
  if (slab.slabs == 2) {
    RunDeltaSlabs<2>(slab);
  } else {
    RunDeltaSlabs<1>(slab);
  }
}

// ---- attention ----

static void Rotate(float* x, int half, const float* cosine, const float* sine) {
  for (int p = 0; p < half; p += 16) {
    const int64_t left = half - p;
    const Vec a = LoadUpTo16(x + p, left), b = LoadUpTo16(x + half + p, left);
    const Vec c = LoadUpTo16(cosine + p, left), s = LoadUpTo16(sine + p, left);
    StoreUpTo16(Vec::Sub(Vec::Mul(a, c), Vec::Mul(b, s)), x + p, left);
    StoreUpTo16(Vec::Add(Vec::Mul(b, c), Vec::Mul(a, s)), x + half + p, left);
  }
}

struct KvF32 {
  using Element = float;
  static inline Vec Load(const float* p) { return Vec::Load(p); }
};
struct KvF16 {
  using Element = uint16_t;
  static inline Vec Load(const uint16_t* p) { return Vec::LoadHalf(p); }
};
struct KvInt8 {
  using Element = int8_t;
  static inline Vec Load(const int8_t* p) { return Vec::LoadInt8(p); }
};

// Part `part` of `parts` equal ones of what will be read next, asked for while the present is computed.
static inline void PrefetchPart(const void* memory, int64_t bytes, int part, int parts) {
  const char* end = (const char*)memory + bytes * (part + 1) / parts;
  for (const char* p = (const char*)memory + bytes * part / parts; p < end; p += 64) __builtin_prefetch(p);
}

// scores[r][16 s + lane] for vectors [first, first + S) of positions.
template <int R, int S, typename Format>
static inline void ScoreTile(const AttentionPage& page, const float* const* query, int first, float (*scores)[64]) {
  const int head_dim = page.kv.head_dim;
  const typename Format::Element* keys = (const typename Format::Element*)page.kv.keys + (int64_t)first * head_dim * 16;
  Vec acc[R][S];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) acc[r][s] = Vec::Zero();
  }
  const bool ahead = query == page.query && first == 0;
  const int64_t value_bytes = (int64_t)page.most * ((head_dim + 15) / 16 * 16) * sizeof(*keys);
  for (int d = 0; d < head_dim; ++d) {
    if (ahead) PrefetchPart(page.kv.values, value_bytes, d, head_dim);
    Vec key[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) key[s] = Format::Load(keys + ((int64_t)s * head_dim + d) * 16);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec q = Vec::Broadcast(query[r][d]);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) acc[r][s] = Vec::Fma(q, key[s], acc[r][s]);
    }
  }
  const Vec scale = Vec::Broadcast(page.scale);
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Vec score = acc[r][s];
      if (page.kv.format == KvFormat::kInt8) score = Vec::Mul(score, Vec::Load(page.kv.key_scales + 16 * (first + s)));
      Vec::Mul(score, scale).Store(scores[r] + 16 * (first + s));
    }
  }
}

// Weights of one query from its scores, in place, zero before skip and beyond count; folds max and sum. Returns fade.
static inline float SoftmaxOfPage(const AttentionPage& page, int query, float* scores) {
  const int count = page.count[query], vectors = (count + 15) / 16;
  for (int j = 0; j < page.skip; ++j) scores[j] = -INFINITY;
  for (int j = count; j < 16 * vectors; ++j) scores[j] = -INFINITY;
  Vec largest = Vec::Broadcast(page.max[query]);
  for (int v = 0; v < vectors; ++v) largest = Vec::Max(Vec::Load(scores + 16 * v), largest);
  const float max = largest.ReduceMax();
  // For the first page tiny instead of 0, times a sum of 0.
  float lanes[16];
  Exp(Vec::Broadcast(page.max[query] - max)).Store(lanes);
  const float fade = lanes[0];
  const Vec shift = Vec::Broadcast(max);
  for (int v = 0; v < vectors; ++v) Exp(Vec::Sub(Vec::Load(scores + 16 * v), shift)).Store(scores + 16 * v);
  for (int j = 0; j < page.skip; ++j) scores[j] = 0;
  for (int j = count; j < 16 * vectors; ++j) scores[j] = 0;
  Vec sum = Vec::Zero();
  for (int v = 0; v < vectors; ++v) sum = Vec::Add(sum, Vec::Load(scores + 16 * v));
  page.max[query] = max;
  page.sum[query] = page.sum[query] * fade + sum.Reduce();
  if (page.kv.format == KvFormat::kInt8) {
    for (int v = 0; v < vectors; ++v) {
      Vec::Mul(Vec::Load(scores + 16 * v), Vec::Load(page.kv.value_scales + 16 * v)).Store(scores + 16 * v);
    }
  }
  return fade;
}

// acc of R queries, columns [c, c + 16 C). What not all of them see is added one by one: zero times a neighbour's NaN
// would be NaN.
template <int R, int C, typename Format>
static inline void ValueTile(const AttentionPage& page, int first, int c, const float* fade,
                             const float (*weights)[64]) {
  const int64_t stride = (page.kv.head_dim + 15) / 16 * 16;
  const typename Format::Element* values = (const typename Format::Element*)page.kv.values + c;
  int least = page.count[first];
  for (int r = 1; r < R; ++r) least = page.count[first + r] < least ? page.count[first + r] : least;
  Vec acc[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) {
      acc[r][v] = Vec::Mul(Vec::Load(page.acc + (first + r) * page.acc_stride + c + 16 * v), Vec::Broadcast(fade[r]));
    }
  }
  const bool ahead = page.next_keys != nullptr && first == 0 && c == 0;
  const int64_t key_bytes = 64 * (int64_t)page.kv.head_dim * sizeof(*values);
  for (int j = page.skip; j < least; ++j) {
    if (ahead) PrefetchPart(page.next_keys, key_bytes, j, least);
    Vec value[C];
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) value[v] = Format::Load(values + j * stride + 16 * v);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec w = Vec::Broadcast(weights[r][j]);
#pragma GCC unroll 4
      for (int v = 0; v < C; ++v) acc[r][v] = Vec::Fma(w, value[v], acc[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    for (int j = least; j < page.count[first + r]; ++j) {
      const Vec w = Vec::Broadcast(weights[r][j]);
#pragma GCC unroll 4
      for (int v = 0; v < C; ++v) acc[r][v] = Vec::Fma(w, Format::Load(values + j * stride + 16 * v), acc[r][v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) acc[r][v].Store(page.acc + (first + r) * page.acc_stride + c + 16 * v);
  }
}

template <int R, typename Format>
static void AttendQueries(const AttentionPage& page, int first) {
  float scores[R][64];
  int most = 0;
  for (int r = 0; r < R; ++r) most = page.count[first + r] > most ? page.count[first + r] : most;
  const int vectors = (most + 15) / 16;
  int s = 0;
  for (; s + kVectorTile <= vectors; s += kVectorTile) {
    ScoreTile<R, kVectorTile, Format>(page, page.query + first, s, scores);
  }
  for (; s < vectors; ++s) ScoreTile<R, 1, Format>(page, page.query + first, s, scores);
  float fade[R];
  for (int r = 0; r < R; ++r) fade[r] = SoftmaxOfPage(page, first + r, scores[r]);
  const int padded = (page.kv.head_dim + 15) / 16 * 16;
  int c = 0;
  for (; c + 16 * kVectorTile <= padded; c += 16 * kVectorTile) {
    ValueTile<R, kVectorTile, Format>(page, first, c, fade, scores);
  }
  for (; c < padded; c += 16) ValueTile<R, 1, Format>(page, first, c, fade, scores);
}

// `left` of the queries in the tile of at most R.
template <int R, typename Format>
static inline void AttendUpTo(int left, const AttentionPage& page, int first) {
  if constexpr (R > 1) {
    if (left < R) return AttendUpTo<R - 1, Format>(left, page, first);
  }
  AttendQueries<R, Format>(page, first);
}

template <typename Format>
static void AttendPageOf(const AttentionPage& page) {
  for (int first = 0; first < page.queries; first += kQueryTile) {
    AttendUpTo<kQueryTile, Format>(page.queries - first, page, first);
  }
}

static void AttendPage(const AttentionPage& page) {
  switch (page.kv.format) {
    case KvFormat::kF32:
      return AttendPageOf<KvF32>(page);
    case KvFormat::kF16:
      return AttendPageOf<KvF16>(page);
    case KvFormat::kInt8:
      return AttendPageOf<KvInt8>(page);
  }
}

static void MergeAttention(const AttentionState& into, const AttentionState& next, int head_dim) {
  const float max = *into.max > *next.max ? *into.max : *next.max;
  float lanes[16];
  Exp(Vec::Broadcast(*into.max - max)).Store(lanes);
  const float fade_into = lanes[0];
  Exp(Vec::Broadcast(*next.max - max)).Store(lanes);
  const float fade_next = lanes[0];
  *into.max = max;
  *into.sum = *into.sum * fade_into + *next.sum * fade_next;
  for (int c = 0; c < head_dim; c += 16) {
    const Vec faded = Vec::Mul(Vec::Load(into.acc + c), Vec::Broadcast(fade_into));
    Vec::Fma(Vec::Load(next.acc + c), Vec::Broadcast(fade_next), faded).Store(into.acc + c);
  }
}

// q = nearest even of x * (127 / max |x|), whose scale is returned: NaN where x is not finite.
static inline float QuantizeHead(const float* x, int n, int8_t* q) {
  uint32_t largest = 0;
  for (int i = 0; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  memcpy(&magnitude, &largest, sizeof(magnitude));
  const int finite = largest < 0x7f800000u;
  const float inverse = finite && magnitude > 0 ? 127.0f / magnitude : 0.0f;
  for (int i = 0; i < n; ++i) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even.
    const float value = finite ? x[i] * inverse : 0.0f;
    q[i] = (int8_t)(int)((value + 12582912.0f) - 12582912.0f);
  }
  return finite ? magnitude / 127.0f : NAN;
}

template <typename Element>
static inline void PutKv(const KvHeadPage& page, int at, const Element* key, const Element* value) {
  Element* keys = (Element*)page.keys + (int64_t)(at / 16) * page.head_dim * 16 + at % 16;
  for (int d = 0; d < page.head_dim; ++d) keys[16 * d] = key[d];
  memcpy((Element*)page.values + at * ((page.head_dim + 15) / 16 * 16), value, sizeof(Element) * page.head_dim);
}

static void WriteKv(const KvHeadPage& page, int at, const float* key, const float* value) {
  const int n = page.head_dim;
  switch (page.format) {
    case KvFormat::kF32:
      return PutKv(page, at, key, value);
    case KvFormat::kF16: {
      uint16_t half[2][1024];
      for (int i = 0; i < n; i += 16) {
        LoadUpTo16(key + i, n - i).StoreHalf(half[0] + i);
        LoadUpTo16(value + i, n - i).StoreHalf(half[1] + i);
      }
      return PutKv(page, at, half[0], half[1]);
    }
    case KvFormat::kInt8: {
      int8_t q[2][1024];
      page.key_scales[at] = QuantizeHead(key, n, q[0]);
      page.value_scales[at] = QuantizeHead(value, n, q[1]);
      return PutKv(page, at, q[0], q[1]);
    }
  }
}
