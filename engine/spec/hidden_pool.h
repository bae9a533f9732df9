// Hidden states that wait for the MTP layer, so that a prompt's first token does not.
//
// A queue holds the post-norm hidden states of consecutive positions of one sequence, in blocks of 64 rows from one
// pool. Every queue can always hold one block; more only while the pool has some beyond that.
//
// Threads: one. Nothing allocates after construction.
#pragma once

#include <cstddef>
#include <vector>

namespace gantry::engine {

class HiddenPool {
 public:
  static constexpr int kBlockRows = 64;

  class Queue {
   public:
    int size() const { return size_; }

   private:
    friend class HiddenPool;
    std::vector<int> blocks_;  // in order
    int begin_ = 0;            // first row in blocks_[0]
    int size_ = 0;
  };

  // `queues` are the caller's; blocks >= queues.
  HiddenPool(int queues, int blocks, int hidden);

  // For every queue, before its first use.
  void Prepare(Queue* queue) const { queue->blocks_.reserve(blocks_); }
  // False when there is no room; `row` has `hidden` floats.
  bool Push(Queue* queue, const float* row);
  const float* Row(const Queue& queue, int index) const;
  void Pop(Queue* queue, int rows);
  void Clear(Queue* queue) { Pop(queue, queue->size_); }

 private:
  float* At(int block, int row) { return data_.data() + (static_cast<size_t>(block) * kBlockRows + row) * hidden_; }

  int blocks_;
  int hidden_;
  int empty_queues_;  // each may still claim its one block
  std::vector<int> free_;
  std::vector<float> data_;
};

}  // namespace gantry::engine
