#include "engine/cli/bench_roofline.h"

#include "engine/base/thread_pool.h"

namespace gantry::engine::cli {

constexpr int kKvElementBytes = 2;

double Roofline::RoundBytes(const BenchPoint& point, absl::Span<const double> experts_read) const {
  return traffic.WeightBytes(experts_read) +
         traffic.SequenceBytes(point.batch, point.context + decode_tokens / 2.0, kKvElementBytes);
}
double Roofline::Int8Share(double prompt_tokens_per_s) const {
  return int8_macs_per_s == 0 ? 0 : prompt_tokens_per_s * static_cast<double>(traffic.prompt_macs) / int8_macs_per_s;
}
double Roofline::Int8TokensPerSecond() const {
  return int8_macs_per_s / static_cast<double>(traffic.prompt_macs + traffic.head_macs);
}

Roofline MeasureRoofline(const Model& model, int threads, int decode_tokens) {
  ThreadPool pool(threads);
  return {cpu::MeasureReadBandwidth(pool), cpu::MeasureInt8Peak(pool), TrafficOf(model), decode_tokens};
}

}  // namespace gantry::engine::cli
