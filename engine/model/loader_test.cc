// A small checkpoint, rewritten: every spelling a release may use must give the same model, every damage a message that
// says what was expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/backend/forward.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/format/safetensors.h"
#include "engine/model/model.h"

namespace gantry::engine {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kGolden = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe";

// A model directory in memory.
struct Checkpoint {
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };

  // Read once; tests change copies.
  static const Checkpoint& Golden() {
    static const Checkpoint* golden = [] {
      auto* checkpoint = new Checkpoint;
      checkpoint->config = json::parse(std::ifstream(kGolden + "/config.json"));
      const SafetensorsFile file = SafetensorsFile::Open(kGolden + "/model.safetensors").value();
      for (const auto& [name, tensor] : file.tensors()) {
        checkpoint->tensors[name] = {tensor.dtype, tensor.shape,
                                     std::string(static_cast<const char*>(tensor.data), tensor.bytes)};
      }
      return checkpoint;
    }();
    return *golden;
  }

  // Moves every tensor whose name starts with `from`.
  void Rename(const std::string& from, const std::string& to) {
    std::map<std::string, Tensor> renamed;
    for (auto& [name, tensor] : tensors) {
      renamed[absl::StartsWith(name, from) ? to + name.substr(from.size()) : name] = std::move(tensor);
    }
    tensors = std::move(renamed);
  }
  void Drop(const std::string& prefix) {
    std::erase_if(tensors, [&](const auto& entry) { return absl::StartsWith(entry.first, prefix); });
  }
  // BF16 -> F32, exact.
  void Widen(const std::string& name) {
    Tensor& tensor = tensors.at(name);
    if (tensor.dtype == "F32") return;
    ASSERT_EQ(tensor.dtype, "BF16");
    std::string wide;
    for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
      uint16_t bits;
      std::memcpy(&bits, &tensor.bytes[i], sizeof(bits));
      const float value = Bf16ToFloat(bits);
      wide.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    tensor = {"F32", tensor.shape, wide};
  }
  // One tensor per expert and matrix -> experts.gate_up_proj [E, 2 I, H] and experts.down_proj [E, H, I].
  void FuseExperts() {
    const int64_t experts = config["num_experts"], width = config["moe_intermediate_size"],
                  hidden = config["hidden_size"];
    std::vector<std::string> prefixes;
    for (const auto& [name, tensor] : tensors) {
      absl::string_view prefix = name;
      if (absl::ConsumeSuffix(&prefix, "experts.0.gate_proj.weight")) prefixes.emplace_back(prefix);
    }
    ASSERT_FALSE(prefixes.empty());
    for (const std::string& prefix : prefixes) {
      Tensor gate_up{"BF16", {experts, 2 * width, hidden}, ""}, down{"BF16", {experts, hidden, width}, ""};
      for (int64_t e = 0; e < experts; ++e) {
        const std::string expert = absl::StrCat(prefix, "experts.", e, ".");
        gate_up.bytes += tensors.extract(expert + "gate_proj.weight").mapped().bytes;
        gate_up.bytes += tensors.extract(expert + "up_proj.weight").mapped().bytes;
        down.bytes += tensors.extract(expert + "down_proj.weight").mapped().bytes;
      }
      tensors[prefix + "experts.gate_up_proj"] = gate_up;
      tensors[prefix + "experts.down_proj"] = down;
    }
  }
  // The text part under `text_config`, as in releases with a vision tower.
  void NestConfig() {
    json text = std::move(config);
    config = {{"model_type", "qwen3_5_moe"}, {"text_config", std::move(text)}};
  }

  json config;
  std::map<std::string, Tensor> tensors;
  json generation_config;  // null: no such file
  int shards = 1;
  size_t cut_bytes = 0;  // from the end of the last shard
};

void WriteSafetensors(const std::map<std::string, Checkpoint::Tensor>& tensors, const std::string& path) {
  json header = json::object();
  std::string data;
  // Wide types first keeps every tensor aligned, as the format's own writer does.
  for (const bool wide : {true, false}) {
    for (const auto& [name, tensor] : tensors) {
      if ((tensor.dtype == "F32" || tensor.dtype == "I64") != wide) continue;
      const size_t begin = data.size();
      data += tensor.bytes;
      header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
  }
  std::string text = header.dump();
  text.append(-text.size() % 8, ' ');
  const uint64_t length = text.size();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&length), sizeof(length)) << text << data;
}

// A fresh directory of its own for each call.
std::string Write(const Checkpoint& checkpoint) {
  static int count = 0;
  std::string directory = absl::StrCat(testing::TempDir(), "/gantry_loader_test_", getpid(), "_", count++);
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/config.json") << checkpoint.config.dump();
  if (!checkpoint.generation_config.is_null()) {
    std::ofstream(directory + "/generation_config.json") << checkpoint.generation_config.dump();
  }
  std::string last = directory + "/model.safetensors";
  if (checkpoint.shards == 1) {
    WriteSafetensors(checkpoint.tensors, last);
  } else {
    std::vector<std::map<std::string, Checkpoint::Tensor>> parts(checkpoint.shards);
    json index = {{"weight_map", json::object()}};
    size_t i = 0;
    for (const auto& [name, tensor] : checkpoint.tensors) {
      const int shard = static_cast<int>(i++ % parts.size());
      parts[shard][name] = tensor;
      index["weight_map"][name] = absl::StrCat("model-", shard, ".safetensors");
    }
    for (size_t shard = 0; shard < parts.size(); ++shard) {
      last = absl::StrCat(directory, "/model-", shard, ".safetensors");
      WriteSafetensors(parts[shard], last);
    }
    std::ofstream(directory + "/model.safetensors.index.json") << index.dump();
  }
  if (checkpoint.cut_bytes > 0)
    std::filesystem::resize_file(last, std::filesystem::file_size(last) - checkpoint.cut_bytes);
  return directory;
}

struct Loaded {
  absl::Status status;
  std::shared_ptr<const Model> model;
};

Loaded Load(const Checkpoint& checkpoint) {
  const std::string directory = Write(checkpoint);
  auto model = LoadModel(directory);
  std::filesystem::remove_all(directory);  // the mapping outlives the names
  return model.ok() ? Loaded{absl::OkStatus(), *model} : Loaded{model.status(), nullptr};
}

// Logits of a few tokens, MTP logits after them when there is an MTP layer.
std::vector<float> Logits(const std::shared_ptr<const Model>& model) {
  auto blocks =
      MakeReferenceBlocks(model, BlocksLimits{.max_rows = 8, .max_head_rows = 8, .kv_pages = 1, .state_slots = 1})
          .value();
  SequenceRunner runner(*blocks);
  const std::vector<TokenId> ids = {3, 1, 4, 1, 5, 9};
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

TEST(LoaderTest, SpellingsOfTheSameModelGiveTheSameBits) {
  const Loaded plain = Load(Checkpoint::Golden());
  ASSERT_TRUE(plain.status.ok()) << plain.status;
  ASSERT_TRUE(plain.model->spec.mtp.has_value());
  const std::vector<float> expected = Logits(plain.model);
  const struct {
    const char* what;
    std::function<void(Checkpoint&)> change;
  } rows[] = {
      {"nested config", [](Checkpoint& c) { c.NestConfig(); }},
      {"multimodal prefix",
       [](Checkpoint& c) {
         c.Rename("model.", "model.language_model.");
         c.tensors["model.visual.blocks.0.weight"] = {"BF16", {1}, "xx"};
       }},
      {"MTP under model.", [](Checkpoint& c) { c.Rename("mtp.", "model.mtp."); }},
      {"fused experts", [](Checkpoint& c) { c.FuseExperts(); }},
      {"wide decay",
       [](Checkpoint& c) {
         c.Widen("model.layers.0.linear_attn.A_log");
         c.Widen("model.layers.0.linear_attn.dt_bias");
         c.Widen("model.layers.0.linear_attn.norm.weight");
       }},
      {"three shards", [](Checkpoint& c) { c.shards = 3; }},
      {"flat rope keys",
       [](Checkpoint& c) {
         c.config.erase("rope_parameters");
         c.config["rope_theta"] = 1e7;
         c.config["partial_rotary_factor"] = 0.25;
         c.config["rope_scaling"] = {{"type", "mrope"}, {"mrope_section", {3, 3, 2}}};
       }},
      {"keys left to their defaults",
       [](Checkpoint& c) {
         for (const char* key :
              {"mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "rope_parameters", "rms_norm_eps", "hidden_act",
               "tie_word_embeddings", "layer_types", "linear_conv_kernel_dim"}) {
           c.config.erase(key);
         }
       }},
  };
  for (const auto& row : rows) {
    Checkpoint checkpoint = Checkpoint::Golden();
    row.change(checkpoint);
    const Loaded loaded = Load(checkpoint);
    ASSERT_TRUE(loaded.status.ok()) << row.what << ": " << loaded.status;
    EXPECT_EQ(Logits(loaded.model), expected) << row.what;
    EXPECT_EQ(loaded.model->parameters, plain.model->parameters) << row.what;
  }
}

TEST(LoaderTest, ModelWithoutMtpTensorsLosesItsMtpLayerOnly) {
  const std::vector<float> expected = Logits(Load(Checkpoint::Golden()).model);
  Checkpoint checkpoint = Checkpoint::Golden();
  checkpoint.Drop("mtp.");
  const Loaded loaded = Load(checkpoint);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  EXPECT_FALSE(loaded.model->spec.mtp.has_value());
  const std::vector<float> logits = Logits(loaded.model);
  EXPECT_EQ(logits, std::vector<float>(expected.begin(), expected.begin() + logits.size()));
}

TEST(LoaderTest, TiedHeadIsTheEmbedding) {
  Checkpoint checkpoint = Checkpoint::Golden();
  checkpoint.Drop("lm_head.");
  checkpoint.NestConfig();
  checkpoint.config["text_config"].erase("tie_word_embeddings");
  checkpoint.config["tie_word_embeddings"] = true;
  const Loaded loaded = Load(checkpoint);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status;
  EXPECT_TRUE(loaded.model->spec.tied_head);
  EXPECT_EQ(loaded.model->head.data, loaded.model->embedding.data);
  checkpoint.tensors["lm_head.weight"] = checkpoint.tensors.at("model.embed_tokens.weight");
  EXPECT_TRUE(Load(checkpoint).status.ok()) << "a second copy of the embedding is ignored";
}

TEST(LoaderTest, StopIdsComeFromTheGenerationConfigFirst) {
  Checkpoint checkpoint = Checkpoint::Golden();
  EXPECT_THAT(Load(checkpoint).model->spec.stop_ids, ElementsAre());
  checkpoint.config["eos_token_id"] = 7;
  EXPECT_THAT(Load(checkpoint).model->spec.stop_ids, ElementsAre(7));
  checkpoint.generation_config = {{"eos_token_id", {8, 9}}};
  EXPECT_THAT(Load(checkpoint).model->spec.stop_ids, ElementsAre(8, 9));
}

TEST(LoaderTest, DamagedModelsAreRefusedNamingTensorOrKeyExpectedAndFound) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  static constexpr char kQ[] = "model.layers.3.self_attn.q_proj.weight";
  const struct {
    const char* what;
    std::function<void(Checkpoint&)> change;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"unknown family", [](Checkpoint& c) { c.config["model_type"] = "llama9"; }, kInvalid,
       "config.json: model_type `llama9` is not supported; supported are: llama, mixtral, qwen3, qwen3_moe, "
       "qwen3_5_moe, "
       "qwen3_5_moe_text"},
      {"no family", [](Checkpoint& c) { c.config.erase("model_type"); }, kInvalid, "key `model_type` is missing"},
      {"missing size", [](Checkpoint& c) { c.config.erase("hidden_size"); }, kInvalid, "key `hidden_size` is missing"},
      {"size of another type", [](Checkpoint& c) { c.config["hidden_size"] = "64"; }, kInvalid,
       "`hidden_size`: expected an integer in [1, 1048576], found \"64\""},
      {"size out of range", [](Checkpoint& c) { c.config["num_hidden_layers"] = 0; }, kInvalid,
       "`num_hidden_layers`: expected an integer in [1, 1024], found 0"},
      {"more experts a token than experts", [](Checkpoint& c) { c.config["num_experts_per_tok"] = 17; }, kInvalid,
       "`num_experts_per_tok`: expected an integer in [1, 16], found 17"},
      {"heads that do not divide", [](Checkpoint& c) { c.config["num_key_value_heads"] = 3; }, kInvalid,
       "4 attention heads are no multiple of 3"},
      {"other activation", [](Checkpoint& c) { c.config["hidden_act"] = "gelu"; }, kInvalid,
       "`hidden_act`: expected silu, found gelu"},
      {"other rope", [](Checkpoint& c) { c.config["rope_parameters"]["rope_type"] = "dynamic"; }, kInvalid,
       "`rope_type`: expected default, linear, llama3 or yarn, found dynamic"},
      {"too few layer types", [](Checkpoint& c) { c.config["layer_types"].erase(0); }, kInvalid,
       "`layer_types`: expected 8 entries (num_hidden_layers), found 7"},
      {"unknown layer type", [](Checkpoint& c) { c.config["layer_types"][0] = "mamba"; }, kInvalid,
       "`layer_types`: expected full_attention or linear_attention, found mamba"},
      {"MTP with its own embedding", [](Checkpoint& c) { c.config["mtp_use_dedicated_embeddings"] = true; }, kInvalid,
       "`mtp_use_dedicated_embeddings`: expected false, found true"},
      {"stop id beyond the vocabulary", [](Checkpoint& c) { c.config["eos_token_id"] = 320; }, kInvalid,
       "`eos_token_id`: expected integers in [0, 319], found 320"},
      {"missing tensor", [](Checkpoint& c) { c.Drop(kQ); }, kNotFound,
       "model.safetensors: tensor model.layers.3.self_attn.q_proj.weight: expected shape [512, 64], found none"},
      {"missing tensor of shards",
       [](Checkpoint& c) {
         c.Drop(kQ);
         c.shards = 2;
       },
       kNotFound, "model.safetensors.index.json: tensor model.layers.3.self_attn.q_proj.weight: expected shape"},
      {"mis-shaped tensor",
       [](Checkpoint& c) {
         c.tensors[kQ].shape = {64, 512};
       },
       kInvalid, "tensor model.layers.3.self_attn.q_proj.weight: expected shape [512, 64], found [64, 512]"},
      {"other type", [](Checkpoint& c) { c.tensors[kQ].dtype = "I16"; }, kInvalid,
       "tensor model.layers.3.self_attn.q_proj.weight: expected F32, BF16 or F16, found I16"},
      {"unknown tensor",
       [](Checkpoint& c) {
         c.tensors["model.layers.9.extra"] = {"BF16", {1}, "xx"};
       },
       kInvalid, "model.safetensors: tensor model.layers.9.extra [1] belongs to nothing that config.json describes"},
      {"own head of a tied model", [](Checkpoint& c) { c.config["tie_word_embeddings"] = true; }, kInvalid,
       "tensor lm_head.weight [320, 64] belongs to nothing that config.json describes"},
      {"half an MTP layer", [](Checkpoint& c) { c.Drop("mtp.fc."); }, kNotFound,
       "tensor mtp.fc.weight: expected shape [64, 128], found none"},
      {"MTP tensors that the config denies", [](Checkpoint& c) { c.config["mtp_num_hidden_layers"] = 0; }, kInvalid,
       "tensor mtp.fc.weight [64, 128] belongs to nothing that config.json describes"},
      {"one expert missing", [](Checkpoint& c) { c.Drop("model.layers.0.mlp.experts.5.up_proj."); }, kNotFound,
       "tensor model.layers.0.mlp.experts.5.up_proj.weight: expected shape [32, 64], found none"},
      {"fused experts of another width",
       [](Checkpoint& c) {
         c.FuseExperts();
         c.tensors["model.layers.0.mlp.experts.down_proj"].shape = {16, 32, 64};
       },
       kInvalid, "tensor model.layers.0.mlp.experts.down_proj: expected shape [16, 64, 32], found [16, 32, 64]"},
      {"truncated file", [](Checkpoint& c) { c.cut_bytes = 1; }, kInvalid,
       ": truncated file: expected data up to byte "},
      {"truncated last shard",
       [](Checkpoint& c) {
         c.shards = 2;
         c.cut_bytes = 1000;
       },
       kInvalid, "model-1.safetensors: tensor "},
  };
  for (const auto& row : rows) {
    Checkpoint checkpoint = Checkpoint::Golden();
    row.change(checkpoint);
    const Loaded loaded = Load(checkpoint);
    EXPECT_EQ(loaded.status.code(), row.code) << row.what << ": " << loaded.status;
    EXPECT_THAT(std::string(loaded.status.message()), HasSubstr(row.message)) << row.what;
  }
}

TEST(LoaderTest, DirectoryWithoutAModelIsRefusedByName) {
  const absl::Status status = LoadModel("/nonexistent").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/config.json"));
}

}  // namespace
}  // namespace gantry::engine
