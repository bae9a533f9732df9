// What tokens must move and multiply, from the model alone: the roofline that measured speeds are held against.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/model.h"

namespace gantry::engine {

struct Traffic {
  // Bytes of weights as stored that every round reads once, whatever the number of its rows: dense matrices, routers,
  // shared experts, the head; not the embedding, of which a row reads one row. The MTP layer is not in it.
  int64_t weight_bytes = 0;
  struct Experts {
    int64_t bytes_each = 0;
    int count = 0, per_token = 0;
  };
  std::vector<Experts> experts;  // of each layer that has them
  // Recurrent state and convolution columns of one sequence, read and written once.
  int64_t state_bytes = 0;
  // Multiply-adds of one prompt token with weights; without the head, for it needs no logits.
  int64_t prompt_macs = 0;

  // Of weights, by a round of one row for each of `rows` sequences. Which experts the rows choose is taken as uniform
  // and independent, so `count * (1 - (1 - per_token / count)^rows)` of them are read; exact for one row.
  double WeightBytes(int rows) const;
  // Of weights, states and `context` positions of each sequence, whose keys and values take kv_bytes each.
  double RoundBytes(int rows, double context, double kv_bytes) const;
};
Traffic TrafficOf(const Model& model);

}  // namespace gantry::engine
