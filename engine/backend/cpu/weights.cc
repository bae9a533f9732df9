#include "engine/backend/cpu/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/backend/cpu/packed_matrix.h"
#include "engine/base/check.h"

namespace gantry::engine::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::optional<PackedType> PackedTypeOf(const Matrix& matrix, WeightStore::Role role) {
  switch (matrix.dtype) {
    case DType::kBF16:
      if (role == WeightStore::Role::kDecision) return std::nullopt;
      if (matrix.columns % BlockElements(PackedType::kBF16) != 0) return std::nullopt;
      return PackedType::kBF16;
    case DType::kQ8_0:
      return PackedType::kQ8_0;
    case DType::kQ4_0:
      return PackedType::kQ4_0;
    case DType::kQ4_1:
      return PackedType::kQ4_1;
    case DType::kQ4_K:
      return PackedType::kQ4_K;
    case DType::kQ5_K:
      return PackedType::kQ5_K;
    case DType::kQ6_K:
      return PackedType::kQ6_K;
    default:
      return std::nullopt;
  }
}

std::optional<PlainType> PlainTypeOf(DType type) {
  switch (type) {
    case DType::kF32:
      return PlainType::kF32;
    case DType::kBF16:
      return PlainType::kBF16;
    case DType::kF16:
      return PlainType::kF16;
    default:
      return std::nullopt;
  }
}

// Weight rows of one work item: up to 64 KiB, so that a thread streams, and no more than leaves each thread eight of
// them, so that none waits long for the last.
int64_t ItemRows(const Weight& w, int threads) {
  constexpr int64_t kItemBytes = 64 << 10;
  const int64_t row_bytes = std::max<int64_t>(1, w.row_bytes());
  const int64_t bytes = std::min(kItemBytes, row_bytes * w.rows / (8 * threads));
  return std::max<int64_t>(kItemRowsUnit, bytes / row_bytes / kItemRowsUnit * kItemRowsUnit);
}

// Gives the kernel back the pages of a mapped file that nobody will read again. Whole pages only: neighbours share the
// borders.
void DropPages(const void* data, int64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : size_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  GANTRY_CHECK(memory != MAP_FAILED, "the machine has memory for the weights");
  madvise(memory, size_, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(memory);
}
HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, size_);
}
HugeBuffer& HugeBuffer::operator=(HugeBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void HugeBuffer::Touch(ThreadPool& pool) {
  constexpr size_t kPage = 4096;
  pool.ParallelFor(static_cast<int64_t>(size_ / kHugePage), [this](int64_t i, int) {
    for (size_t at = i * kHugePage; at < (i + 1) * kHugePage; at += kPage) {
      *static_cast<volatile uint8_t*>(data_ + at) = 0;
    }
  });
}

uint8_t* HugeArena::Take(int64_t bytes) {
  constexpr int64_t kBufferBytes = int64_t{32} << 20, kAlignment = 64;
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes > left_) {
    HugeBuffer& buffer = buffers_.emplace_back(static_cast<size_t>(std::max(bytes, kBufferBytes)));
    const int64_t rest = static_cast<int64_t>(buffer.size()) - bytes;
    // Whichever has more room left serves the next: a large matrix does not make the small ones lose theirs.
    if (rest < left_) return buffer.data();
    free_ = buffer.data();
    left_ = static_cast<int64_t>(buffer.size());
  }
  uint8_t* taken = free_;
  free_ += bytes;
  left_ -= bytes;
  return taken;
}

int64_t Weight::row_bytes() const {
  switch (form) {
    case Form::kPlain:
      return columns * ElementBytes(floats.type);
    case Form::kPacked:
      return PanelBlockBytes(packed.type) / kPanelRows * packed.blocks();
    case Form::kTiles:
      return tiles.row_bytes();
  }
  return 0;
}

Weight WeightStore::Add(const Matrix& matrix, Role role) {
  Weight weight = Store(matrix, role);
  weight.item_rows = ItemRows(weight, pool_.threads());
  weight.items = (weight.rows + weight.item_rows - 1) / weight.item_rows;
  return weight;
}

Weight WeightStore::Store(const Matrix& matrix, Role role) {
  Weight weight;
  weight.rows = matrix.rows;
  weight.columns = matrix.columns;
  if (const std::optional<PackedType> type = PackedTypeOf(matrix, role); type.has_value() && matrix.scale == 1.0f) {
    const int64_t bytes = PackedBytes(*type, matrix.rows, matrix.columns);
    uint8_t* packed = arena_.Take(bytes);
    weight.form = Weight::Form::kPacked;
    weight.packed = {packed, matrix.rows, matrix.columns, *type};
    // Slice by slice: the largest matrix must not stand twice in memory either.
    constexpr int64_t kSliceBytes = int64_t{4} << 20;
    const int64_t panel_bytes = kPanelRows * matrix.row_bytes(), panels = weight.packed.panels();
    const int64_t slice = std::max<int64_t>(1, kSliceBytes / panel_bytes);
    for (int64_t begin = 0; begin < panels; begin += slice) {
      const int64_t end = std::min(panels, begin + slice);
      pool_.ParallelFor(end - begin, [&](int64_t i, int) {
        PackPanels(*type, static_cast<const uint8_t*>(matrix.data), matrix.rows, matrix.columns, begin + i,
                   begin + i + 1, packed);
      });
      DropPages(matrix.row(begin * kPanelRows),
                std::min(matrix.rows, end * kPanelRows) * matrix.row_bytes() - begin * kPanelRows * matrix.row_bytes());
    }
    bytes_ += bytes;
    return weight;
  }
  in_place_.push_back(matrix);
  bytes_ += matrix.bytes();
  if (const std::optional<PlainType> type = PlainTypeOf(matrix.dtype); type.has_value() && matrix.scale == 1.0f) {
    weight.floats = {matrix.data, matrix.rows, matrix.columns, *type};
  } else {
    weight.form = Weight::Form::kTiles;
    weight.tiles = matrix;
  }
  return weight;
}

void WeightStore::Prefault() const {
  constexpr int64_t kPageBytes = 4096;
  volatile char sink = 0;
  for (const Matrix& matrix : in_place_) {
    for (int64_t i = 0; i < matrix.bytes(); i += kPageBytes) sink = static_cast<const char*>(matrix.data)[i];
  }
  (void)sink;
}

namespace {

// As many rows as a tile on the stack holds are widened, then multiplied with all activation rows.
void MultiplyTiles(const Kernels& kernels, const Matrix& w, int64_t begin, int64_t end, const float* const* x,
                   int count, float* const* y) {
  constexpr int64_t kTileFloats = 32 << 10;
  constexpr int kOutputs = 64;
  alignas(64) float tile[kTileFloats];
  GANTRY_CHECK(w.columns <= kTileFloats, "a tile holds a row");
  const int64_t rows_max = kTileFloats / w.columns;
  for (int64_t row = begin; row < end; row += rows_max) {
    const int64_t rows = std::min(rows_max, end - row);
    for (int64_t r = 0; r < rows; ++r) ReadRow(w, row + r, tile + r * w.columns);
    for (int first = 0; first < count; first += kOutputs) {
      const int some = std::min(kOutputs, count - first);
      float* out[kOutputs];
      for (int i = 0; i < some; ++i) out[i] = y[first + i] + row;
      kernels.matmul({tile, rows, w.columns, PlainType::kF32}, 0, rows, x + first, some, out);
    }
  }
}

}  // namespace

void Multiply(const KernelSet& kernels, const Weight& w, int64_t begin, int64_t end, const ActivationRows& x, int count,
              float* const* y, const uint8_t* next) {
  switch (w.form) {
    case Weight::Form::kPlain:
      return kernels.floats->matmul(w.floats, begin, end, x.floats, count, y);
    case Weight::Form::kPacked: {
      const int64_t first = begin / kPanelRows, last = (end + kPanelRows - 1) / kPanelRows;
      if (w.packed.type == PackedType::kBF16) {
        return kernels.halves->matmul(w.packed, first, last, x.converted, count, y);
      }
      return kernels.ints->matmul(w.packed, first, last, x.converted, count, y, next);
    }
    case Weight::Form::kTiles:
      return MultiplyTiles(*kernels.floats, w.tiles, begin, end, x.floats, count, y);
  }
}

}  // namespace gantry::engine::cpu
