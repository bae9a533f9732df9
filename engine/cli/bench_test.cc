// What a benchmark feeds the engine, and what it makes of the engine's counters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/cli/bench_figures.h"
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

BenchRow Row(const std::string& spec, int batch, int depth, const Measurement& measurement) {
  BenchRow row{.point = {spec, batch, 100}, .mode = {.name = spec, .depth = depth}};
  row.runs = {measurement};
  return row;
}

// Two sequences, 12 rounds of a sequence: 2 without a draft, 4 with one, 6 with three.
TEST(BenchFiguresTest, TheIdealSpeedUpIsMadeOfMeasuredTerms) {
  Measurement drafted{.decode_tokens_per_s = 150};
  drafted.rounds = 6;
  drafted.sequence_rounds = 12;
  drafted.drafted_at = {10, 6, 6};
  drafted.accepted_at = {8, 3, 1};
  drafted.draft_passes = 15;
  const BenchRow row = Row("auto", 2, 5, drafted);
  RoundCosts costs{.point = {"off", 2, 100}, .verify = {}, .draft = {}};
  const auto verify = [](int depth, double ms, double tokens_per_s) {
    return RoundCosts::Verify{depth, Row("verify", 2, depth, {.decode_tokens_per_s = tokens_per_s, .round_ms = ms})};
  };
  costs.verify = {verify(0, 10, 100), verify(1, 12, 0), verify(5, 20, 0)};
  Measurement steps;
  steps.draft_steps = 8;
  steps.draft_steps_ms = 4;
  costs.draft = Row("draft:3", 2, 3, steps);
  const RowFigures figures = FiguresOf(row, {row}, {costs}, {});
  EXPECT_THAT(figures.acceptance, ElementsAre(0.8, 0.5, 1.0 / 6));
  ASSERT_TRUE(figures.speculation.has_value());
  const SpeculationFigures& s = *figures.speculation;
  EXPECT_DOUBLE_EQ(s.depth, (4 * 1 + 6 * 3) / 12.0);
  EXPECT_DOUBLE_EQ(s.accepted, 1.0);
  EXPECT_DOUBLE_EQ(s.passes, 2.5);
  EXPECT_DOUBLE_EQ(s.plain_ms, 10);
  EXPECT_DOUBLE_EQ(s.draft_ms, 0.5);
  // Depth 3 lies between the measured 1 and 5.
  EXPECT_DOUBLE_EQ(s.verify_ms, (2 * 10 + 4 * 12 + 6 * 16) / 12.0);
  EXPECT_DOUBLE_EQ(s.ideal(), 2 * 10 / (s.verify_ms + 2.5 * 0.5));
  EXPECT_DOUBLE_EQ(s.measured, 1.5);
}

TEST(BenchFiguresTest, ABatchIsHeldAgainstTheExpertsThatItReallyRead) {
  Roofline roofline;
  roofline.bandwidth.bytes_per_s = 1e6;
  roofline.int8_macs_per_s = 1e6;
  roofline.decode_tokens = 20;
  // Layer 0 is dense; each position of a sequence takes 2 bytes.
  roofline.kv_bytes = 2;
  roofline.traffic = {.weight_bytes = 1000, .experts = {{1, 100, 8, 2}}, .state_bytes = 30};
  roofline.traffic.prompt_macs = 900;
  roofline.traffic.head_macs = 100;
  const std::vector<BenchRow> rows = {
      Row("off", 1, 0, {.decode_tokens_per_s = 500, .experts_read = {0, 2}}),
      Row("off", 8, 0, {.decode_tokens_per_s = 2000, .experts_read = {0, 4.5}}),
  };
  const RowFigures one = FiguresOf(rows[0], rows, {}, roofline), eight = FiguresOf(rows[1], rows, {}, roofline);
  EXPECT_FALSE(eight.speculation.has_value());
  const double bytes_one = 1000 + 2 * 100 + 30 + 110 * 2, bytes_eight = 1000 + 4.5 * 100 + 8 * (30 + 110 * 2);
  EXPECT_DOUBLE_EQ(one.batch->round_bytes, bytes_one);
  EXPECT_FALSE(one.batch->gain.has_value());
  EXPECT_DOUBLE_EQ(eight.batch->round_bytes, bytes_eight);
  EXPECT_DOUBLE_EQ(eight.batch->experts_read, 4.5);
  EXPECT_DOUBLE_EQ(*eight.batch->gain, 4);
  EXPECT_DOUBLE_EQ(*eight.batch->gain_by_bytes, 8 * bytes_one / bytes_eight);
  EXPECT_DOUBLE_EQ(eight.batch->bytes_tokens_per_s, 8e6 / bytes_eight);
  EXPECT_DOUBLE_EQ(*eight.batch->int8_tokens_per_s, 1000);
}

}  // namespace
}  // namespace gantry::engine::cli
