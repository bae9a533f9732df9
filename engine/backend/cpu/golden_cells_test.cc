// Every family on every instruction set with every KV type, against the reference backend.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_cells_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/backend/widened_model_test_util.h"

namespace gantry::engine {
namespace {

// Every family, and the demo model.
std::vector<GoldenCase> CellGoldens() {
  std::vector<GoldenCase> goldens = DecoderGoldens();
  goldens.push_back(Golden("qwen3_5_moe"));
  goldens.push_back(Qwen35MoeGoldens().back());
  return goldens;
}

// Activations rounded to bfloat16 are off by 2^-9 of themselves at most, 8e-4 root mean square; a float32 product of
// some hundred terms by 1e-7: 2^13 times less. What a model makes of an error of either kind shows in its float32 form
// (tools/make_model/quantised_cells_test.cc reasons likewise); four times the ratio leaves room for the worst of both
// being two draws.
constexpr double kBf16OverFloat = 32768;  // 2^15

TEST(GoldenCellsTest, EveryFamilyKvTypeAndInstructionSetAnswersToTheReference) {
  for (const GoldenCase& golden : CellGoldens()) {
    CellOracle oracle = MakeCellOracle(golden, Widened(LoadModel(golden.model).value()), MakeReferenceBlocks);
    for (const KvType kv_type : kKvTypes) {
      std::vector<float> scalar;
      for (const char* isa : CpuIsas()) {
        const std::string cell = absl::StrCat("cpu ", isa, " kv ", NameOf(kv_type));
        const std::vector<float> logits =
            CheckCell(oracle, cell, WithIsa(isa, MakeCpuBlocks), kv_type, KvBound(kv_type));
        if (scalar.empty()) scalar = logits;
        EXPECT_TRUE(logits == scalar) << golden.name << " " << cell << ": other bits than the first instruction set";
      }
    }
  }
}

TEST(GoldenCellsTest, Bf16WeightsAnswerToTheReferenceOnEveryInstructionSet) {
  for (const GoldenCase& golden : CellGoldens()) {
    CellOracle oracle = MakeCellOracle(golden, nullptr, MakeReferenceBlocks);
    const double bound = kBf16OverFloat * DifferenceWithEqualExperts(oracle, OfWidened(MakeCpuBlocks));
    std::vector<float> scalar;
    for (const char* isa : CpuIsas()) {
      const std::string cell = absl::StrCat("bf16 cpu ", isa);
      const std::vector<float> logits = CheckCell(oracle, cell, WithIsa(isa, MakeCpuBlocks), KvType::kF32, bound);
      if (scalar.empty()) scalar = logits;
      EXPECT_TRUE(logits == scalar) << golden.name << " " << cell << ": other bits than the first instruction set";
    }
  }
}

// Expert choices of the reference, turned upside down: the tape is what decides on both backends, and weights still
// come from the router.
TEST(GoldenCellsTest, ForcedRoutingIsObeyedByBothBackendsAlike) {
  for (const char* family : {"qwen3_moe", "mixtral", "qwen3_5_moe"}) {
    SCOPED_TRACE(family);
    CellOracle oracle =
        MakeCellOracle(Golden(family), Widened(LoadModel(Golden(family).model).value()), MakeReferenceBlocks);
    RoutingTape forced = oracle.run.tape;
    for (int layer = 0; layer < forced.layers(); ++layer) {
      const auto& moe = std::get<MixtureOfExpertsSpec>(oracle.model->spec.layer(layer).ffn);
      for (int position = 0; position < forced.positions(); ++position) {
        for (int& expert : forced.At(layer, position)) expert = moe.experts - 1 - expert;
      }
    }
    auto reference = MakeReferenceBlocks(oracle.model, CellLimits()).value();
    auto cpu = MakeCpuBlocks(oracle.model, CellLimits()).value();
    const std::vector<float> expected = RunTaped(*reference, oracle.ids, &forced).logits;
    EXPECT_GT(MaxDifference(expected, oracle.run.logits), 0.01) << "other experts, other logits";
    EXPECT_LE(MaxDifference(RunTaped(*cpu, oracle.ids, &forced).logits, expected), KvBound(KvType::kF32));
    // With the tape taken away, the backend chooses for itself again.
    EXPECT_EQ(RunTaped(*reference, oracle.ids, nullptr).logits, oracle.run.logits);
  }
}

TEST(GoldenCellsTest, ReplayingOnesOwnChoicesChangesNoBit) {
  for (const char* family : {"qwen3_moe", "mixtral", "qwen3_5_moe"}) {
    const auto model = LoadModel(Golden(family).model).value();
    const std::vector<TokenId> ids = TestRandom(4).Tokens(70, model->spec.vocab_rows);
    for (const BlocksFactory& factory : {BlocksFactory(MakeReferenceBlocks), BlocksFactory(MakeCpuBlocks)}) {
      auto blocks = factory(model, CellLimits()).value();
      const TapedRun free = RunTaped(*blocks, ids, nullptr);
      EXPECT_EQ(RunTaped(*blocks, ids, &free.tape).logits, free.logits) << family;
    }
  }
}

}  // namespace
}  // namespace gantry::engine
