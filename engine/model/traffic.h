// What one token must move and multiply, from the model alone: the roofline that measured speeds are held against.
#pragma once

#include <cstdint>

#include "engine/model/model.h"

namespace gantry::engine {

struct Traffic {
  // Bytes of weights as stored that a decoding token of a batch of one reads: every dense matrix, the chosen experts,
  // the head; not the embedding, of which it reads one row. The MTP layer is not in it.
  int64_t weight_bytes = 0;
  // Multiply-adds with those weights, head excluded: a prompt token needs no logits.
  int64_t prompt_macs = 0;
  // Recurrent state and convolution columns, read and written once.
  int64_t state_bytes = 0;
};
Traffic TrafficPerToken(const Model& model);

}  // namespace gantry::engine
