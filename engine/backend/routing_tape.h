// Which experts each token of one sequence went to, layer by layer: recorded on one backend, forced on another.
//
// Two backends whose router logits differ in their last bits may choose different experts where two of them nearly tie,
// and from there on compute different things. With the choices of the first forced on the second, the rest of their
// arithmetic can be compared strictly. Only the choice is taken from the tape, its order included; the weights come
// from the router logits of the backend that replays.
//
// Threads: cells of different positions may be used at once.
#pragma once

#include <algorithm>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "engine/base/check.h"
#include "engine/model/model_spec.h"

namespace gantry::engine {

class RoutingTape {
 public:
  enum class Mode { kRecord, kReplay };

  // Room for positions [0, positions) of every layer, the MTP layer included; all cells hold expert 0, 1, ...
  RoutingTape(const ModelSpec& spec, int positions) : positions_(positions) {
    for (int i = 0; i < spec.total_layers(); ++i) {
      const auto* moe = std::get_if<MixtureOfExpertsSpec>(&spec.layer(i).ffn);
      Layer& layer = layers_.emplace_back();
      layer.choices = moe == nullptr ? 0 : moe->experts_per_token;
      layer.experts.resize(static_cast<size_t>(positions) * layer.choices);
      for (size_t j = 0; j < layer.experts.size(); ++j) layer.experts[j] = static_cast<int>(j) % layer.choices;
    }
  }

  Mode mode = Mode::kRecord;

  int positions() const { return positions_; }
  int layers() const { return static_cast<int>(layers_.size()); }
  // The experts of a token in the order in which their outputs add; empty for a layer without a router.
  absl::Span<int> At(int layer, int position) {
    GANTRY_CHECK(position >= 0 && position < positions_, "the tape has room for every position that runs");
    const int choices = layers_[layer].choices;
    return absl::MakeSpan(layers_[layer].experts).subspan(static_cast<size_t>(position) * choices, choices);
  }

 private:
  struct Layer {
    int choices = 0;
    std::vector<int> experts;  // [positions, choices]
  };
  int positions_;
  std::vector<Layer> layers_;
};

// (Layer, position) pairs that went to different sets of experts. REQUIRES: tapes of the same model and length.
inline int RoutingDifferences(RoutingTape& a, RoutingTape& b) {
  int differences = 0;
  for (int layer = 0; layer < a.layers(); ++layer) {
    for (int position = 0; position < a.positions(); ++position) {
      const absl::Span<int> x = a.At(layer, position), y = b.At(layer, position);
      differences += std::is_permutation(x.begin(), x.end(), y.begin(), y.end()) ? 0 : 1;
    }
  }
  return differences;
}

}  // namespace gantry::engine
