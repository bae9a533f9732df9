#include "engine/backend/cpu/cpu_blocks.h"

#include <algorithm>
#include <cstdlib>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/attention.h"
#include "engine/backend/cpu/delta_net.h"
#include "engine/backend/cpu/feed_forward.h"
#include "engine/backend/cpu/packed_matrix.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"
#include "engine/backend/forward.h"
#include "engine/base/check.h"

namespace gantry::engine {
namespace {

using cpu::AttentionLayer;
using cpu::DeltaNetLayer;
using cpu::FeedForward;
using cpu::KernelSet;
using cpu::PaddedTo16;
using cpu::Rows;
using cpu::Weight;

class CpuBlocks final : public Blocks {
 public:
  CpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits, const KernelSet& kernels)
      : model_(std::move(model)),
        limits_(limits),
        step_(kernels, limits.threads),
        store_(&step_.pool),
        numerics_id_(absl::StrCat("cpu/4/f32x16+bf16+int8/kv-", NameOf(limits.kv_type))),
        costs_(CpuCacheCosts(model_->spec, limits.kv_type)),
        caches_(costs_.kv_page_bytes * limits.kv_pages + costs_.state_slot_bytes * limits.state_slots) {
    caches_.Touch(step_.pool);
    AllocateBuffers();
    layers_.reserve(spec().total_layers());
    for (int i = 0; i < spec().total_layers(); ++i) AddLayer(i);
    for (Layer& layer : layers_) layer.ffn->Fit(limits_.max_rows);
    for (Layer& layer : layers_) layer.ffn->Bind();
    GANTRY_CHECK(caches_taken_ == caches_.data() + costs_.kv_page_bytes * limits_.kv_pages +
                                      costs_.state_slot_bytes * limits_.state_slots,
                 "caches take what their costs say");
    head_ = store_.Add(model_->head);
    cpu::Require(&step_.normed, {&head_});
    if (model_->mtp) {
      fc_ = store_.Add(model_->mtp->fc);
      cpu::Require(&concat_, {&fc_});
    }
    store_.Prefault();
  }

  const ModelSpec& spec() const override { return model_->spec; }
  const BlocksLimits& limits() const override { return limits_; }
  CacheCosts costs() const override { return costs_; }
  const std::string& numerics_id() const override { return numerics_id_; }
  Residual residual() override { return {x_.data(), delta_.data()}; }

  void Embed(const StepBatch& batch, Residual io) override {
    GANTRY_CHECK(batch.rows() <= limits_.max_rows, "a batch fits the buffers");
    const int64_t hidden = spec().hidden;
    for (int row = 0; row < batch.rows(); ++row) {
      EmbeddingRow(batch.tokens[row], io.x + row * hidden);
      std::fill_n(io.delta + row * hidden, hidden, 0.0f);
    }
  }

  void Mixer(int index, const StepBatch& batch, Residual io) override {
    Layer& layer = layers_[index];
    step_.Normalise(batch.rows(), layer.source->mixer_norm, io);
    if (layer.attention != nullptr) {
      layer.attention->Run(batch, io);
    } else {
      layer.delta_net->Run(batch, io);
    }
  }

  void Ffn(int index, const StepBatch& batch, Residual io) override {
    Layer& layer = layers_[index];
    step_.Normalise(batch.rows(), layer.source->ffn_norm, io);
    layer.ffn->Run(batch, tape_, index, io);
  }

  void Head(HeadOf which, absl::Span<const int> rows_wanted, Residual in, float* hidden, float* logits) override {
    const int64_t size = spec().hidden, vocab = spec().vocab_rows;
    const int count = static_cast<int>(rows_wanted.size());
    GANTRY_CHECK(logits == nullptr || count <= limits_.max_head_rows, "rows with logits fit the limit");
    const std::vector<float>& norm = which == HeadOf::kTrunk ? model_->final_norm : model_->mtp->final_norm;
    step_.pool.ParallelFor(count, [&](int64_t i, int) {
      // x keeps its value: the same row may be asked for again.
      const float* x = in.x + rows_wanted[i] * size;
      const float* delta = in.delta + rows_wanted[i] * size;
      float* row = step_.normed.row(i);
      for (int64_t j = 0; j < size; ++j) row[j] = x[j] + delta[j];
      step_.kernels.floats->rms_norm(row, norm.data(), size, spec().rms_eps, row);
      std::copy_n(row, size, hidden + i * size);
      if (logits != nullptr) step_.normed.Convert(i, step_.kernels);
    });
    if (logits == nullptr) return;
    for (int i = 0; i < count; ++i) logit_rows_[i] = logits + i * vocab;
    step_.MatMul({{head_, step_.normed, logit_rows_.data()}}, count);
  }

  void MtpInput(const StepBatch& batch, const float* hidden, Residual io) override {
    const int64_t size = spec().hidden;
    const MtpWeights& mtp = *model_->mtp;
    const cpu::Kernels& kernels = *step_.kernels.floats;
    step_.pool.ParallelFor(batch.rows(), [&](int64_t i, int) {
      float* row = concat_.row(i);
      EmbeddingRow(batch.tokens[i], row);
      kernels.rms_norm(row, mtp.embedding_norm.data(), size, spec().rms_eps, row);
      kernels.rms_norm(hidden + i * size, mtp.hidden_norm.data(), size, spec().rms_eps, row + size);
      concat_.Convert(i, step_.kernels);
      std::fill_n(io.delta + i * size, size, 0.0f);
      step_.out_rows[i] = io.x + i * size;
    });
    step_.MatMul({{fc_, concat_, step_.out_rows.data()}}, batch.rows());
  }

  void ZeroState(StateSlot slot) override {
    for (Layer& layer : layers_) {
      if (layer.delta_net != nullptr) layer.delta_net->ZeroState(slot);
    }
  }

  void CopyState(StateSlot from, StateSlot to) override {
    for (Layer& layer : layers_) {
      if (layer.delta_net != nullptr) layer.delta_net->CopyState(from, to);
    }
  }

  bool RowsAreFinite(Residual in, int first_row, int rows) const override {
    return HostRowsAreFinite(in, spec().hidden, first_row, rows);
  }

  int threads() const override { return step_.pool.threads(); }
  void ParallelFor(int count, absl::FunctionRef<void(int index, int thread)> body) override {
    step_.pool.ParallelFor(count, [&](int64_t index, int thread) { body(static_cast<int>(index), thread); });
  }

  void ZeroPage(KvPage page) override {
    for (Layer& layer : layers_) {
      if (layer.attention != nullptr) layer.attention->ZeroPage(page);
    }
  }
  void SetRouting(RoutingTape* tape) override { tape_ = tape; }
  int ExpertsRead(int layer) const override { return layers_[layer].ffn->experts_read(); }

 private:
  struct Layer {
    const LayerWeights* source = nullptr;
    std::unique_ptr<AttentionLayer> attention;  // or
    std::unique_ptr<DeltaNetLayer> delta_net;
    std::unique_ptr<FeedForward> ffn;
  };

  void AddLayer(int index) {
    Layer& layer = layers_.emplace_back();
    const LayerSpec& shape = spec().layer(index);
    layer.source = &model_->layer(index);
    if (const auto* attention = std::get_if<AttentionSpec>(&shape.mixer)) {
      uint8_t* memory = TakeCache(AttentionLayer::KvPageBytes(*attention, limits_.kv_type) * limits_.kv_pages);
      layer.attention = std::make_unique<AttentionLayer>(*attention, std::get<AttentionWeights>(layer.source->mixer),
                                                         limits_, memory, &store_, &step_, &attention_buffers_);
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(shape.mixer);
      uint8_t* memory = TakeCache(DeltaNetLayer::StateSlotBytes(net) * limits_.state_slots);
      layer.delta_net = std::make_unique<DeltaNetLayer>(net, std::get<GatedDeltaNetWeights>(layer.source->mixer),
                                                        limits_, memory, &store_, &step_);
    }
    layer.ffn = std::make_unique<FeedForward>(shape.ffn, *layer.source, &store_, &step_, &expert_buffers_);
  }

  uint8_t* TakeCache(int64_t bytes) {
    uint8_t* memory = caches_taken_;
    caches_taken_ += bytes;
    return memory;
  }

  void AllocateBuffers() {
    const int64_t rows = limits_.max_rows, hidden = spec().hidden;
    int64_t mixer_in = 0, mixer_out = 0, sides = 0, channels = 0;
    for (int i = 0; i < spec().total_layers(); ++i) {
      if (const auto* attention = std::get_if<AttentionSpec>(&spec().layer(i).mixer)) {
        const int64_t query = int64_t{attention->query_heads} * attention->head_dim;
        mixer_in = std::max(mixer_in, query * (attention->output_gate ? 2 : 1));
        mixer_out = std::max(mixer_out, query);
        sides = std::max(sides, int64_t{attention->kv_heads} * attention->head_dim);
      } else {
        const auto& net = std::get<GatedDeltaNetSpec>(spec().layer(i).mixer);
        const int64_t value = int64_t{net.value_heads} * net.value_dim;
        mixer_in = std::max<int64_t>({mixer_in, net.conv_channels(), net.value_heads * PaddedTo16(net.value_dim)});
        mixer_out = std::max(mixer_out, value);
        sides = std::max<int64_t>({sides, value, net.value_heads});
        channels = std::max<int64_t>(channels, net.conv_channels());
      }
    }
    step_.hidden = hidden;
    step_.rms_eps = spec().rms_eps;
    step_.normed.Resize(std::max<int64_t>(rows, limits_.max_head_rows), hidden);
    step_.wide.Resize(rows, mixer_in);
    step_.mixed.Resize(rows, mixer_out);
    step_.side_a.Resize(rows, sides);
    step_.side_b.Resize(rows, sides);
    step_.side_c.Resize(rows, sides);
    step_.conv.Resize(rows, channels);
    step_.out_rows.resize(rows);
    x_.resize(rows * hidden);
    delta_.resize(rows * hidden);
    concat_.Resize(rows, 2 * hidden);
    logit_rows_.resize(limits_.max_head_rows);
  }

  // A head that is the embedding and was packed holds its rows, and the file's pages are not needed again.
  void EmbeddingRow(TokenId token, float* out) const {
    if (head_.form == Weight::Form::kPacked && model_->head.data == model_->embedding.data) {
      cpu::UnpackRow(head_.packed, token, out);
    } else {
      ReadRow(model_->embedding, token, out);
    }
  }

  std::shared_ptr<const Model> model_;
  BlocksLimits limits_;
  cpu::Step step_;
  cpu::WeightStore store_;
  cpu::ExpertBuffers expert_buffers_;
  std::string numerics_id_;
  CacheCosts costs_;
  cpu::HugeBuffer caches_;  // every layer's pages and slots
  uint8_t* caches_taken_ = caches_.data();
  cpu::AttentionBuffers attention_buffers_;
  std::vector<Layer> layers_;
  Weight head_, fc_;
  RoutingTape* tape_ = nullptr;

  std::vector<float> x_, delta_;  // [max_rows, H]
  Rows concat_;                   // [max_rows, 2 H]: input of the MTP layer's projection
  std::vector<float*> logit_rows_;
};

absl::Status CheckModel(const ModelSpec& spec) {
  for (int i = 0; i < spec.total_layers(); ++i) {
    if (const auto* attention = std::get_if<AttentionSpec>(&spec.layer(i).mixer)) {
      if (attention->head_dim > AttentionLayer::kHeadDimMax) {
        return absl::InvalidArgumentError(absl::StrCat("layer ", i, ": head_dim ", attention->head_dim,
                                                       ", the CPU backend takes at most ",
                                                       AttentionLayer::kHeadDimMax));
      }
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(spec.layer(i).mixer);
      if (net.key_dim > DeltaNetLayer::kKeyDimMax || net.value_dim % cpu::kLanes != 0) {
        return absl::InvalidArgumentError(absl::StrCat("layer ", i, ": delta-net heads of ", net.key_dim, " x ",
                                                       net.value_dim,
                                                       ", the CPU backend takes key_dim <= ", DeltaNetLayer::kKeyDimMax,
                                                       " and value_dim in multiples of ", cpu::kLanes));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

CacheCosts CpuCacheCosts(const ModelSpec& spec, KvType kv_type) {
  CacheCosts costs;
  for (int i = 0; i < spec.total_layers(); ++i) {
    if (const auto* attention = std::get_if<AttentionSpec>(&spec.layer(i).mixer)) {
      costs.kv_page_bytes += AttentionLayer::KvPageBytes(*attention, kv_type);
    } else {
      costs.state_slot_bytes += DeltaNetLayer::StateSlotBytes(std::get<GatedDeltaNetSpec>(spec.layer(i).mixer));
    }
  }
  return costs;
}

absl::StatusOr<std::unique_ptr<Blocks>> MakeCpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits) {
  if (limits.max_rows < 1 || limits.max_head_rows < 1 || limits.kv_pages < 1 || limits.state_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat("limits cannot hold one sequence: ", limits.max_rows, " rows, ",
                                                   limits.max_head_rows, " head rows, ", limits.kv_pages, " pages, ",
                                                   limits.state_slots, " state slots; each must be at least 1"));
  }
  if (absl::Status status = CheckModel(model->spec); !status.ok()) return status;
  const std::optional<KernelSet> kernels = cpu::ChooseKernels();
  if (!kernels.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("GANTRY_CPU_ISA is `", std::getenv("GANTRY_CPU_ISA"),
                     "`, expected scalar, avx2 or avx512, as far as this machine has them"));
  }
  return std::make_unique<CpuBlocks>(std::move(model), limits, *kernels);
}

}  // namespace gantry::engine
