// Block-quantised forms of every family: the CPU backend against the reference backend, both reading the same blocks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_cells_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/backend/widened_model_test_util.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/write_model.h"

namespace gantry::make_model {
namespace {

using engine::CellOracle;
using engine::KvType;
using engine::MakeCpuBlocks;
using engine::MakeReferenceBlocks;

// The CPU backend multiplies blocks with activations rounded to int8: half a step of max / 127, the largest of 32
// normal numbers being two deviations, is 4.5e-3 root mean square of an activation and so of every product. A float32
// product of some hundred terms in 16 lanes is off by 1e-7: 2^15.5 times less. How far an error of either kind moves a
// logit is a matter of the model, whose depth and gates amplify it (by ten in the dense goldens, by a thousand in
// qwen3_5_moe); so the bound of a model in blocks is what its float32 form shows, times that ratio. Thrice the ratio
// leaves room for the worst of both being two draws.
constexpr double kInt8OverFloat = 131072;  // 2^17

constexpr const char* kFamilies[] = {"llama3", "mixtral", "qwen3_dense", "qwen3_moe", "qwen3_5_moe"};

std::shared_ptr<const engine::Model> LoadAs(const Checkpoint& checkpoint, const std::string& type) {
  const std::string path = absl::StrCat(testing::TempDir(), "/gantry_quantised_cells_", getpid(), ".gguf");
  EXPECT_TRUE(WriteGguf(PlanGguf(checkpoint, type).value(), path, 1).ok());
  auto model = engine::LoadModel(path);
  std::filesystem::remove(path);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

double DifferenceOfFloats(const CellOracle& oracle) {
  return engine::DifferenceWithEqualExperts(oracle, engine::OfWidened(MakeCpuBlocks));
}

void CheckIsas(CellOracle& oracle, double bound) {
  std::vector<float> first;
  for (const char* isa : engine::CpuIsas()) {
    const auto factory = engine::WithIsa(isa, MakeCpuBlocks);
    if (first.empty()) {
      first = CheckCell(oracle, absl::StrCat("cpu ", isa), factory, KvType::kF32, bound);
      continue;
    }
    auto blocks = factory(oracle.model, engine::CellLimits()).value();
    EXPECT_TRUE(RunTaped(*blocks, oracle.ids, nullptr).logits == first)
        << oracle.name << " " << isa << ": other bits than the first instruction set";
  }
}

TEST(QuantisedCellsTest, GoldensInTypesOfBlocksOf32) {
  for (const char* family : kFamilies) {
    const engine::GoldenCase golden = engine::Golden(family);
    const Checkpoint checkpoint = OpenCheckpoint(golden.model).value();
    const double bound = kInt8OverFloat * DifferenceOfFloats(MakeCellOracle(golden, nullptr, MakeReferenceBlocks));
    for (const char* type : {"q8_0", "q4_0", "q4_1"}) {
      CellOracle oracle = MakeCellOracle(golden, LoadAs(checkpoint, type), MakeReferenceBlocks);
      oracle.name = absl::StrCat(family, " ", type);
      CheckIsas(oracle, bound);
    }
    // No int8 kernels for this one: decoded to floats, tile by tile.
    CellOracle oracle = MakeCellOracle(golden, LoadAs(checkpoint, "q5_0"), MakeReferenceBlocks);
    oracle.name = absl::StrCat(family, " q5_0");
    CheckIsas(oracle, engine::KvBound(KvType::kF32));
  }
}

// The goldens' rows are shorter than a block of 256: random weights of the same families, wider.
TEST(QuantisedCellsTest, WiderModelsInTypesOfBlocksOf256) {
  for (const char* family : kFamilies) {
    auto config = nlohmann::ordered_json::parse(std::ifstream(engine::Golden(family).model + "/config.json"));
    for (const char* key :
         {"hidden_size", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"}) {
      if (config.contains(key)) config[key] = 256;
    }
    const Checkpoint checkpoint = RandomCheckpoint(config, 3).value();
    engine::TestRandom random(5);
    const std::vector<engine::TokenId> prompt = random.Tokens(24, config["vocab_size"]),
                                       continuation = random.Tokens(8, config["vocab_size"]);
    const auto oracle_of = [&](const std::string& type) {
      return engine::MakeCellOracle(absl::StrCat(family, " wide ", type), LoadAs(checkpoint, type), prompt,
                                    continuation, MakeReferenceBlocks);
    };
    const double bound = kInt8OverFloat * DifferenceOfFloats(oracle_of("f32"));
    for (const char* type : {"q4_k_m", "q5_k"}) {  // the mix has Q4_K, Q6_K and, where q/k/v are fused, Q5_K
      CellOracle oracle = oracle_of(type);
      CheckIsas(oracle, bound);
    }
  }
}

}  // namespace
}  // namespace gantry::make_model
