// What machine and model allow, which measured speeds are held against.
#pragma once

#include "absl/types/span.h"
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

  // A decoding round of one row a sequence that read so many distinct experts, by layer of the trunk, halfway through
  // the tokens it decodes.
  double RoundBytes(const BenchPoint& point, absl::Span<const double> experts_read) const;
  // Of a prompt, and tokens per second of decoding, if int8 products were all. 0 on a machine without.
  double Int8Share(double prompt_tokens_per_s) const;
  double Int8TokensPerSecond() const;
};
// With the threads of the engine; takes a second and a gigabyte.
Roofline MeasureRoofline(const Model& model, KvType kv_type, int threads, int decode_tokens);

}  // namespace gantry::engine::cli
