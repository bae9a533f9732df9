// What this machine can do at best: the figures that speeds are held against.
#pragma once

#include <string>

#include "engine/base/thread_pool.h"

namespace gantry::engine::cpu {

struct ReadBandwidth {
  double bytes_per_s = 0;  // the fastest of several kernels, best of several passes
  std::string kernel;      // which
};
// Reads 1 GiB of huge pages with all threads of the pool, each its own part.
ReadBandwidth MeasureReadBandwidth(ThreadPool& pool);

// int8 multiply-adds per second of all threads, registers only: VNNI where there is it, else AVX2; 0 without either.
double MeasureInt8Peak(ThreadPool& pool);

}  // namespace gantry::engine::cpu
