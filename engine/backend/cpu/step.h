// What the parts of the CPU backend share: kernels, threads, and the buffers of one step. A buffer's content is said
// where it is written; nobody keeps one across blocks, but for `normed`, which every block writes first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <vector>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/rope.h"
#include "engine/backend/cpu/rows.h"
#include "engine/backend/cpu/weights.h"
#include "engine/base/thread_pool.h"

namespace gantry::engine::cpu {

struct Step {
  Step(const KernelSet& k, int threads) : kernels(k), pool(threads) {}

  KernelSet kernels;
  ThreadPool pool;
  int64_t hidden = 0;
  float rms_eps = 0;

  Rows normed;                   // [rows, H]: what a block works on
  Rows wide;                     // mixer input: q (and gate), or qkv of the delta net
  Rows mixed;                    // mixer output before the output projection
  Rows side_a, side_b, side_c;   // k, v; or z, beta, decay
  Rows conv;                     // delta net: after the convolution
  std::vector<float*> out_rows;  // rows of a residual's delta

  std::deque<RopeTable> ropes;  // addresses stay

  // The table of all layers that turn like this one. `rope` outlives the step.
  RopeTable& Rope(const RopeSpec& rope, int max_rows) {
    for (RopeTable& table : ropes) {
      if (table.TurnsLike(rope)) return table;
    }
    return ropes.emplace_back(rope, max_rows);
  }

  float* const* DeltaRows(int rows, Residual io) {
    for (int i = 0; i < rows; ++i) out_rows[i] = io.delta + static_cast<int64_t>(i) * hidden;
    return out_rows.data();
  }

  // x += delta, normed = norm(x), in every form that is required.
  void Normalise(int rows, const std::vector<float>& weight, Residual io) {
    pool.ParallelFor(rows, [&](int64_t i, int) {
      kernels.floats->add_norm(io.x + i * hidden, io.delta + i * hidden, weight.data(), hidden, rms_eps, normed.row(i));
      normed.Convert(i, kernels);
    });
  }

  struct Product {
    const Weight& w;
    const Rows& x;
    float* const* y;  // output rows
  };

  // Several products over rows [0, count) as one parallel loop.
  void MatMul(std::initializer_list<Product> products, int count) {
    int64_t items = 0;
    for (const Product& product : products) items += product.w.items;
    pool.ParallelFor(items, [&](int64_t item, int) {
      for (const Product& product : products) {
        if (item < product.w.items) {
          const int64_t rows = product.w.item_rows, begin = item * rows;
          Multiply(kernels, product.w, begin, std::min(product.w.rows, begin + rows),
                   ActivationRows::Of(product.x, product.w, 0), count, product.y);
          return;
        }
        item -= product.w.items;
      }
    });
  }
};

// Columns that a consumer with these weights reads of its input, in the form it needs.
inline void Require(Rows* rows, std::initializer_list<const Weight*> weights) {
  for (const Weight* w : weights) {
    if (!w->empty()) rows->Require(w->activations(), w->columns);
  }
}

}  // namespace gantry::engine::cpu
