// A model with its BF16 matrices as float32, value for value: what a backend computes from it must equal the oracle to
// the last bits of float32 arithmetic, where BF16 kernels round activations.
#pragma once

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "engine/model/model.h"

namespace gantry::engine {

namespace widened {

using Storage = std::vector<std::vector<float>>;

inline void Widen(Matrix& matrix, Storage* storage) {
  if (matrix.dtype != DType::kBF16) return;
  std::vector<float>& wide = storage->emplace_back(matrix.rows * matrix.columns);
  for (int64_t row = 0; row < matrix.rows; ++row) ReadRow(matrix, row, &wide[row * matrix.columns]);
  matrix.data = wide.data();
  matrix.dtype = DType::kF32;
  matrix.scale = 1.0f;
}

inline void Widen(SwiGluWeights& w, Storage* storage) {
  for (Matrix* matrix : {&w.gate, &w.up, &w.down}) Widen(*matrix, storage);
}

inline void Widen(LayerWeights& layer, Storage* storage) {
  if (auto* attention = std::get_if<AttentionWeights>(&layer.mixer)) {
    for (Matrix* matrix : {&attention->q, &attention->k, &attention->v, &attention->o}) Widen(*matrix, storage);
  } else {
    auto& net = std::get<GatedDeltaNetWeights>(layer.mixer);
    for (Matrix* matrix : {&net.qkv, &net.z, &net.b, &net.a, &net.out}) Widen(*matrix, storage);
  }
  if (auto* dense = std::get_if<SwiGluWeights>(&layer.ffn)) return Widen(*dense, storage);
  auto& moe = std::get<MixtureOfExpertsWeights>(layer.ffn);
  Widen(moe.router, storage);
  for (SwiGluWeights& expert : moe.experts) Widen(expert, storage);
  if (moe.shared) Widen(*moe.shared, storage);
  if (moe.shared_gate) Widen(*moe.shared_gate, storage);
}

}  // namespace widened

inline std::shared_ptr<const Model> Widened(std::shared_ptr<const Model> model) {
  auto wide = std::make_shared<Model>(*model);
  auto storage = std::make_shared<std::pair<std::shared_ptr<const Model>, widened::Storage>>();
  storage->first = std::move(model);
  widened::Storage* floats = &storage->second;
  widened::Widen(wide->embedding, floats);
  widened::Widen(wide->head, floats);
  for (LayerWeights& layer : wide->layers) widened::Widen(layer, floats);
  if (wide->mtp) {
    widened::Widen(wide->mtp->fc, floats);
    widened::Widen(wide->mtp->layer, floats);
  }
  wide->storage = std::move(storage);
  return wide;
}

// `factory` on models with every BF16 matrix widened.
template <typename Factory>
auto OfWidened(Factory factory) {
  return [factory = std::move(factory)](std::shared_ptr<const Model> model, const auto& limits) {
    return factory(Widened(std::move(model)), limits);
  };
}

}  // namespace gantry::engine
