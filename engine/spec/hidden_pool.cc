#include "engine/spec/hidden_pool.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"

namespace gantry::engine {

HiddenPool::HiddenPool(int queues, int blocks, int hidden)
    : blocks_(blocks), hidden_(hidden), empty_queues_(queues), free_(blocks) {
  GANTRY_CHECK(blocks >= queues, "every queue has a block of its own");
  std::iota(free_.rbegin(), free_.rend(), 0);
  data_.resize(static_cast<size_t>(blocks) * kBlockRows * hidden);
}

bool HiddenPool::Push(Queue* queue, const float* row) {
  const int at = queue->begin_ + queue->size_;
  if (at == static_cast<int>(queue->blocks_.size()) * kBlockRows) {
    const bool first = queue->blocks_.empty();
    if (!first && static_cast<int>(free_.size()) <= empty_queues_) return false;
    if (first) --empty_queues_;
    queue->blocks_.push_back(free_.back());
    free_.pop_back();
  }
  std::copy_n(row, hidden_, At(queue->blocks_[at / kBlockRows], at % kBlockRows));
  ++queue->size_;
  return true;
}

const float* HiddenPool::Row(const Queue& queue, int index) const {
  const int at = queue.begin_ + index;
  return data_.data() + (static_cast<size_t>(queue.blocks_[at / kBlockRows]) * kBlockRows + at % kBlockRows) * hidden_;
}

void HiddenPool::Pop(Queue* queue, int rows) {
  GANTRY_CHECK(rows <= queue->size_, "only what is there is taken");
  queue->begin_ += rows;
  queue->size_ -= rows;
  const int done = queue->size_ == 0 ? static_cast<int>(queue->blocks_.size()) : queue->begin_ / kBlockRows;
  free_.insert(free_.end(), queue->blocks_.begin(), queue->blocks_.begin() + done);
  queue->blocks_.erase(queue->blocks_.begin(), queue->blocks_.begin() + done);
  queue->begin_ -= done * kBlockRows;
  if (queue->size_ == 0) {
    queue->begin_ = 0;
    if (done > 0) ++empty_queues_;
  }
}

}  // namespace gantry::engine
