// The kernels over an abstract vector of 16 lanes. Included once by each instruction set's file, which defines Vec
// before. Only static functions and C headers here: an inline function of a C++ header compiled with wider instructions
// could be the copy that the linker keeps for everybody.
//
// Vec: Zero(), Load(const float*), LoadBf16(const uint16_t*), LoadTail(p, n), LoadBf16Tail(p, n), Broadcast(float),
// Fma(a, b, c) = a * b + c, Mul, Sub, Store(float*), Reduce() in the order of the contract.

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

// S <- decay S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q. Sums over the key dimension run in four chains (i mod
// 4) that are added as (0 + 1) + (2 + 3).
static void RunDeltaSlab(const DeltaSlab& slab) {
  const int rows = slab.key_dim;
  for (int t = 0; t < slab.tokens; ++t) {
    const float* q = slab.q + t * slab.qk_stride;
    const float* k = slab.k + t * slab.qk_stride;
    const Vec decay = Vec::Broadcast(slab.decay[t * slab.gate_stride]);
    Vec sum[4] = {Vec::Zero(), Vec::Zero(), Vec::Zero(), Vec::Zero()};
    for (int i = 0; i < rows; ++i) {
      const Vec s = Vec::Mul(Vec::Load(slab.state + i * 16), decay);
      s.Store(slab.state + i * 16);
      sum[i & 3] = Vec::Fma(s, Vec::Broadcast(k[i]), sum[i & 3]);
    }
    const Vec predicted = Vec::Add(Vec::Add(sum[0], sum[1]), Vec::Add(sum[2], sum[3]));
    const Vec d = Vec::Mul(Vec::Broadcast(slab.beta[t * slab.gate_stride]),
                           Vec::Sub(Vec::Load(slab.v + t * slab.v_stride), predicted));
    Vec out[4] = {Vec::Zero(), Vec::Zero(), Vec::Zero(), Vec::Zero()};
    for (int i = 0; i < rows; ++i) {
      const Vec s = Vec::Fma(Vec::Broadcast(k[i]), d, Vec::Load(slab.state + i * 16));
      s.Store(slab.state + i * 16);
      out[i & 3] = Vec::Fma(s, Vec::Broadcast(q[i]), out[i & 3]);
    }
    Vec::Add(Vec::Add(out[0], out[1]), Vec::Add(out[2], out[3])).Store(slab.out + t * slab.out_stride);
  }
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
  const float fade = expf(*page.max - max);  // 0 for the first page
  float sum = *page.sum * fade;
  for (int j = 0; j < page.count; ++j) {
    scores[j] = expf(scores[j] - max);
    sum += scores[j];
  }
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
      float tail[16];
      acc.Store(tail);
      memcpy(page.acc + c, tail, sizeof(float) * left);
    }
  }
  *page.max = max;
  *page.sum = sum;
}
