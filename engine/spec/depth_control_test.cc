#include "engine/spec/depth_control.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/spec/ngram.h"

namespace gantry::engine {
namespace {

// A machine on which a round of r rows takes first + more * (r - 1) and a draft step `draft` milliseconds, and a text
// whose drafts are accepted with probability p each.
struct World {
  double first, more, draft, p;
};

struct Outcome {
  double ms_per_token = 0;
  double plain_ms_per_token = 0;
  double mean_depth = 0;
};

Outcome Simulate(DepthControl& control, const World& world, int sequences, int rounds, std::mt19937& random) {
  Outcome outcome;
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<Acceptance> acceptances(sequences, control.mtp);
  std::vector<const Acceptance*> drafters;
  for (const Acceptance& acceptance : acceptances) drafters.push_back(&acceptance);
  double ms = 0, depths = 0;
  int64_t tokens = 0;
  int held = 0;  // drafts made in the round before
  for (int round = 0; round < rounds; ++round) {
    const int depth = control.Choose(sequences, drafters);
    int committed = 0;
    for (int s = 0; s < sequences; ++s) {
      int accepted = 0;
      while (accepted < held && uniform(random) < world.p) ++accepted;
      committed += 1 + accepted;
      if (held == 0) continue;
      acceptances[s].Observe(held, accepted, 1.0 / 12);
      control.mtp.Observe(held, accepted, 1.0 / 64);
    }
    const int rows = sequences * (1 + held);
    const double noise = 1 + 0.1 * uniform(random);
    const double verify = noise * (world.first + world.more * (rows - 1)), mtp = noise * world.draft * depth;
    control.Observe({.sequences = sequences,
                     .rows = rows,
                     .drafters = depth > 0 ? sequences : 0,
                     .depth = depth,
                     .mtp_rows = depth > 0 ? committed : 0,
                     .tokens = committed,
                     .verify_ms = verify,
                     .mtp_ms = mtp});
    ms += verify + mtp;
    tokens += committed;
    depths += depth;
    held = depth;
  }
  outcome.ms_per_token = ms / static_cast<double>(tokens);
  outcome.plain_ms_per_token = 1.05 * (world.first + world.more * (sequences - 1)) / sequences;
  outcome.mean_depth = depths / rounds;
  return outcome;
}

TEST(DepthControlTest, NeverMuchSlowerThanPlainDecoding) {
  std::mt19937 random(1);
  for (const double p : {0.0, 0.2, 0.5, 0.8, 0.95}) {
    for (const double more : {0.02, 0.3, 0.9}) {
      for (const double draft : {0.02, 0.15, 0.5}) {
        for (const int sequences : {1, 4, 32}) {
          DepthControl control(kDraftDepthMax, 32);
          const Outcome outcome = Simulate(control, {1.0, more, draft, p}, sequences, 4000, random);
          EXPECT_LT(outcome.ms_per_token, 1.03 * outcome.plain_ms_per_token)
              << "accepted " << p << ", row " << more << ", draft " << draft << ", sequences " << sequences;
        }
      }
    }
  }
}

TEST(DepthControlTest, CheapGoodDraftsGoDeepAndDearOnesShallow) {
  std::mt19937 random(2);
  DepthControl cheap(kDraftDepthMax, 4), dear(kDraftDepthMax, 4), useless(kDraftDepthMax, 4);
  const Outcome deep = Simulate(cheap, {1.0, 0.02, 0.05, 0.9}, 1, 2000, random);
  EXPECT_GT(deep.mean_depth, 4);
  EXPECT_LT(deep.ms_per_token, 0.4 * deep.plain_ms_per_token);
  const Outcome shallow = Simulate(dear, {1.0, 0.3, 0.1, 0.7}, 1, 2000, random);
  EXPECT_GT(shallow.mean_depth, 0.5);
  EXPECT_LT(shallow.mean_depth, 3);
  EXPECT_LT(shallow.ms_per_token, 0.97 * shallow.plain_ms_per_token);
  EXPECT_LT(Simulate(useless, {1.0, 0.3, 0.2, 0.05}, 1, 2000, random).mean_depth, 0.2);
}

TEST(DepthControlTest, ComesBackWhenTheTextBecomesPredictable) {
  std::mt19937 random(3);
  DepthControl control(kDraftDepthMax, 4);
  EXPECT_LT(Simulate(control, {1.0, 0.1, 0.1, 0.0}, 1, 2000, random).mean_depth, 0.2);
  Simulate(control, {1.0, 0.1, 0.1, 0.9}, 1, 3000, random);
  EXPECT_GT(Simulate(control, {1.0, 0.1, 0.1, 0.9}, 1, 1000, random).mean_depth, 2);
}

TEST(DepthControlTest, ALargeBatchPaysNextToNothingToKnowThatDraftsDoNotPay) {
  std::mt19937 random(4);
  for (const int sequences : {8, 32}) {
    DepthControl control(kDraftDepthMax, 32);
    const Outcome useless = Simulate(control, {1.0, 0.8, 0.1, 0.1}, sequences, 2000, random);
    EXPECT_LT(useless.ms_per_token, 1.005 * useless.plain_ms_per_token) << sequences;
    // And still it learns when they do.
    Simulate(control, {1.0, 0.05, 0.1, 0.9}, sequences, 3000, random);
    EXPECT_GT(Simulate(control, {1.0, 0.05, 0.1, 0.9}, sequences, 500, random).mean_depth, 1) << sequences;
  }
}

// Thirty-two long prompts whose MTP entries wait: a probe is for some of them.
TEST(DepthControlTest, AProbeDoesNotCatchUpWithEverySequence) {
  DepthControl control(kDraftDepthMax, 32);
  const Acceptance hopeless(0.01);
  const std::vector<const Acceptance*> drafters(32, &hopeless);
  int depth = 0;
  for (int round = 0; round < 10 && depth == 0; ++round) {
    depth = control.Choose(32, drafters);
    if (depth == 0) control.Observe({.sequences = 32, .rows = 32, .tokens = 32, .verify_ms = 10});
  }
  ASSERT_EQ(depth, 1);
  int caught_up = 0;
  for (int i = 0; i < 32; ++i) caught_up += control.WorthCatchingUp(32, 10, 500, hopeless);
  EXPECT_GE(caught_up, 1);
  // Two rounds' time can be lost, a quarter of it to entries; an entry costs 0.15 of a row alone until measured.
  EXPECT_LE(caught_up, 8);
}

TEST(AcceptanceTest, ExpectedIsTheSumOfWholePrefixes) {
  Acceptance acceptance(0.5);
  EXPECT_DOUBLE_EQ(acceptance.Expected(0), 0);
  EXPECT_DOUBLE_EQ(acceptance.Expected(2), 0.75);
  for (int i = 0; i < 1000; ++i) acceptance.Observe(3, 1, 0.1);
  EXPECT_NEAR(acceptance.given(0), 1, 1e-6);
  EXPECT_NEAR(acceptance.given(1), 0, 1e-6);
  EXPECT_DOUBLE_EQ(acceptance.given(2), 0.5);  // never reached
}

TEST(NgramTest, FindsTheLongestEarlierOccurrenceOfTheEnd) {
  const struct {
    std::vector<TokenId> ids;
    int length;
    std::vector<TokenId> continuation;
  } rows[] = {
      {{}, 0, {}},
      {{1, 2, 3}, 0, {}},
      {{1, 2, 3, 9, 1, 2}, 2, {3, 9, 1}},
      {{5, 1, 2, 7, 1, 2, 8, 5, 1, 2}, 3, {7, 1, 2}},  // the longer match, though it is older
      {{1, 2, 7, 1, 2, 8, 1, 2}, 2, {8, 1, 2}},        // the later of two equally long ones
      {{4, 4, 4, 4}, 3, {4}},                          // overlapping itself
      {{1, 9, 9, 9, 1}, 0, {}},                        // one id is not enough
  };
  for (const auto& row : rows) {
    const NgramMatch match = FindNgram(absl::MakeConstSpan(row.ids), 2, 8, 1000, 3);
    EXPECT_EQ(match.length, row.length);
    EXPECT_EQ(std::vector<TokenId>(match.continuation.begin(), match.continuation.end()), row.continuation);
  }
  EXPECT_EQ(FindNgram(std::vector<TokenId>{1, 2, 3, 9, 9, 9, 1, 2}, 2, 8, 3, 3).length, 0);  // outside the window
}

}  // namespace
}  // namespace gantry::engine
