#include "engine/backend/cpu/cpu_blocks.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "engine/backend/golden_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/backend/widened_model_test_util.h"

namespace gantry::engine {
namespace {

const std::string kTiny = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe";

// With weights in float32: golden_cells_test.cc holds BF16 to its own bound.
BlocksFactory WithKv(KvType type) {
  return OfWidened([type](std::shared_ptr<const Model> model, const BlocksLimits& limits) {
    BlocksLimits own = limits;
    own.kv_type = type;
    return MakeCpuBlocks(std::move(model), own);
  });
}

TEST(CpuBlocksTest, LogitsAndMtpLogitsEqualOtherPeoplesImplementations) {
  for (const KvType type : kKvTypes) {
    SCOPED_TRACE(NameOf(type));
    for (const GoldenCase& golden : Qwen35MoeGoldens()) {
      // Steps of int8 keys are coarser than the margins of a tiny random model; the trained one stands them.
      if (type == KvType::kInt8 && golden.name == "qwen3_5_moe") continue;
      CheckGolden(golden, WithKv(type), type == KvType::kInt8 ? kTrainedInt8KvBound : KvBound(type));
    }
    if (type == KvType::kInt8) continue;
    for (const GoldenCase& golden : DecoderGoldens()) CheckGolden(golden, WithKv(type), KvBound(type));
  }
}

TEST(CpuBlocksTest, HiddenStatesAndThreeTokenDraftEqualTheGolden) {
  for (const KvType type : {KvType::kF32, KvType::kF16}) {
    CheckDraft(Qwen35MoeGoldens()[0], WithKv(type), KvBound(type));
  }
}

TEST(CpuBlocksTest, TrunkAndMtpBitsDoNotDependOnChunks) {
  CheckChunksKeepBits(kTiny, MakeCpuBlocks);
}

TEST(CpuBlocksTest, BatchMatesAndRolledBackGuessesLeaveNoTrace) {
  CheckBatchMatesAndRollbackKeepBits(kTiny, MakeCpuBlocks);
  CheckBatchMatesAndRollbackKeepBits(std::string(GANTRY_SOURCE_DIR) + "/models/demo", MakeCpuBlocks);
}

TEST(CpuBlocksTest, SlotsAreZeroedAndCopied) {
  CheckSlotsAreZeroedAndCopied(kTiny, MakeCpuBlocks);
}

struct Run {
  int chunk_rows = 0, threads = 2;
  const char* isa = nullptr;
};

std::vector<float> LogitsOf(const std::shared_ptr<const Model>& model, const std::vector<TokenId>& ids,
                            const Run& run) {
  if (run.isa != nullptr) setenv("GANTRY_CPU_ISA", run.isa, 1);
  BlocksLimits limits = TestLimits();
  limits.threads = run.threads;
  auto blocks = MakeCpuBlocks(model, limits);
  unsetenv("GANTRY_CPU_ISA");
  EXPECT_TRUE(blocks.ok()) << blocks.status();
  SequenceRunner runner(**blocks);
  std::vector<float> logits(ids.size() * model->spec.vocab_rows);
  runner.Append(ids, run.chunk_rows, nullptr, logits.data());
  return logits;
}

// Crosses two page borders (150 tokens of 64-token pages).
TEST(CpuBlocksTest, BitsDoNotDependOnChunksThreadsOrInstructionSet) {
  const auto model = LoadModel(kTiny).value();
  const std::vector<TokenId> ids = Ids(SafetensorsFile::Open(kTiny + "/golden.safetensors").value(), "ids");
  const std::vector<float> whole = LogitsOf(model, ids, {.chunk_rows = 0});
  for (int chunk_rows : {1, 3, 32, 63, 64, 65})
    EXPECT_EQ(LogitsOf(model, ids, {.chunk_rows = chunk_rows}), whole) << chunk_rows;
  for (int threads : {1, 3}) EXPECT_EQ(LogitsOf(model, ids, {.threads = threads}), whole) << threads;
  EXPECT_EQ(LogitsOf(model, ids, {.isa = "scalar"}), whole);
  if (__builtin_cpu_supports("avx2")) {
    EXPECT_EQ(LogitsOf(model, ids, {.isa = "avx2"}), whole);
  }
}

// Three sequences of unequal length, one in the middle of a verification, in one batch: each as if alone, and the
// states after every verified row as if decoded one by one.
TEST(CpuBlocksTest, RowsOfOneBatchDoNotTouchEachOther) {
  const auto model = LoadModel(kTiny).value();
  const std::vector<TokenId> ids = Ids(SafetensorsFile::Open(kTiny + "/golden.safetensors").value(), "ids");
  const int vocab = model->spec.vocab_rows, hidden = model->spec.hidden;
  const std::vector<float> alone = LogitsOf(model, ids, {});
  BlocksLimits limits = TestLimits();
  limits.kv_pages = 12;
  limits.state_slots = 8;
  auto blocks = MakeCpuBlocks(model, limits).value();
  struct Part {
    int position, rows;
    std::vector<KvPage> pages;
    std::vector<StateSlot> slots;
  };
  std::vector<Part> parts = {{0, 5, {3, 1, 7}, {0}}, {0, 70, {2, 5, 0}, {1, 2, 3}}, {0, 3, {4, 6, 8}, {4}}};
  const auto round = [&](const std::vector<int>& rows_of_part) {
    std::vector<TokenId> tokens;
    std::vector<int32_t> positions;
    std::vector<RowGroup> groups;
    for (size_t i = 0; i < parts.size(); ++i) {
      Part& part = parts[i];
      const int rows = rows_of_part[i];
      const int kept = std::min<int>(rows, static_cast<int>(part.slots.size()));
      groups.push_back({static_cast<int>(tokens.size()), rows, part.position, part.pages, part.slots[0],
                        absl::MakeConstSpan(part.slots).subspan(0, kept)});
      for (int t = 0; t < rows; ++t) {
        tokens.push_back(ids[part.position + t]);
        positions.push_back(part.position + t);
      }
    }
    RunTrunk(*blocks, {tokens, positions, groups}, blocks->residual());
    std::vector<int> wanted(tokens.size());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = static_cast<int>(i);
    std::vector<float> h(tokens.size() * hidden), logits(tokens.size() * vocab);
    blocks->Head(Blocks::HeadOf::kTrunk, wanted, blocks->residual(), h.data(), logits.data());
    for (size_t row = 0; row < tokens.size(); ++row) {
      ASSERT_TRUE(std::equal(&logits[row * vocab], &logits[row * vocab] + vocab, &alone[positions[row] * vocab]))
          << "row " << row;
    }
  };
  for (const Part& part : parts) blocks->ZeroState(part.slots[0]);
  // 68 rows leave the state after the last three in slots 1, 2, 3; the next round takes up the first of them: two rows
  // are rolled back.
  round({5, 68, 3});
  parts[0].position = 5;
  parts[1].position = 66;
  parts[2].position = 3;
  round({1, 3, 40});
  parts[0].position = 6;
  parts[1].position = 67;
  parts[2].position = 43;
  round({50, 1, 1});
}

// A NaN in one sequence's residual reaches all of that row's logits, through routers and caches, and nobody else's
// bits.
TEST(CpuBlocksTest, APoisonedRowPoisonsItselfAlone) {
  for (const std::string& path : {kTiny, std::string(GANTRY_SOURCE_DIR) + "/models/demo",
                                  std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/mixtral"}) {
    const auto model = LoadModel(path).value();
    const int vocab = model->spec.vocab_rows, hidden = model->spec.hidden;
    const auto run = [&](bool poisoned) {
      BlocksLimits limits = TestLimits();
      auto blocks = MakeCpuBlocks(model, limits).value();
      const std::vector<TokenId> tokens = TestRandom(3).Tokens(3, vocab);
      const std::vector<int32_t> positions(3, 0);
      const KvPage pages[] = {0, 1, 2};
      const StateSlot slots[] = {0, 1, 2};
      std::vector<RowGroup> groups;
      for (int i = 0; i < 3; ++i) {
        blocks->ZeroState(slots[i]);
        groups.push_back({i, 1, 0, {&pages[i], 1}, slots[i], {&slots[i], 1}});
      }
      const StepBatch batch{tokens, positions, groups};
      const Residual io = blocks->residual();
      blocks->Embed(batch, io);
      if (poisoned) io.x[hidden + 1] = std::numeric_limits<float>::quiet_NaN();
      for (int layer = 0; layer < model->spec.trunk_layers(); ++layer) {
        blocks->Mixer(layer, batch, io);
        blocks->Ffn(layer, batch, io);
      }
      const int rows[] = {0, 1, 2};
      std::vector<float> hiddens(3 * hidden), logits(3 * vocab);
      blocks->Head(Blocks::HeadOf::kTrunk, rows, io, hiddens.data(), logits.data());
      return logits;
    };
    const std::vector<float> clean = run(false), poisoned = run(true);
    for (int i = 0; i < vocab; ++i) {
      ASSERT_EQ(poisoned[i], clean[i]);
      ASSERT_TRUE(std::isnan(poisoned[vocab + i])) << path << " " << i;
      ASSERT_EQ(poisoned[2 * vocab + i], clean[2 * vocab + i]);
    }
  }
}

TEST(CpuBlocksTest, UnknownInstructionSetIsRefusedByName) {
  setenv("GANTRY_CPU_ISA", "mmx", 1);
  const auto blocks = MakeCpuBlocks(LoadModel(kTiny).value(), TestLimits());
  unsetenv("GANTRY_CPU_ISA");
  EXPECT_EQ(blocks.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(blocks.status().message().find("`mmx`"), std::string::npos);
}

}  // namespace
}  // namespace gantry::engine
