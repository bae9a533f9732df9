#include "engine/model/traffic.h"

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

int64_t Traffic::TokenWeightBytes() const {
  int64_t bytes = weight_bytes;
  for (const Experts& layer : experts) bytes += layer.per_token * layer.bytes_each;
  return bytes;
}

double Traffic::WeightBytes(absl::Span<const double> experts_read) const {
  auto bytes = static_cast<double>(weight_bytes);
  for (const Experts& layer : experts) bytes += experts_read[layer.layer] * static_cast<double>(layer.bytes_each);
  return bytes;
}

double Traffic::SequenceBytes(int sequences, double context, double kv_bytes) const {
  return sequences * (static_cast<double>(state_bytes) + context * kv_bytes);
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
      traffic.experts.push_back({i, expert.bytes, spec.experts, spec.experts_per_token});
      sum.macs += spec.experts_per_token * expert.macs;
      if (moe.shared) sum.Add(*moe.shared);
      if (moe.shared_gate) sum.Add(*moe.shared_gate);
    }
  }
  traffic.prompt_macs = sum.macs;
  traffic.head_macs = model.head.rows * model.head.columns;
  sum.Add(model.head);
  traffic.weight_bytes = sum.bytes;
  return traffic;
}

}  // namespace gantry::engine
