#include "engine/cli/bench_roofline.h"

#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/base/thread_pool.h"

namespace gantry::engine::cli {

double Roofline::RoundBytes(const BenchPoint& point, absl::Span<const double> experts_read) const {
  return traffic.WeightBytes(experts_read) +
         traffic.SequenceBytes(point.batch, point.context + decode_tokens / 2.0, kv_bytes);
}
double Roofline::Int8Share(double prompt_tokens_per_s) const {
  return int8_macs_per_s == 0 ? 0 : prompt_tokens_per_s * static_cast<double>(traffic.prompt_macs) / int8_macs_per_s;
}
double Roofline::Int8TokensPerSecond() const {
  return int8_macs_per_s / static_cast<double>(traffic.prompt_macs + traffic.head_macs);
}

Roofline MeasureRoofline(const Model& model, KvType kv_type, int threads, int decode_tokens) {
  ThreadPool pool(threads);
  ModelSpec trunk = model.spec;
  trunk.mtp.reset();
  const auto page_bytes = static_cast<double>(CpuCacheCosts(trunk, kv_type).kv_page_bytes);
  return {cpu::MeasureReadBandwidth(pool), cpu::MeasureInt8Peak(pool), TrafficOf(model), page_bytes / kKvPageTokens,
          decode_tokens};
}

}  // namespace gantry::engine::cli
