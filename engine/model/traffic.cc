#include "engine/model/traffic.h"

#include <cmath>
#include <initializer_list>
#include <variant>

namespace gantry::engine {
namespace {

struct Sum {
  int64_t bytes = 0, macs = 0;
  void Add(const Matrix& matrix) {
    bytes += matrix.bytes();
    macs += matrix.rows * matrix.columns;
  }
  void Add(const SwiGluWeights& weights) {
    for (const Matrix* matrix : {&weights.gate, &weights.up, &weights.down}) Add(*matrix);
  }
};

}  // namespace

double Traffic::WeightBytes(int rows) const {
  auto bytes = static_cast<double>(weight_bytes);
  for (const Experts& layer : experts) {
    const double count = layer.count;
    const double read = count * (1 - std::pow(1 - layer.per_token / count, rows));
    bytes += read * static_cast<double>(layer.bytes_each);
  }
  return bytes;
}

double Traffic::RoundBytes(int rows, double context, double kv_bytes) const {
  const double of_each = static_cast<double>(state_bytes) + context * kv_bytes;
  return WeightBytes(rows) + rows * of_each;
}

Traffic TrafficOf(const Model& model) {
  Sum sum;
  Traffic traffic;
  for (int i = 0; i < model.spec.trunk_layers(); ++i) {
    const LayerWeights& layer = model.layer(i);
    if (const auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
      for (const Matrix* matrix : {&attention->q, &attention->k, &attention->v, &attention->o}) sum.Add(*matrix);
    } else {
      const auto& weights = std::get<GatedDeltaNetWeights>(layer.mixer);
      for (const Matrix* matrix : {&weights.qkv, &weights.z, &weights.b, &weights.a, &weights.out}) sum.Add(*matrix);
      const auto& net = std::get<GatedDeltaNetSpec>(model.spec.layer(i).mixer);
      const int64_t floats =
          int64_t{net.value_heads} * net.key_dim * net.value_dim + int64_t{net.conv_kernel - 1} * net.conv_channels();
      traffic.state_bytes += 2 * floats * static_cast<int64_t>(sizeof(float));
    }
    if (const auto* dense = std::get_if<SwiGluWeights>(&layer.ffn)) {
      sum.Add(*dense);
    } else {
      const auto& moe = std::get<MixtureOfExpertsWeights>(layer.ffn);
      const auto& spec = std::get<MixtureOfExpertsSpec>(model.spec.layer(i).ffn);
      sum.Add(moe.router);
      // Experts have one shape.
      Sum expert;
      expert.Add(moe.experts.front());
      traffic.experts.push_back({expert.bytes, spec.experts, spec.experts_per_token});
      sum.macs += spec.experts_per_token * expert.macs;
      if (moe.shared) sum.Add(*moe.shared);
      if (moe.shared_gate) sum.Add(*moe.shared_gate);
    }
  }
  traffic.prompt_macs = sum.macs;
  sum.Add(model.head);
  traffic.weight_bytes = sum.bytes;
  return traffic;
}

}  // namespace gantry::engine
