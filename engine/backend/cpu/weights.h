// Matrices of a model in the form that the CPU kernels read.
//
//   BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K  packed once into huge pages; the source's pages are given back
//   F32, F16, and BF16 that decides or has an odd number of columns
//                                             as stored, row-major; the mapped file is read in place
//   everything else                           as stored, in place; widened to float32 tile by tile as it is multiplied
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "engine/backend/cpu/kernel_set.h"
#include "engine/backend/cpu/rows.h"
#include "engine/base/thread_pool.h"
#include "engine/model/model.h"

namespace gantry::engine::cpu {

// Rows of a work item are a multiple of this.
inline constexpr int kItemRowsUnit = 32;

struct Weight {
  // One of these, by form.
  WeightView floats;
  PackedView packed;
  Matrix tiles;
  enum class Form : uint8_t { kPlain, kPacked, kTiles };
  Form form = Form::kPlain;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t item_rows = 0;  // rows of one work item
  int64_t items = 0;

  // What its products take.
  ActivationForm activations() const { return form == Form::kPacked ? FormOf(packed.type) : ActivationForm::kFloat; }
  bool empty() const { return rows == 0; }
  int64_t row_bytes() const;
  // Where reading begins for rows from this one on, a multiple of 16; null unless packed.
  const uint8_t* at(int64_t row) const { return form == Form::kPacked ? packed.panel(row / kPanelRows) : nullptr; }
};

// Memory from the kernel in huge pages where it has them, zeroed.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  explicit HugeBuffer(size_t bytes);
  ~HugeBuffer();
  HugeBuffer(HugeBuffer&& other) noexcept { *this = std::move(other); }
  HugeBuffer& operator=(HugeBuffer&& other) noexcept;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Writes to every page of it, so that the kernel has none left to find when a request comes.
  void Touch(ThreadPool& pool);

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Many matrices in few huge buffers: an expert is far smaller than a huge page.
class HugeArena {
 public:
  // Zeroed, aligned to 64 bytes, alive as long as the arena.
  uint8_t* Take(int64_t bytes);

 private:
  std::deque<HugeBuffer> buffers_;
  uint8_t* free_ = nullptr;
  int64_t left_ = 0;
};

// Loading never holds more than the packed weights and a few MiB of the file: the source's pages are given back to the
// kernel as soon as they are packed.
class WeightStore {
 public:
  explicit WeightStore(ThreadPool* pool) : pool_(*pool) {}

  // What a matrix is for. A router chooses and a gate decides how much of a state fades: small, and a rounded
  // activation may turn the choice. They keep float32 activations where the file's type allows it (BF16).
  enum class Role { kProduct, kDecision };

  // The matrix must outlive the store unless it is packed.
  Weight Add(const Matrix& matrix, Role role = Role::kProduct);
  // Reads one word of every page that is used in place, so that the first request does not wait for the disk.
  void Prefault() const;
  // Bytes of weights that a pass over all of them reads.
  int64_t bytes() const { return bytes_; }

 private:
  Weight Store(const Matrix& matrix, Role role);

  ThreadPool& pool_;
  HugeArena arena_;
  std::vector<Matrix> in_place_;
  int64_t bytes_ = 0;
};

// Activation rows in the form that w.activations() names.
struct ActivationRows {
  const float* const* floats = nullptr;
  const ActivationRow* converted = nullptr;

  static ActivationRows Of(const Rows& x, const Weight& w, int first) {
    if (w.activations() == ActivationForm::kFloat) return {.floats = x.pointers() + first};
    return {.converted = x.in(w.activations()) + first};
  }
};

// y[i][row] for rows [begin, end) of the weight and activation rows [0, count). begin is a multiple of 16, and end too
// unless it is the last row. `next`: see Int8Kernels.
void Multiply(const KernelSet& kernels, const Weight& w, int64_t begin, int64_t end, const ActivationRows& x, int count,
              float* const* y, const uint8_t* next = nullptr);

}  // namespace gantry::engine::cpu
