// The bfloat16 products over abstract vectors. Included once by each instruction set's file, which defines before:
//
//   kTilePanels, kTileRows   a register tile: panels of weights times activation rows
//   kTilePanelsOne           panels for a lone activation row: as many chains as hide the latency of a product
//   Pairs                    two bfloat16 of each of 16 rows: Load(const uint8_t*)
//   Pair                     two bfloat16 for all rows: Load(const uint16_t*)
//   Sums                     16 float: Zero(), Dot(sums, Pairs, Pair) by the contract, Store(p, rows)
//   kFlushes                 the product itself takes and gives zero for denormals; else the processor is told to
//
// Only static functions and C headers here, as in kernels-inl.h.

static constexpr int kPairBytes = 64;
// How far ahead of the tile that meets them first weights are asked for, in each of the panels; why into the
// second-level cache: docs/decisions/0006-prefetch-hint.md.
static constexpr int kPrefetchAhead = 2048;

// P panels that lie panel_bytes apart times X activation rows; rows of the last panel that exist: `rows`.
// `from_memory`: this tile is the first to read them.
template <int P, int X>
static void Bf16Tile(const uint8_t* w, int64_t panel_bytes, int64_t pairs, bool from_memory,
                     const ActivationRow* rows_of_x, float* const* y, int64_t row, int rows) {
  const uint16_t* x[X];
  for (int n = 0; n < X; ++n) x[n] = (const uint16_t*)rows_of_x[n].data;
  Sums sum[P][X];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n] = Sums::Zero();
  }
  for (int64_t i = 0; i < pairs; ++i, w += kPairBytes) {
    Pairs v[P];
    // Behind the end of a panel lies the next one, which this tile reads too: its successor's lies P - 1 further.
    const uint8_t* ahead = w + kPrefetchAhead + (i + kPrefetchAhead / kPairBytes < pairs ? 0 : (P - 1) * panel_bytes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      v[p] = Pairs::Load(w + p * panel_bytes);
      if (from_memory) __builtin_prefetch(ahead + p * panel_bytes, 0, 2);
    }
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) {
      const Pair two = Pair::Load(x[n] + 2 * i);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p][n] = Sums::Dot(sum[p][n], v[p], two);
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < X; ++n) sum[p][n].Store(y[n] + row + 16 * p, p + 1 < P ? 16 : rows);
  }
}

// `left` activation rows, at most X, with P panels from this one on.
template <int P, int X>
static inline void Bf16TileOfUpTo(int left, const PackedView& w, int64_t panel, bool from_memory,
                                  const ActivationRow* x, float* const* y) {
  if constexpr (X > 1) {
    if (left < X) return Bf16TileOfUpTo<P, X - 1>(left, w, panel, from_memory, x, y);
  }
  const int64_t pairs = w.columns / 2, row = panel * kPanelRows;
  const int64_t there = w.rows - row - (P - 1) * kPanelRows;
  Bf16Tile<P, X>(w.panel(panel), pairs * kPairBytes, pairs, from_memory, x, y, row,
                 there < kPanelRows ? (int)there : kPanelRows);
}

// Not inlined: no product may move to where the processor flushes nothing.
__attribute__((noinline)) static void Bf16Panels(const PackedView& w, int64_t begin, int64_t end,
                                                 const ActivationRow* x, int count, float* const* y) {
  // Activation rows that stay in the second-level cache while the panels pass.
  constexpr int64_t kRowsBytes = 256 << 10;
  int64_t chunk = kRowsBytes / (2 * w.columns) / kTileRows * kTileRows;
  if (chunk < kTileRows) chunk = kTileRows;
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t stop = first + chunk < count ? first + chunk : count;
    int64_t p = begin;
    if (stop - first == 1) {
      for (; p + kTilePanelsOne <= end; p += kTilePanelsOne) {
        Bf16TileOfUpTo<kTilePanelsOne, 1>(1, w, p, first == 0, x + first, y + first);
      }
    }
    for (; p + kTilePanels <= end; p += kTilePanels) {
      for (int64_t i = first; i < stop; i += kTileRows) {
        Bf16TileOfUpTo<kTilePanels, kTileRows>((int)(stop - i), w, p, i == 0, x + i, y + i);
      }
    }
    for (; p < end; ++p) {
      for (int64_t i = first; i < stop; i += kTileRows) {
        Bf16TileOfUpTo<1, kTileRows>((int)(stop - i), w, p, i == 0, x + i, y + i);
      }
    }
  }
}

static void Bf16MatMul(const PackedView& w, int64_t begin, int64_t end, const ActivationRow* x, int count,
                       float* const* y) {
#if defined(__x86_64__)
  constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
  const unsigned mode = _mm_getcsr();
  if (!kFlushes) _mm_setcsr(mode | kFlushToZero | kDenormalsAreZero);
  Bf16Panels(w, begin, end, x, count, y);
  if (!kFlushes) _mm_setcsr(mode);
#else
  Bf16Panels(w, begin, end, x, count, y);
#endif
}

// FloatToBf16 (engine/base/numeric.h), for this file's instruction set alone.
static void RoundToBf16(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const uint32_t quiet = bits >> 16 | 0x0040;
    out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
  }
}
