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

std::optional<PackedType> PackedTypeOf(DType type) {
  switch (type) {
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

Weight WeightStore::Add(const Matrix& matrix) {
  Weight weight;
  weight.rows = matrix.rows;
  weight.columns = matrix.columns;
  if (const std::optional<PackedType> type = PackedTypeOf(matrix.dtype); type.has_value() && matrix.scale == 1.0f) {
    const int64_t bytes = PackedBytes(*type, matrix.rows, matrix.columns);
    uint8_t* packed = arena_.Take(bytes);
    weight.is_packed = true;
    weight.packed = {packed, matrix.rows, matrix.columns, *type};
    pool_.ParallelFor(weight.packed.panels(), [&](int64_t panel, int) {
      PackPanels(*type, static_cast<const uint8_t*>(matrix.data), matrix.rows, matrix.columns, panel, panel + 1,
                 packed);
    });
    DropPages(matrix.data, matrix.bytes());
    bytes_ += bytes;
    return weight;
  }
  weight.floats = {matrix.data, matrix.rows, matrix.columns, matrix.dtype == DType::kBF16};
  if (matrix.dtype == DType::kF32 || matrix.dtype == DType::kBF16) {
    in_place_.push_back(weight.floats);
    bytes_ += matrix.bytes();
    return weight;
  }
  const int64_t bytes = matrix.rows * matrix.columns * static_cast<int64_t>(sizeof(float));
  auto* wide = reinterpret_cast<float*>(arena_.Take(bytes));
  pool_.ParallelFor(matrix.rows, [&](int64_t row, int) { ReadRow(matrix, row, wide + row * matrix.columns); });
  DropPages(matrix.data, matrix.bytes());
  weight.floats.data = wide;
  bytes_ += bytes;
  return weight;
}

void WeightStore::Prefault() const {
  constexpr int64_t kPageBytes = 4096;
  volatile char sink = 0;
  for (const WeightView& view : in_place_) {
    const int64_t bytes = view.rows * view.columns * (view.bf16 ? 2 : 4);
    for (int64_t i = 0; i < bytes; i += kPageBytes) sink = static_cast<const char*>(view.data)[i];
  }
  (void)sink;
}

}  // namespace gantry::engine::cpu
