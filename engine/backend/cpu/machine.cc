#include "engine/backend/cpu/machine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/backend/cpu/weights.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gantry::engine::cpu {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr size_t kBytes = size_t{1} << 30;
constexpr size_t kSlice = size_t{64} << 20, kItem = size_t{1} << 20;
constexpr int kPasses = 2;

// Each reads `bytes` (a multiple of 4096) and returns something that depends on all of them.
uint64_t ReadWords(const uint8_t* p, size_t bytes) {
  uint64_t sum[4] = {};
  for (size_t i = 0; i < bytes; i += 32) {
    uint64_t words[4];
    std::memcpy(words, p + i, sizeof(words));
    for (int k = 0; k < 4; ++k) sum[k] ^= words[k];
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t Read256(const uint8_t* p, size_t bytes) {
  __m256i sum[4] = {};
  for (size_t i = 0; i < bytes; i += 128) {
    for (int k = 0; k < 4; ++k) sum[k] = _mm256_xor_si256(sum[k], _mm256_load_si256((const __m256i*)(p + i + 32 * k)));
  }
  sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(sum[0], 0));
}

__attribute__((target("avx512f"))) uint64_t Read512(const uint8_t* p, size_t bytes) {
  __m512i sum[4] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int k = 0; k < 4; ++k) sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(p + i + 64 * k));
  }
  return static_cast<uint64_t>(
      _mm512_reduce_or_epi64(_mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]))));
}

__attribute__((target("avx512f"))) uint64_t Read512Prefetched(const uint8_t* p, size_t bytes) {
  __m512i sum[4] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int k = 0; k < 4; ++k) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + 64 * k + 2048), _MM_HINT_T1);
      sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(p + i + 64 * k));
    }
  }
  return static_cast<uint64_t>(
      _mm512_reduce_or_epi64(_mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]))));
}

// Four streams a quarter apart.
__attribute__((target("avx512f"))) uint64_t Read512Streams(const uint8_t* p, size_t bytes) {
  __m512i sum[4] = {};
  const size_t quarter = bytes / 4;
  for (size_t i = 0; i < quarter; i += 64) {
    for (int k = 0; k < 4; ++k) sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(p + i + quarter * k));
  }
  return static_cast<uint64_t>(
      _mm512_reduce_or_epi64(_mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]))));
}

// Sums that stay in registers, enough of them to hide a product's latency: an array of them would be kept in memory,
// where each product waits for the store before it. They start differently, or the compiler would see that one is
// enough.
#define GANTRY_TWELVE_TIMES(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
constexpr int kSums = 12;

__attribute__((target("avx512f,avx512vnni"))) uint64_t Multiply512(int64_t rounds) {
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
#define GANTRY_DECLARE(i) __m512i s##i = _mm512_set1_epi32(i);
#define GANTRY_MULTIPLY(i) s##i = _mm512_dpbusd_epi32(s##i, a, b);
#define GANTRY_ADD(i) total = _mm512_add_epi32(total, s##i);
  GANTRY_TWELVE_TIMES(GANTRY_DECLARE)
  for (int64_t i = 0; i < rounds; ++i) {
    GANTRY_TWELVE_TIMES(GANTRY_MULTIPLY)
    asm volatile("" : "+v"(a), "+v"(b));
  }
  __m512i total = _mm512_setzero_si512();
  GANTRY_TWELVE_TIMES(GANTRY_ADD)
  return static_cast<uint64_t>(_mm512_reduce_add_epi32(total));
#undef GANTRY_DECLARE
#undef GANTRY_MULTIPLY
#undef GANTRY_ADD
}

__attribute__((target("avx2"))) uint64_t Multiply256(int64_t rounds) {
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-5);
  const __m256i ones = _mm256_set1_epi16(1);
#define GANTRY_DECLARE(i) __m256i s##i = _mm256_set1_epi32(i);
#define GANTRY_MULTIPLY(i) s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
#define GANTRY_ADD(i) total = _mm256_add_epi32(total, s##i);
  GANTRY_TWELVE_TIMES(GANTRY_DECLARE)
  for (int64_t i = 0; i < rounds; ++i) {
    GANTRY_TWELVE_TIMES(GANTRY_MULTIPLY)
    asm volatile("" : "+x"(a), "+x"(b));
  }
  __m256i total = _mm256_setzero_si256();
  GANTRY_TWELVE_TIMES(GANTRY_ADD)
  return static_cast<uint64_t>(_mm256_extract_epi32(total, 0));
#undef GANTRY_DECLARE
#undef GANTRY_MULTIPLY
#undef GANTRY_ADD
}
#undef GANTRY_TWELVE_TIMES
#endif

}  // namespace

ReadBandwidth MeasureReadBandwidth(ThreadPool& pool) {
  struct Reader {
    const char* name;
    uint64_t (*read)(const uint8_t*, size_t);
  };
  std::vector<Reader> readers = {{"64-bit", ReadWords}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) readers.push_back({"256-bit", Read256});
  if (__builtin_cpu_supports("avx512f")) {
    readers.push_back({"512-bit", Read512});
    readers.push_back({"512-bit, prefetched", Read512Prefetched});
    readers.push_back({"512-bit, four streams", Read512Streams});
  }
#endif
  const HugeBuffer memory(kBytes);
  pool.ParallelFor(kBytes / kItem, [&](int64_t i, int) { std::memset(memory.data() + i * kItem, 1, kItem); });
  ReadBandwidth best;
  volatile uint64_t sink = 0;
  for (const Reader& reader : readers) {
    for (int pass = 0; pass < kPasses; ++pass) {
      // Timed by the slice: somebody else's turn on the core spoils one of them, not the pass. A slice comes back after
      // a GiB, so no cache holds any of it.
      for (size_t slice = 0; slice < kBytes; slice += kSlice) {
        const uint8_t* bytes = memory.data() + slice;
        const double start = Seconds();
        pool.ParallelFor(kSlice / kItem, [&](int64_t i, int) { sink = reader.read(bytes + i * kItem, kItem); });
        const double rate = static_cast<double>(kSlice) / (Seconds() - start);
        if (rate > best.bytes_per_s) best = {rate, reader.name};
      }
    }
  }
  (void)sink;
  return best;
}

double MeasureInt8Peak(ThreadPool& pool) {
  double best = 0;
#if defined(__x86_64__)
  uint64_t (*multiply)(int64_t) = nullptr;
  int64_t per_round = 0;
  if (__builtin_cpu_supports("avx512vnni")) {
    multiply = Multiply512;
    per_round = kSums * 64;
  } else if (__builtin_cpu_supports("avx2")) {
    multiply = Multiply256;
    per_round = kSums * 32;
  }
  if (multiply == nullptr) return 0;
  constexpr int64_t kRounds = 1 << 14, kItems = 64;
  volatile uint64_t sink = 0;
  for (int pass = 0; pass < 4 * kPasses; ++pass) {
    const double start = Seconds();
    pool.ParallelFor(kItems, [&](int64_t, int) { sink = multiply(kRounds); });
    best = std::max(best, static_cast<double>(per_round * kRounds * kItems) / (Seconds() - start));
  }
  (void)sink;
#endif
  return best;
}

}  // namespace gantry::engine::cpu
