// GGUF files of small models, made here: every family must compute what its safetensors compute, every spelling that
// converters use must give the same model, every damage a message that says what was expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/backend/widened_model_test_util.h"
#include "engine/format/quant_blocks.h"
#include "engine/model/model_text.h"
#include "engine/text/tokenizer.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/shapes.h"
#include "tools/make_model/write_model.h"

namespace gantry::make_model {
namespace {

using engine::DType;
using engine::GoldenCase;
using engine::LoadModel;
using engine::Model;
using engine::TokenId;
using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kThreads = 2;
constexpr double kReferenceBound = 2e-3;
const std::string kRoot = GANTRY_SOURCE_DIR;

std::string TempName(const std::string& tail) {
  static int count = 0;
  return absl::StrCat(testing::TempDir(), "/gantry_make_model_test_", getpid(), "_", count++, tail);
}

// Writes, loads, removes: the mapping outlives the name.
struct Loaded {
  absl::Status status;
  std::shared_ptr<const Model> model;
};
Loaded Load(const GgufPlan& plan) {
  const std::string path = TempName(".gguf");
  EXPECT_TRUE(WriteGguf(plan, path, kThreads).ok());
  auto model = LoadModel(path);
  std::filesystem::remove(path);
  return model.ok() ? Loaded{absl::OkStatus(), *model} : Loaded{model.status(), nullptr};
}

GgufPlan PlanOf(const std::string& golden, const std::string& type = "f32") {
  return PlanGguf(OpenCheckpoint(engine::Golden(golden).model).value(), type).value();
}

// Logits of a few tokens, MTP logits after them when there is an MTP layer.
std::vector<float> Logits(const std::shared_ptr<const Model>& model, const engine::BlocksFactory& factory) {
  auto blocks = factory(model, engine::TestLimits()).value();
  engine::SequenceRunner runner(*blocks);
  const std::vector<TokenId> ids = engine::TestRandom(3).Tokens(12, model->spec.vocab_rows);
  const int vocab = model->spec.vocab_rows;
  std::vector<float> hidden(ids.size() * model->spec.hidden), logits(ids.size() * vocab);
  runner.Append(ids, 0, hidden.data(), logits.data());
  if (model->spec.mtp) {
    std::vector<float> mtp_logits(ids.size() * vocab);
    runner.AppendMtp(0, ids, hidden.data(), 0, nullptr, mtp_logits.data());
    logits.insert(logits.end(), mtp_logits.begin(), mtp_logits.end());
  }
  return logits;
}

double Deviation(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float v : values) {
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / n - sum / n * sum / n);
}

// ---- goldens, from GGUF ----

TEST(GgufGoldenTest, EveryFamilyEqualsOtherPeoplesImplementationsFromGguf) {
  for (const char* family : {"llama3", "mixtral", "qwen3_dense", "qwen3_moe", "qwen3_5_moe"}) {
    for (const char* type : {"f32", "bf16"}) {
      GoldenCase golden = engine::Golden(family);
      const std::string path = TempName(".gguf");
      ASSERT_TRUE(WriteGguf(PlanOf(family, type), path, kThreads).ok());
      golden.model = path;
      golden.name = absl::StrCat(family, " gguf ", type);
      CheckGolden(golden, engine::MakeReferenceBlocks, kReferenceBound);
      CheckGolden(golden, engine::OfWidened(engine::MakeCpuBlocks), engine::KvBound(engine::BlocksLimits{}.kv_type));
      std::filesystem::remove(path);
    }
  }
}

// Both backends read the same blocks. What the blocks lose shows where no expert choice can flip: in dense models.
TEST(GgufGoldenTest, BlockTypesStayNearTheGolden) {
  const struct {
    const char* family;
    const char* type;
    double bound;  // of the logits' root mean square difference, in deviations of the logits
  } rows[] = {{"llama3", "q8_0", 0.05},  {"llama3", "q5_0", 0.3},       {"llama3", "q4_0", 0.5},
              {"llama3", "q4_1", 0.5},   {"qwen3_dense", "q8_0", 0.05}, {"qwen3_dense", "q4_1", 0.5},
              {"qwen3_5_moe", "q8_0", 1}};
  for (const auto& row : rows) {
    SCOPED_TRACE(absl::StrCat(row.family, " ", row.type));
    const std::vector<float> exact =
        Logits(LoadModel(engine::Golden(row.family).model).value(), engine::MakeReferenceBlocks);
    const Loaded loaded = Load(PlanOf(row.family, row.type));
    ASSERT_TRUE(loaded.status.ok()) << loaded.status;
    const std::vector<float> reference = Logits(loaded.model, engine::MakeReferenceBlocks);
    std::vector<float> difference(exact.size());
    for (size_t i = 0; i < exact.size(); ++i) difference[i] = reference[i] - exact[i];
    const double relative = Deviation(difference) / Deviation(exact);
    EXPECT_LT(relative, row.bound);
    EXPECT_GT(relative, 1e-4) << "not the type that was asked for";
    // The CPU backend rounds activations to int8 where it multiplies blocks: an error like that of Q8_0 itself, and in
    // the mixture, where an expert choice may flip, a larger one.
    const std::vector<float> cpu = Logits(loaded.model, engine::MakeCpuBlocks);
    for (size_t i = 0; i < exact.size(); ++i) difference[i] = cpu[i] - reference[i];
    EXPECT_LT(Deviation(difference) / Deviation(exact), row.bound < 1 ? 0.05 : 1);
    std::printf("%s %s: logits off by %.4f deviations\n", row.family, row.type, relative);
  }
}

// ---- spellings ----

GgufTensor& Find(GgufPlan& plan, const std::string& name) {
  for (GgufTensor& tensor : plan.tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name;
  return plan.tensors.front();
}
void Drop(GgufPlan& plan, const std::string& prefix) {
  std::erase_if(plan.tensors, [&](const GgufTensor& tensor) { return absl::StartsWith(tensor.name, prefix); });
}
void SetKey(GgufPlan& plan, const std::string& key, GgufValue value) {
  std::erase_if(plan.keys, [&](const auto& entry) { return entry.first == key; });
  plan.keys.emplace_back(key, std::move(value));
}
void DropKey(GgufPlan& plan, const std::string& key) {
  std::erase_if(plan.keys, [&](const auto& entry) { return entry.first == key; });
}
SourceTensor Constant(std::vector<int64_t> shape, float value) {
  SourceTensor tensor;
  tensor.shape = std::move(shape);
  tensor.read = [columns = tensor.columns(), value](int64_t, float* out) { std::fill_n(out, columns, value); };
  return tensor;
}

TEST(GgufLoaderTest, SpellingsOfTheSameModelGiveTheSameBits) {
  const Loaded plain = Load(PlanOf("qwen3_5_moe"));
  ASSERT_TRUE(plain.status.ok()) << plain.status;
  ASSERT_TRUE(plain.model->spec.mtp.has_value());
  const std::vector<float> expected = Logits(plain.model, engine::MakeReferenceBlocks);
  const struct {
    const char* what;
    std::function<void(GgufPlan&)> change;
  } rows[] = {
      {"key/value heads layer by layer",
       [](GgufPlan& p) {
         SetKey(p, "qwen35moe.attention.head_count_kv", std::vector<int32_t>{0, 0, 0, 2, 0, 0, 0, 2, 2});
       }},
      {"recurrent layers one by one",
       [](GgufPlan& p) {
         SetKey(p, "qwen35moe.full_attention_interval", uint32_t{3});
         SetKey(p, "qwen35moe.attention.recurrent_layers", std::vector<int32_t>{1, 1, 1, 0, 1, 1, 1, 0, 0});
       }},
      {"dt without .bias", [](GgufPlan& p) { Find(p, "blk.0.ssm_dt.bias").name = "blk.0.ssm_dt"; }},
      {"gate and up fused",
       [](GgufPlan& p) {
         for (int block = 0; block < 9; ++block) {
           const std::string prefix = absl::StrCat("blk.", block, ".ffn_");
           const SourceTensor gate = Find(p, prefix + "gate_exps.weight").source;
           const SourceTensor up = Find(p, prefix + "up_exps.weight").source;
           const int64_t width = gate.shape[1];
           SourceTensor both;
           both.shape = {gate.shape[0], 2 * width, gate.shape[2]};
           both.read = [gate, up, width](int64_t row, float* out) {
             const int64_t expert = row / (2 * width), i = row % (2 * width);
             (i < width ? gate : up).read(expert * width + i % width, out);
           };
           Drop(p, prefix + "up_exps.weight");
           GgufTensor& tensor = Find(p, prefix + "gate_exps.weight");
           tensor.name = prefix + "gate_up_exps.weight";
           tensor.source = both;
         }
       }},
      {"vision tower and old MTP names",
       [](GgufPlan& p) {
         p.tensors.push_back({"v.blk.0.weight", Constant({4, 8}, 1)});
         p.tensors.push_back({"mtp.fc.weight", Constant({4, 8}, 1)});
       }},
      {"copies of embedding and head in the MTP block",
       [](GgufPlan& p) {
         p.tensors.push_back({"blk.8.nextn.embed_tokens.weight", Find(p, "token_embd.weight").source});
         p.tensors.push_back({"blk.8.nextn.shared_head_head.weight", Find(p, "output.weight").source});
       }},
      {"keys left to their defaults",
       [](GgufPlan& p) {
         for (const char* key : {"qwen35moe.full_attention_interval", "qwen35moe.ssm.conv_kernel",
                                 "qwen35moe.rope.freq_base", "qwen35moe.rope.dimension_sections"}) {
           DropKey(p, key);
         }
       }},
  };
  for (const auto& row : rows) {
    GgufPlan plan = PlanOf("qwen3_5_moe");
    row.change(plan);
    const Loaded loaded = Load(plan);
    ASSERT_TRUE(loaded.status.ok()) << row.what << ": " << loaded.status;
    EXPECT_EQ(Logits(loaded.model, engine::MakeReferenceBlocks), expected) << row.what;
  }
}

TEST(GgufLoaderTest, FileWithoutItsMtpBlockLosesItOnly) {
  const std::vector<float> expected = Logits(Load(PlanOf("qwen3_5_moe")).model, engine::MakeReferenceBlocks);
  GgufPlan plan = PlanOf("qwen3_5_moe");
  Drop(plan, "blk.8.");
  const Loaded loaded = Load(plan);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  EXPECT_FALSE(loaded.model->spec.mtp.has_value());
  const std::vector<float> logits = Logits(loaded.model, engine::MakeReferenceBlocks);
  EXPECT_EQ(logits, std::vector<float>(expected.begin(), expected.begin() + static_cast<int64_t>(logits.size())));
}

// One expert a tensor, as the oldest Mixtral files have them; and a router of its own width.
TEST(GgufLoaderTest, ExpertsMayStandOneByOne) {
  GgufPlan plan = PlanOf("mixtral");
  const std::vector<float> expected = Logits(Load(plan).model, engine::MakeReferenceBlocks);
  std::vector<GgufTensor> tensors;
  for (const GgufTensor& tensor : plan.tensors) {
    absl::string_view name = tensor.name;
    if (!absl::ConsumeSuffix(&name, "_exps.weight")) {
      tensors.push_back(tensor);
      continue;
    }
    for (int64_t e = 0; e < tensor.source.shape[0]; ++e) {
      SourceTensor one;
      one.shape = {tensor.source.shape[1], tensor.source.shape[2]};
      one.read = [all = tensor.source, first = e * one.shape[0]](int64_t row, float* out) {
        all.read(first + row, out);
      };
      tensors.push_back({absl::StrCat(name, ".", e, ".weight"), one});
    }
  }
  plan.tensors = tensors;
  const Loaded loaded = Load(plan);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  EXPECT_EQ(loaded.model->spec.family, "mixtral");
  EXPECT_EQ(Logits(loaded.model, engine::MakeReferenceBlocks), expected);
}

TEST(GgufLoaderTest, SlidingWindowEndsTheContext) {
  GgufPlan plan = PlanOf("llama3");
  SetKey(plan, "llama.attention.sliding_window", uint32_t{1024});
  EXPECT_EQ(Load(plan).model->spec.max_context, 1024);
}

TEST(GgufLoaderTest, YarnKeysStretchTheRotation) {
  GgufPlan plan = PlanOf("qwen3_dense");
  SetKey(plan, "qwen3.rope.scaling.type", std::string("yarn"));
  SetKey(plan, "qwen3.rope.scaling.factor", 4.0f);
  SetKey(plan, "qwen3.rope.scaling.original_context_length", uint32_t{1024});
  const Loaded loaded = Load(plan);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  const engine::RopeSpec& rope = std::get<engine::AttentionSpec>(loaded.model->spec.layers[0].mixer).rope;
  EXPECT_NEAR(rope.magnitude, 0.1 * std::log(4.0) + 1, 1e-12);
  EXPECT_EQ(rope.frequencies.front(), 1.0);
  EXPECT_NEAR(rope.frequencies.back(), std::pow(1e6, -30.0 / 32) / 4, 1e-12);
}

TEST(GgufLoaderTest, DamagedModelsAreRefusedNamingTensorOrKeyExpectedAndFound) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const struct {
    const char* what;
    std::function<void(GgufPlan&)> change;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"unknown architecture", [](GgufPlan& p) { SetKey(p, "general.architecture", std::string("gpt9")); }, kInvalid,
       "general.architecture `gpt9` is not supported; supported are: llama, qwen3, qwen3moe, qwen35moe"},
      {"no architecture", [](GgufPlan& p) { DropKey(p, "general.architecture"); }, kInvalid,
       "key `general.architecture` is missing"},
      {"missing size", [](GgufPlan& p) { DropKey(p, "qwen35moe.embedding_length"); }, kInvalid,
       "key `qwen35moe.embedding_length` is missing"},
      {"size of another type", [](GgufPlan& p) { SetKey(p, "qwen35moe.embedding_length", std::string("64")); },
       kInvalid, "`qwen35moe.embedding_length`: expected an integer in [1, 1048576], found `64`"},
      {"more experts a token than experts", [](GgufPlan& p) { SetKey(p, "qwen35moe.expert_used_count", uint32_t{17}); },
       kInvalid, "`qwen35moe.expert_used_count`: expected an integer in [1, 16], found 17"},
      {"heads that do not divide", [](GgufPlan& p) { SetKey(p, "qwen35moe.attention.head_count_kv", uint32_t{3}); },
       kInvalid, "4 attention heads are no multiple of 3"},
      {"unequal heads of layers",
       [](GgufPlan& p) {
         SetKey(p, "qwen35moe.attention.head_count_kv", std::vector<int32_t>{0, 1, 2});
       },
       kInvalid, "`qwen35moe.attention.head_count_kv`: expected one number of heads, found 1 and 2"},
      {"value heads that do not divide", [](GgufPlan& p) { SetKey(p, "qwen35moe.ssm.group_count", uint32_t{3}); },
       kInvalid, "4 delta-net value heads are no multiple of 3"},
      {"keys and values of unequal length",
       [](GgufPlan& p) { SetKey(p, "qwen35moe.attention.value_length", uint32_t{32}); }, kInvalid,
       "`qwen35moe.attention.value_length`: expected an integer in [64, 64], found 32"},
      {"too many rotated dimensions", [](GgufPlan& p) { SetKey(p, "qwen35moe.rope.dimension_count", uint32_t{128}); },
       kInvalid, "`qwen35moe.rope.dimension_count`: 128 rotated dimensions of 64"},
      {"other rope scaling", [](GgufPlan& p) { SetKey(p, "qwen35moe.rope.scaling.type", std::string("longrope")); },
       kInvalid, "`qwen35moe.rope.scaling.type`: expected none, linear or yarn, found longrope"},
      {"two MTP layers", [](GgufPlan& p) { SetKey(p, "qwen35moe.nextn_predict_layers", uint32_t{2}); }, kInvalid,
       "`qwen35moe.nextn_predict_layers`: expected an integer in [0, 1], found 2"},
      {"too few recurrent layers",
       [](GgufPlan& p) {
         SetKey(p, "qwen35moe.attention.recurrent_layers", std::vector<int32_t>{1, 1, 1});
       },
       kInvalid, "`qwen35moe.attention.recurrent_layers`: expected 8 entries, found 3"},
      {"stop id beyond the vocabulary", [](GgufPlan& p) { SetKey(p, "tokenizer.ggml.eos_token_id", uint32_t{320}); },
       kInvalid, "`tokenizer.ggml.eos_token_id`: expected an integer in [0, 319], found 320"},
      {"no embedding", [](GgufPlan& p) { Drop(p, "token_embd."); }, kNotFound,
       "tensor token_embd.weight: expected a matrix, found none"},
      {"missing tensor", [](GgufPlan& p) { Drop(p, "blk.3.attn_q.weight"); }, kNotFound,
       "tensor blk.3.attn_q.weight: expected shape [512, 64], found none"},
      {"mis-shaped tensor",
       [](GgufPlan& p) {
         Find(p, "blk.3.attn_q.weight").source = Constant({64, 512}, 1);
       },
       kInvalid, "tensor blk.3.attn_q.weight: expected shape [512, 64], found [64, 512]"},
      {"one expert too few",
       [](GgufPlan& p) {
         Find(p, "blk.0.ffn_down_exps.weight").source = Constant({15, 64, 32}, 1);
       },
       kInvalid, "tensor blk.0.ffn_down_exps.weight: expected shape [16, 64, 32], found [15, 64, 32]"},
      {"bias that nobody reads",
       [](GgufPlan& p) {
         p.tensors.push_back({"blk.3.attn_q.bias", Constant({512}, 1)});
       },
       kInvalid, "tensor blk.3.attn_q.bias [512] belongs to nothing that the file's metadata describes"},
      {"another head for drafts",
       [](GgufPlan& p) {
         p.tensors.push_back({"blk.8.nextn.shared_head_head.weight", Constant({320, 64}, 1)});
       },
       kInvalid, "tensor blk.8.nextn.shared_head_head.weight [320, 64] belongs to nothing"},
      {"half an MTP block", [](GgufPlan& p) { Drop(p, "blk.8.nextn.eh_proj."); }, kNotFound,
       "tensor blk.8.nextn.eh_proj.weight: expected shape [64, 128], found none"},
      {"divisors of nothing",
       [](GgufPlan& p) {
         p.tensors.push_back({"rope_freqs.weight", Constant({8}, 0)});
       },
       kInvalid, "tensor rope_freqs.weight: [0]: expected a positive number, found 0"},
  };
  for (const auto& row : rows) {
    GgufPlan plan = PlanOf("qwen3_5_moe");
    row.change(plan);
    const absl::Status status = Load(plan).status;
    EXPECT_EQ(status.code(), row.code) << row.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(".gguf: ")) << row.what;
  }
}

// A factor beside NVFP4 weights, one for each expert: as if it stood in the weights. There is no encoder of the type,
// so the blocks are written as another type of equal size and relabelled: Q4_0 has 2 blocks where NVFP4 has 1.
TEST(GgufLoaderTest, ScalesBesideNvfp4WeightsMultiplyThem) {
  GgufPlan plan = PlanOf("qwen3_5_moe", "q4_0");
  SourceTensor scales;
  scales.shape = {16};
  scales.read = [](int64_t, float* out) {
    for (int e = 0; e < 16; ++e) out[e] = static_cast<float>(e + 1);
  };
  plan.tensors.push_back({"blk.0.ffn_gate_exps.scale", scales});
  plan.tensors.push_back({"blk.0.ffn_gate_exps.input_scale", Constant({16}, 1)});
  const std::string path = TempName(".gguf");
  ASSERT_TRUE(WriteGguf(plan, path, kThreads).ok());
  std::string bytes = engine::ReadSmallFile(path, 1 << 30).value();
  // name, dimensions (u32), three sizes (u64), type
  const std::string name = "blk.0.ffn_gate_exps.weight";
  const size_t type_at = bytes.find(name) + name.size() + 4 + 3 * 8;
  ASSERT_EQ(bytes[type_at], static_cast<char>(engine::InfoOf(DType::kQ4_0).ggml_id));
  bytes[type_at] = static_cast<char>(engine::InfoOf(DType::kNVFP4).ggml_id);
  std::ofstream(path, std::ios::binary) << bytes;
  const auto model = LoadModel(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto& experts = std::get<engine::MixtureOfExpertsWeights>((*model)->layers[0].ffn).experts;
  for (const int e : {0, 7, 15}) {
    const engine::Matrix& gate = experts[e].gate;
    EXPECT_EQ(gate.dtype, DType::kNVFP4);
    EXPECT_EQ(gate.scale, static_cast<float>(e + 1));
    std::vector<float> scaled(gate.columns), stored(gate.columns);
    engine::ReadRow(gate, 3, scaled.data());
    engine::DecodeRow(gate.dtype, gate.row(3), gate.columns, stored.data());
    for (int64_t i = 0; i < gate.columns; ++i) EXPECT_EQ(scaled[i], stored[i] * static_cast<float>(e + 1));
  }
}

// ---- random models ----

ordered_json SmallConfig(const std::string& family) {
  ordered_json config = {{"model_type", family},   {"vocab_size", 4096},       {"hidden_size", 256},
                         {"num_hidden_layers", 4}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                         {"head_dim", 64},         {"intermediate_size", 256}, {"max_position_embeddings", 512},
                         {"rms_norm_eps", 1e-6},   {"rope_theta", 1e6}};
  const auto add = [&](const ordered_json& more) { config.update(more); };
  if (family == "mixtral") add({{"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  if (family == "qwen3_moe") {
    add({{"num_experts", 8}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 256}, {"norm_topk_prob", true}});
  }
  if (family == "qwen3_5_moe") {
    add({{"num_experts", 8},
         {"num_experts_per_tok", 2},
         {"moe_intermediate_size", 256},
         {"shared_expert_intermediate_size", 256},
         {"partial_rotary_factor", 0.25},
         {"linear_num_key_heads", 2},
         {"linear_num_value_heads", 4},
         {"linear_key_head_dim", 64},
         {"linear_value_head_dim", 64}});
  }
  return config;
}

TEST(RandomModelTest, SafetensorsAndGgufOfOneSeedComputeTheSame) {
  for (const char* family : {"llama", "mixtral", "qwen3", "qwen3_moe", "qwen3_5_moe"}) {
    SCOPED_TRACE(family);
    const Checkpoint checkpoint = RandomCheckpoint(SmallConfig(family), 7).value();
    const std::string directory = TempName("");
    ASSERT_TRUE(WriteSafetensors(checkpoint, "f32", directory, kRoot + "/models/demo", kThreads).ok());
    const auto stored = LoadModel(directory);
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_THAT((*stored)->spec.stop_ids, ElementsAre(4089, 4087)) << "generation_config.json came along";
    EXPECT_TRUE(engine::ReadModelText(directory).ok());
    std::filesystem::remove_all(directory);
    const Loaded loaded = Load(PlanGguf(checkpoint, "f32").value());
    ASSERT_TRUE(loaded.status.ok()) << loaded.status;
    EXPECT_EQ(loaded.model->spec.family, (*stored)->spec.family);
    EXPECT_EQ(loaded.model->spec.mtp.has_value(), std::string(family) == "qwen3_5_moe");
    const std::vector<float> logits = Logits(*stored, engine::MakeCpuBlocks);
    EXPECT_LE(engine::MaxDifference(Logits(loaded.model, engine::MakeCpuBlocks), logits), 1e-3);
    // Logits of deviation 3, whatever the depth: variance is preserved.
    EXPECT_GT(Deviation(logits), 2);
    EXPECT_LT(Deviation(logits), 4);
  }
}

TEST(RandomModelTest, MixOfTypesIsLlamaCppsAndBothBackendsReadIt) {
  const Checkpoint checkpoint = RandomCheckpoint(SmallConfig("qwen3_5_moe"), 7).value();
  GgufPlan plan = PlanGguf(checkpoint, "q4_k_m").value();
  const struct {
    const char* tensor;
    DType type;
  } rows[] = {
      {"token_embd.weight", DType::kQ4_K},
      {"output.weight", DType::kQ6_K},
      {"output_norm.weight", DType::kF32},
      {"blk.0.attn_qkv.weight", DType::kQ5_K},
      {"blk.0.attn_gate.weight", DType::kQ4_K},
      {"blk.0.ssm_conv1d.weight", DType::kF32},
      {"blk.0.ssm_a", DType::kF32},
      {"blk.0.ffn_gate_inp.weight", DType::kF32},
      {"blk.0.ffn_gate_exps.weight", DType::kQ4_K},
      {"blk.0.ffn_down_exps.weight", DType::kQ4_K},
      {"blk.2.ffn_down_exps.weight", DType::kQ6_K},
      {"blk.3.attn_v.weight", DType::kQ4_K},
      {"blk.4.attn_v.weight", DType::kQ6_K},
      {"blk.4.ffn_down_exps.weight", DType::kQ6_K},
  };
  for (const auto& row : rows) EXPECT_EQ(Find(plan, row.tensor).type, row.type) << row.tensor;
  const Loaded loaded = Load(plan);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  const std::vector<float> reference = Logits(loaded.model, engine::MakeReferenceBlocks);
  // Activations in int8 may flip a choice of experts; what is read wrongly would be off by more than the logits vary.
  std::vector<float> difference = Logits(loaded.model, engine::MakeCpuBlocks);
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= reference[i];
  EXPECT_LT(Deviation(difference) / Deviation(reference), 0.7);
}

TEST(RandomModelTest, RowsThatAreNoWholeBlocksGetATypeThatFits) {
  ordered_json config = SmallConfig("qwen3_5_moe");
  config["moe_intermediate_size"] = 96;
  config["shared_expert_intermediate_size"] = 24;
  const Checkpoint checkpoint = RandomCheckpoint(config, 7).value();
  GgufPlan plan = PlanGguf(checkpoint, "q4_k_m").value();
  EXPECT_EQ(Find(plan, "blk.0.ffn_down_exps.weight").type, DType::kQ5_0);
  EXPECT_EQ(Find(plan, "blk.2.ffn_down_exps.weight").type, DType::kQ8_0);
  EXPECT_EQ(Find(plan, "blk.0.ffn_down_shexp.weight").type, DType::kF16);
  EXPECT_TRUE(Load(plan).status.ok());
}

TEST(RandomModelTest, SeedDecidesEveryByte) {
  const auto bytes = [](uint64_t seed, int threads) {
    const std::string path = TempName(".gguf");
    const GgufPlan plan = PlanGguf(RandomCheckpoint(SmallConfig("qwen3"), seed).value(), "q8_0").value();
    EXPECT_TRUE(WriteGguf(plan, path, threads).ok());
    const std::string result = engine::ReadSmallFile(path, 1 << 30).value();
    std::filesystem::remove(path);
    return result;
  };
  const std::string first = bytes(1, 1);
  EXPECT_TRUE(bytes(1, 3) == first);
  EXPECT_FALSE(bytes(2, 1) == first);
}

TEST(RandomModelTest, TokenizerInTheFileIsTheOneCopied) {
  GgufPlan plan = PlanGguf(RandomCheckpoint(SmallConfig("qwen3"), 1).value(), "q8_0").value();
  ASSERT_TRUE(AddTokenizer(kRoot + "/models/demo", 4096, &plan).ok());
  const std::string path = TempName(".gguf");
  ASSERT_TRUE(WriteGguf(plan, path, kThreads).ok());
  const engine::ModelText text = engine::ReadModelText(path).value();
  const auto model = LoadModel(path).value();
  std::filesystem::remove(path);
  const engine::ModelText demo = engine::ReadModelText(kRoot + "/models/demo").value();
  EXPECT_EQ(text.chat_template, demo.chat_template);
  EXPECT_THAT(model->spec.stop_ids, ElementsAre(4089, 4087));
  const auto copied = engine::text::Tokenizer::FromJson(text.tokenizer_json, "copy").value();
  const auto original = engine::text::Tokenizer::FromJson(demo.tokenizer_json, "demo").value();
  const std::string words = "<|im_start|>user\nWie viele Äpfel kosten 12 €?<|im_end|>\n";
  EXPECT_EQ(copied->Encode(words, true).value(), original->Encode(words, true).value());
  EXPECT_EQ(copied->size(), original->size());

  GgufPlan small = plan;
  EXPECT_THAT(std::string(AddTokenizer(kRoot + "/models/demo", 100, &small).message()),
              HasSubstr("the model has 100 rows"));
}

TEST(ShapesTest, NamedShapesAreWhatBenchmarksSayTheyAre) {
  const auto count = [](const std::string& shape, bool mtp) {
    ordered_json config = ShapeConfig(shape).value();
    if (mtp) config["mtp_num_hidden_layers"] = 1;
    int64_t parameters = 0;
    const Checkpoint checkpoint = RandomCheckpoint(config, 1).value();
    for (const auto& [name, tensor] : checkpoint.tensors) {
      parameters += tensor.rows() * tensor.columns();
    }
    return parameters;
  };
  EXPECT_EQ(count("bench-1b", false), 1'050'268'544);
  EXPECT_EQ(count("bench-1b", true), 1'110'896'000);
  EXPECT_EQ(count("real-heads", false), 163'274'496);
  EXPECT_THAT(std::string(ShapeConfig("huge").status().message()), HasSubstr("expected real-heads or bench-1b"));
}

TEST(MakeModelTest, UnusableRequestsAreRefusedByName) {
  EXPECT_THAT(std::string(RandomCheckpoint({{"model_type", "gpt9"}, {"hidden_size", 8}, {"num_hidden_layers", 1}}, 1)
                              .status()
                              .message()),
              HasSubstr("model_type `gpt9`: expected llama"));
  EXPECT_THAT(std::string(RandomCheckpoint({{"model_type", "llama"}}, 1).status().message()), HasSubstr("hidden_size"));
  const Checkpoint checkpoint = RandomCheckpoint(SmallConfig("llama"), 1).value();
  EXPECT_THAT(std::string(PlanGguf(checkpoint, "q9").status().message()), HasSubstr("type `q9`: expected one of f32"));
  EXPECT_THAT(std::string(WriteSafetensors(checkpoint, "q8_0", TempName(""), "", 1).message()),
              HasSubstr("expected f32, f16 or bf16 for safetensors"));
  Checkpoint damaged = checkpoint;
  damaged.tensors.erase("model.norm.weight");
  EXPECT_THAT(std::string(PlanGguf(damaged, "f32").status().message()),
              HasSubstr("tensor model.norm.weight: expected by the config, found none"));
}

}  // namespace
}  // namespace gantry::make_model
