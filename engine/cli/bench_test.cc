// What a benchmark feeds the engine, and what it makes of the engine's counters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/cli/bench_run.h"
#include "engine/cli/bench_text.h"

namespace gantry::engine::cli {
namespace {

using ::testing::ElementsAre;

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

TEST(BenchTextTest, WhatFollowsAPromptIsTheTextsNextPart) {
  const BenchText text{.ids = {10, 11, 12, 13, 14, 15, 16}};
  EXPECT_THAT(text.Ids(0, 0, 4), ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(text.Ids(0, 4, 2), ElementsAre(14, 15));
  EXPECT_THAT(text.Ids(0, 6, 3), ElementsAre(16, 10, 11));
  EXPECT_NE(text.Ids(1, 0, 4), text.Ids(0, 0, 4));
}

TEST(BenchTextTest, TheBuiltInPassageHoldsADefaultRowWithoutRepeatingItself) {
  const BenchText text = ReadBenchText(kDemo, "", 0).value();
  EXPECT_GE(text.ids.size(), 512 + 128);
}

TEST(BenchRunTest, AForcedRowDecodesTheTextAndAFreeOneWhatTheModelWrites) {
  EngineOptions options;
  options.model_path = kDemo;
  options.max_context = 128;
  options.max_sequences = 2;
  options.threads = 1;
  options.prefix_cache = false;
  options.spec.mode = "mtp:2";
  const auto engine = Engine::Create(options).value();
  const BenchText text = ReadBenchText(kDemo, "", 0).value();
  const BenchPoint point{"mtp:2", 2, 40};
  constexpr int kDecode = 24;

  const std::vector<ReplayRun> forced = SequencesOf(text, point, kDecode, /*free=*/false);
  const Outputs recorded = Record(*engine, forced, kDecode).value();
  ASSERT_EQ(recorded.runs.size(), 2u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(recorded.runs[i].prompt, text.Ids(i, 0, 40));
    EXPECT_EQ(recorded.runs[i].output, text.Ids(i, 40, kDecode));
  }
  const Outputs free = Record(*engine, SequencesOf(text, point, kDecode, /*free=*/true), kDecode).value();
  EXPECT_NE(free.runs[0].output, forced[0].output);

  // What a free run wrote can be forced: the same ids with the same probabilities.
  EXPECT_EQ(Record(*engine, free.runs, kDecode)->hash, free.hash);

  const Measurement measured = Measure(*engine, forced, kDecode).value();
  EXPECT_GT(measured.prompt_tokens_per_s, 0);
  EXPECT_GT(measured.decode_tokens_per_s, 0);
  EXPECT_GE(measured.tokens_per_round, 1.0);
  EXPECT_LE(measured.tokens_per_round, 3.0);
  EXPECT_GT(measured.drafted_at[1], 0);
}

}  // namespace
}  // namespace gantry::engine::cli
