// What tokens must move and multiply, from the model alone: the roofline that measured speeds are held against.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/model/model.h"

namespace gantry::engine {

struct Traffic {
  // Bytes of weights as stored that every round reads once, whatever the number of its rows: dense matrices, routers,
  // shared experts, the head; not the embedding, of which a row reads one row. The MTP layer is not in it.
  int64_t weight_bytes = 0;
  struct Experts {
    int layer = 0;
    int64_t bytes_each = 0;
    int count = 0, per_token = 0;
  };
  std::vector<Experts> experts;  // of each layer of the trunk that has them
  // Recurrent state and convolution columns of one sequence, read and written once.
  int64_t state_bytes = 0;
  // Multiply-adds of one token with weights; a prompt's tokens do without the head, for they need no logits.
  int64_t prompt_macs = 0, head_macs = 0;

  // Of weights, by a round of one row.
  int64_t TokenWeightBytes() const;
  // Of weights, by a round that reads so many distinct experts, by layer of the trunk.
  double WeightBytes(absl::Span<const double> experts_read) const;
  // Of `sequences` in one round: states and `context` positions of each, whose keys and values take kv_bytes each.
  double SequenceBytes(int sequences, double context, double kv_bytes) const;
};
Traffic TrafficOf(const Model& model);

}  // namespace gantry::engine
