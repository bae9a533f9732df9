#include "engine/backend/reference/reference_blocks.h"

#include <gtest/gtest.h>

#include <limits>

#include "engine/backend/golden_test_util.h"

namespace gantry::engine {
namespace {

constexpr double kBound = 2e-3;
const std::string kTiny = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe";

TEST(ReferenceBlocksTest, LogitsAndMtpLogitsEqualOtherPeoplesImplementations) {
  for (const GoldenCase& golden : Qwen35MoeGoldens()) CheckGolden(golden, MakeReferenceBlocks, kBound);
}

TEST(ReferenceBlocksTest, DecoderFamiliesEqualOtherPeoplesImplementations) {
  for (const GoldenCase& golden : DecoderGoldens()) CheckGolden(golden, MakeReferenceBlocks, kBound);
}

TEST(ReferenceBlocksTest, HiddenStatesAndThreeTokenDraftEqualTheGolden) {
  CheckDraft(Qwen35MoeGoldens()[0], MakeReferenceBlocks, kBound);
}

TEST(ReferenceBlocksTest, ChunksAndSingleTokensGiveTheBitsOfTheWholePrompt) {
  CheckChunksKeepBits(kTiny, MakeReferenceBlocks);
}

TEST(ReferenceBlocksTest, BatchMatesAndRolledBackGuessesLeaveNoTrace) {
  CheckBatchMatesAndRollbackKeepBits(kTiny, MakeReferenceBlocks);
}

TEST(ReferenceBlocksTest, SlotsAreZeroedAndCopied) {
  CheckSlotsAreZeroedAndCopied(kTiny, MakeReferenceBlocks);
}

// Activations that overflow stay with their sequence.
TEST(ReferenceBlocksTest, NonFiniteRowsDoNotReachTheirBatchMates) {
  const auto model = LoadModel(kTiny).value();
  const int hidden = model->spec.hidden, layers = model->spec.trunk_layers();
  const auto run = [&](bool poisoned) {
    auto blocks = MakeReferenceBlocks(model, TestLimits()).value();
    const KvPage pages[] = {0, 1};
    const StateSlot slots[] = {0, 1};
    const RowGroup groups[] = {
        {.first_row = 0, .rows = 1, .pages = {&pages[0], 1}, .state_in = 0, .state_out = {&slots[0], 1}},
        {.first_row = 1, .rows = 1, .pages = {&pages[1], 1}, .state_in = 1, .state_out = {&slots[1], 1}}};
    const TokenId tokens[] = {5, 6};
    const int32_t positions[] = {0, 0};
    const StepBatch batch{tokens, positions, groups};
    const Residual io = blocks->residual();
    blocks->Embed(batch, io);
    if (poisoned) io.x[0] = std::numeric_limits<float>::quiet_NaN();
    for (int layer = 0; layer < layers; ++layer) {
      blocks->Mixer(layer, batch, io);
      blocks->Ffn(layer, batch, io);
    }
    std::vector<float> out(2 * hidden);
    const int rows[] = {0, 1};
    blocks->Head(Blocks::HeadOf::kTrunk, rows, io, out.data(), nullptr);
    return out;
  };
  const std::vector<float> clean = run(false), poisoned = run(true);
  EXPECT_TRUE(std::isnan(poisoned[0]));
  EXPECT_TRUE(std::equal(clean.begin() + hidden, clean.end(), poisoned.begin() + hidden));
}

TEST(ReferenceBlocksTest, LimitsThatHoldNoSequenceAreRefused) {
  EXPECT_EQ(MakeReferenceBlocks(LoadModel(kTiny).value(), BlocksLimits{}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gantry::engine
