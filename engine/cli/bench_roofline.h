// What machine and model allow, which measured speeds are held against.
#pragma once

#include <memory>

#include "engine/backend/cpu/machine.h"
#include "engine/backend/kv_type.h"
#include "engine/cli/bench_run.h"
#include "engine/model/traffic.h"

namespace gantry::engine::cli {

struct Roofline {
  cpu::ReadBandwidth bandwidth;
  double int8_macs_per_s = 0;
  Traffic traffic;
  double kv_bytes = 0;  // of one position, all layers of the trunk, as the CPU backend keeps them
  int decode_tokens = 0;

  // A decoding round without speculation, halfway through the tokens it decodes.
  double RoundBytes(const BenchPoint& point) const;
  // Of the read bandwidth; only for speculation off, where a round is one row a sequence.
  double BandwidthShare(const BenchPoint& point, double rounds_per_s) const;
  double Int8Share(double prompt_tokens_per_s) const;
  // Tokens per second of the batch over those of one sequence, if reading were all: the byte-roofline ratio.
  double BatchGain(const BenchPoint& point) const;
};
// With the threads of the engine; takes a second and a gigabyte.
Roofline MeasureRoofline(const Model& model, KvType kv_type, int threads, int decode_tokens);

}  // namespace gantry::engine::cli
