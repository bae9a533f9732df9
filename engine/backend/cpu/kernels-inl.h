// The kernels over an abstract vector of 16 lanes. Included once by each instruction set's file, which defines Vec
// before. Only static functions and C headers here: an inline function of a C++ header compiled with wider instructions
// could be the copy that the linker keeps for everybody.
//
// Vec: Zero(), Load(const float*), LoadBf16(const uint16_t*), LoadTail(p, n), LoadBf16Tail(p, n), Broadcast(float),
// Fma(a, b, c) = a * b + c, Add, Sub, Mul, Div, Min, Max (the second operand where one is NaN), PowerOfTwo(),
// Store(float*), StoreTail(p, n), Reduce() in the order of the contract.

#include <math.h>
#include <string.h>

static inline Vec LoadWeights(const float* p) {
  return Vec::Load(p);
}
static inline Vec LoadWeights(const uint16_t* p) {
  return Vec::LoadBf16(p);
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
  if (w.bf16) {
    MatMulOf((const uint16_t*)w.data, w.columns, begin, end, x, count, y);
  } else {
    MatMulOf((const float*)w.data, w.columns, begin, end, x, count, y);
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

static void ConvolveSilu(const float* const* inputs, int taps, const float* weights, int64_t channels, float* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    const int64_t left = channels - c;
    Vec sum = Vec::Zero();
    for (int j = 0; j < taps; ++j) {
      sum = Vec::Fma(LoadUpTo16(weights + j * channels + c, left), LoadUpTo16(inputs[j] + c, left), sum);
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

// S <- decay S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q. Sums over the key dimension run in four chains (i mod
// 4) that are added as (0 + 1) + (2 + 3). The decayed state is computed twice rather than written back in between.
static void RunDeltaSlab(const DeltaSlab& slab) {
  const int rows = slab.key_dim;
  for (int t = 0; t < slab.tokens; ++t) {
    const float* q = slab.q + t * slab.qk_stride;
    const float* k = slab.k + t * slab.qk_stride;
    const Vec decay = Vec::Broadcast(slab.decay[t * slab.gate_stride]);
    Vec sum[4] = {Vec::Zero(), Vec::Zero(), Vec::Zero(), Vec::Zero()};
    for (int i = 0; i < rows; ++i) {
      const Vec s = Vec::Mul(Vec::Load(slab.state + i * 16), decay);
      sum[i & 3] = Vec::Fma(s, Vec::Broadcast(k[i]), sum[i & 3]);
    }
    const Vec predicted = Vec::Add(Vec::Add(sum[0], sum[1]), Vec::Add(sum[2], sum[3]));
    const Vec d = Vec::Mul(Vec::Broadcast(slab.beta[t * slab.gate_stride]),
                           Vec::Sub(Vec::Load(slab.v + t * slab.v_stride), predicted));
    Vec out[4] = {Vec::Zero(), Vec::Zero(), Vec::Zero(), Vec::Zero()};
    for (int i = 0; i < rows; ++i) {
      const Vec s = Vec::Fma(Vec::Broadcast(k[i]), d, Vec::Mul(Vec::Load(slab.state + i * 16), decay));
      s.Store(slab.state + i * 16);
      out[i & 3] = Vec::Fma(s, Vec::Broadcast(q[i]), out[i & 3]);
    }
    Vec::Add(Vec::Add(out[0], out[1]), Vec::Add(out[2], out[3])).Store(slab.out + t * slab.out_stride);
  }
}

// ---- attention ----

static inline float ExpOf(float x) {
  float lanes[16];
  Exp(Vec::Broadcast(x)).Store(lanes);
  return lanes[0];
}

static void AttendPage(const AttentionPage& page) {
  float scores[64];
  float max = *page.max;
  for (int j = 0; j < page.count; ++j) {
    const float* key = page.keys + j * page.stride;
    Vec acc = Vec::Zero();
    int c = 0;
    for (; c + 16 <= page.head_dim; c += 16) acc = Vec::Fma(Vec::Load(page.query + c), Vec::Load(key + c), acc);
    if (c < page.head_dim) acc = Vec::Fma(Vec::Load(page.query + c), Vec::LoadTail(key + c, page.head_dim - c), acc);
    scores[j] = acc.Reduce() * page.scale;
    if (scores[j] > max) max = scores[j];
  }
  // For the first page tiny instead of 0, times a sum of 0.
  const float fade = ExpOf(*page.max - max);
  float sum = *page.sum * fade;
  const Vec shift = Vec::Broadcast(max);
  for (int j = 0; j < page.count; j += 16) {
    const int64_t left = page.count - j;
    StoreUpTo16(Exp(Vec::Sub(LoadUpTo16(scores + j, left), shift)), scores + j, left);
  }
  for (int j = 0; j < page.count; ++j) sum += scores[j];
  for (int c = 0; c < page.head_dim; c += 16) {
    const int64_t left = page.head_dim - c;
    Vec acc = Vec::Mul(left >= 16 ? Vec::Load(page.acc + c) : Vec::LoadTail(page.acc + c, left), Vec::Broadcast(fade));
    for (int j = 0; j < page.count; ++j) {
      const float* value = page.values + j * page.stride + c;
      acc = Vec::Fma(Vec::Broadcast(scores[j]), left >= 16 ? Vec::Load(value) : Vec::LoadTail(value, left), acc);
    }
    if (left >= 16) {
      acc.Store(page.acc + c);
    } else {
      acc.StoreTail(page.acc + c, left);
    }
  }
  *page.max = max;
  *page.sum = sum;
}
