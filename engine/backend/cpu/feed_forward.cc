#include "engine/backend/cpu/feed_forward.h"

#include <algorithm>
#include <cmath>

namespace gantry::engine::cpu {
namespace {

float Sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

// Whether a unit of this form may reach over several work items of the weights that compute it.
bool WiderThanItems(ActivationForm form) {
  return UnitOf(form) > kItemRowsUnit;
}

}  // namespace

void ExpertBuffers::Fit(int64_t rows, int64_t choices, int64_t experts, int64_t width, int64_t hidden, int threads) {
  rows_ = std::max(rows_, rows);
  choices_ = std::max(choices_, choices);
  experts_ = std::max(experts_, experts);
  width_ = std::max(width_, width);
  const int64_t places = rows_ * choices_;
  router.Resize(rows_, experts_);
  shared.Resize(rows_, 1);
  gate.Resize(places, width_);
  up.Resize(places, width_);
  down.Resize(places, hidden);
  expert.resize(places);
  weight.resize(places);
  place.resize(places);
  begin.resize(experts_ + 1);
  cursor.resize(experts_);
  active.reserve(experts_);
  order.resize(experts_ * threads);
  in.resize(places);
  for (std::vector<ActivationRow>& rows_of_form : converted) rows_of_form.resize(places);
}

FeedForward::FeedForward(const FfnSpec& spec, const LayerWeights& weights, WeightStore* store, Step* step,
                         ExpertBuffers* buffers)
    : spec_(spec), step_(*step), buffers_(*buffers) {
  const auto add = [store](const SwiGluWeights& w) {
    return SwiGlu{store->Add(w.gate), store->Add(w.up), store->Add(w.down)};
  };
  if (const auto* dense = std::get_if<SwiGluWeights>(&weights.ffn)) {
    expert_weights_.push_back(add(*dense));
  } else {
    const auto& moe = std::get<MixtureOfExpertsWeights>(weights.ffn);
    mixture_ = true;
    router_ = store->Add(moe.router, WeightStore::Role::kDecision);
    for (const SwiGluWeights& expert : moe.experts) expert_weights_.push_back(add(expert));
    has_shared_ = moe.shared.has_value();
    if (moe.shared) shared_ = add(*moe.shared);
    if (moe.shared_gate) shared_gate_ = store->Add(*moe.shared_gate, WeightStore::Role::kDecision);
    const auto& sizes = std::get<MixtureOfExpertsSpec>(spec);
    choices_ = sizes.experts_per_token + (has_shared_ ? 1 : 0);
    experts_ = sizes.experts + (has_shared_ ? 1 : 0);
  }
  Require(&step->normed, {&router_, &shared_gate_});
  for (int e = 0; e < experts_; ++e) {
    const SwiGlu& w = weights_of(e);
    Require(&step->normed, {&w.gate, &w.up});
    for (const Weight* weight : {&w.gate, &w.up}) takes_[static_cast<int>(weight->activations())] = true;
  }
}

void FeedForward::Fit(int max_rows) {
  int64_t width = 0;
  for (int e = 0; e < experts_; ++e) width = std::max(width, weights_of(e).gate.rows);
  buffers_.Fit(max_rows, choices_, experts_, width, step_.hidden, step_.pool.threads());
}

void FeedForward::Bind() {
  for (int e = 0; e < experts_; ++e) Require(&buffers_.gate, {&weights_of(e).down});
}

void FeedForward::Run(const StepBatch& batch, RoutingTape* tape, int layer, Residual io) {
  const int rows = batch.rows();
  Choose(batch, tape, layer);
  Group(rows);
  ExpertBuffers& b = buffers_;
  // Gate, up and activation of a stretch of columns together: the activation finds them in the cache. A form that down
  // takes its input in is made there and then where a stretch holds whole units of it.
  ForExperts([&](int e) -> const Weight& { return weights_of(e).gate; },
             [&](int e, int64_t begin, int64_t end) {
               const SwiGlu& w = weights_of(e);
               const int first = b.begin[e], count = b.begin[e + 1] - first;
               const auto multiply = [&](const Weight& weight, Rows& out, const uint8_t* next) {
                 const ActivationRows in{b.in.data() + first,
                                         b.converted[static_cast<int>(weight.activations())].data() + first};
                 Multiply(step_.kernels, weight, begin, end, in, count, out.pointers() + first, next);
               };
               const bool last = end == w.gate.rows;
               multiply(w.gate, b.gate, w.up.at(begin));
               multiply(w.up, b.up, last ? nullptr : w.gate.at(end));
               for (int i = first; i < first + count; ++i) {
                 step_.kernels.floats->silu_mul(b.gate.row(i) + begin, b.up.row(i) + begin, end - begin);
                 // Experts may differ in width: what a wider one left must not enter a padded product.
                 if (last) std::fill(b.gate.row(i) + end, b.gate.row(i) + PaddedTo16(end), 0.0f);
                 const ActivationForm form = w.down.activations();
                 if (!WiderThanItems(form)) b.gate.Convert(i, step_.kernels, form, begin, end);
               }
             });
  bool wide = false;
  for (int e : b.active) wide = wide || WiderThanItems(weights_of(e).down.activations());
  if (wide) {
    step_.pool.ParallelFor(static_cast<int64_t>(rows) * choices_, [&](int64_t i, int) {
      const Weight& down = weights_of(b.expert[i]).down;
      const ActivationForm form = down.activations();
      if (WiderThanItems(form)) b.gate.Convert(b.place[i], step_.kernels, form, 0, down.columns);
    });
  }
  if (!mixture_) {
    step_.MatMul({{weights_of(0).down, b.gate, step_.DeltaRows(rows, io)}}, rows);
    return;
  }
  ForExperts([&](int e) -> const Weight& { return weights_of(e).down; },
             [&](int e, int64_t begin, int64_t end) {
               const int first = b.begin[e], count = b.begin[e + 1] - first;
               const Weight& down = weights_of(e).down;
               Multiply(step_.kernels, down, begin, end, ActivationRows::Of(b.gate, down, first), count,
                        b.down.pointers() + first);
             });
  step_.pool.ParallelFor(rows, [&](int64_t row, int) {
    float* delta = io.delta + row * step_.hidden;
    std::fill_n(delta, step_.hidden, 0.0f);
    for (int64_t i = row * choices_; i < (row + 1) * choices_; ++i) {
      step_.kernels.floats->add_weighted(delta, b.weight[i], b.down.row(b.place[i]), step_.hidden);
    }
  });
}

// Who computes what for each row; the shared expert is one more that all rows chose.
void FeedForward::Choose(const StepBatch& batch, RoutingTape* tape, int layer) {
  const int rows = batch.rows();
  ExpertBuffers& b = buffers_;
  if (!mixture_) {
    std::fill_n(b.expert.begin(), rows, 0);
    std::fill_n(b.weight.begin(), rows, 1.0f);
    return;
  }
  // Without a shared gate its product has no items.
  step_.MatMul({{router_, step_.normed, b.router.pointers()}, {shared_gate_, step_.normed, b.shared.pointers()}}, rows);
  step_.pool.ParallelFor(rows, [&](int64_t row, int thread) {
    int* chosen = &b.expert[row * choices_];
    absl::Span<int> taped;
    if (tape != nullptr) taped = tape->At(layer, batch.positions[row]);
    const bool forced = tape != nullptr && tape->mode == RoutingTape::Mode::kReplay;
    Route(b.router.row(row), forced ? taped : absl::Span<const int>(),
          b.order.data() + static_cast<int64_t>(thread) * b.experts_, chosen, &b.weight[row * choices_]);
    if (tape != nullptr && !forced) std::copy_n(chosen, taped.size(), taped.begin());
    if (!has_shared_) return;
    const int64_t choice = (row + 1) * choices_ - 1;
    b.expert[choice] = experts_ - 1;
    b.weight[choice] = shared_gate_.empty() ? 1.0f : Sigmoid(b.shared.row(row)[0]);
  });
}

// Top-k of the router's logits; ties go to the lower index, NaN comes after every number. Softmax over all experts,
// renormalised over the chosen, is the softmax over the chosen; without that, all experts stand in the divisor.
// `forced`, unless empty, names the chosen.
void FeedForward::Route(const float* logits, absl::Span<const int> forced, int* order, int* expert,
                        float* weight) const {
  const auto& moe = std::get<MixtureOfExpertsSpec>(spec_);
  const int k = moe.experts_per_token;
  for (int e = 0; e < moe.experts; ++e) order[e] = e;
  if (forced.empty()) {
    std::partial_sort(order, order + k, order + moe.experts, [logits](int a, int b) {
      if (std::isnan(logits[a]) != std::isnan(logits[b])) return std::isnan(logits[b]);
      return logits[a] > logits[b] || (!(logits[a] < logits[b]) && a < b);
    });
  } else {
    for (int i = 0; i < k; ++i) std::iter_swap(order + i, std::find(order + i, order + moe.experts, forced[i]));
  }
  const float top = forced.empty() ? logits[order[0]] : *std::max_element(logits, logits + moe.experts);
  float sum = 0;
  for (int i = 0; i < k; ++i) sum += weight[i] = std::exp(logits[order[i]] - top);
  if (moe.gating == GatingRule::kSoftmax) {
    for (int i = k; i < moe.experts; ++i) sum += std::exp(logits[order[i]] - top);
  }
  for (int i = 0; i < k; ++i) {
    expert[i] = order[i];
    weight[i] /= sum;
  }
}

// Places sorted by expert, so that each expert's weights are read once.
void FeedForward::Group(int rows) {
  ExpertBuffers& b = buffers_;
  const int choices = rows * choices_;
  std::fill_n(b.begin.begin(), experts_ + 1, 0);
  for (int i = 0; i < choices; ++i) ++b.begin[b.expert[i] + 1];
  b.active.clear();
  for (int e = 0; e < experts_; ++e) {
    if (b.begin[e + 1] > 0) b.active.push_back(e);
    b.begin[e + 1] += b.begin[e];
    b.cursor[e] = b.begin[e];
  }
  if (mixture_) experts_read_ = static_cast<int>(b.active.size()) - (has_shared_ ? 1 : 0);
  for (int i = 0; i < choices; ++i) {
    const int place = b.place[i] = b.cursor[b.expert[i]]++;
    const int row = i / choices_;
    b.in[place] = step_.normed.row(row);
    for (int form = 1; form < kActivationForms; ++form) {
      if (takes_[form]) b.converted[form][place] = step_.normed.in(static_cast<ActivationForm>(form))[row];
    }
  }
}

// body(expert, begin, end) over stretches of the weight's rows, for every active expert.
template <typename WeightOf, typename Body>
void FeedForward::ForExperts(const WeightOf& weight_of, const Body& body) {
  int64_t items = 0;
  for (int e : buffers_.active) items += weight_of(e).items;
  step_.pool.ParallelFor(items, [&](int64_t item, int) {
    for (int e : buffers_.active) {
      const Weight& weight = weight_of(e);
      if (item < weight.items) {
        body(e, item * weight.item_rows, std::min(weight.rows, (item + 1) * weight.item_rows));
        return;
      }
      item -= weight.items;
    }
  });
}

}  // namespace gantry::engine::cpu
