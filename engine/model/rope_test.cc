#include "engine/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace gantry::engine {
namespace {

RopeSpec SpecOf(const nlohmann::json& rope_case) {
  RopeSpec rope = PlainRope(rope_case["rotary_dim"], rope_case["theta"]);
  const nlohmann::json& scaling = rope_case["scaling"];
  if (scaling.value("type", "") == "llama3") {
    StretchLikeLlama3({scaling["factor"], scaling["low"], scaling["high"], scaling["original"]}, &rope);
  }
  if (scaling.value("type", "") == "yarn") {
    StretchLikeYarn({.theta = rope_case["theta"],
                     .factor = scaling["factor"],
                     .original_context = scaling["original"],
                     .magnitude = YarnMagnitude(scaling["factor"])},
                    &rope);
  }
  return rope;
}

// Positions up to 262,143 against 50-digit values (tests/data/oracles/rope_angles.py).
TEST(RopeTest, TurnsAreRightToFloat32AtEveryPosition) {
  const auto cases =
      nlohmann::json::parse(std::ifstream(std::string(GANTRY_SOURCE_DIR) + "/tests/data/oracles/rope_angles.json"));
  for (const auto& rope_case : cases) {
    SCOPED_TRACE(rope_case["name"].get<std::string>());
    const RopeSpec rope = SpecOf(rope_case);
    double worst = 0;
    for (const auto& row : rope_case["rows"]) {
      const int position = row[0], pair = row[1];
      const auto exact = [&](int i) { return std::strtod(row[i].get<std::string>().c_str(), nullptr); };
      EXPECT_NEAR(rope.frequencies[pair] / exact(2), 1, 1e-14);
      const RopeTurn turn = TurnAt(rope, position, pair);
      worst = std::max({worst, std::abs(turn.cosine - exact(3)), std::abs(turn.sine - exact(4))});
      // What a backend multiplies with is the exact value's float32, or its neighbour on a tie.
      EXPECT_NEAR(static_cast<float>(turn.cosine), exact(3), 0x1p-24 * 1.001) << position << " " << pair;
      EXPECT_NEAR(static_cast<float>(turn.sine), exact(4), 0x1p-24 * 1.001) << position << " " << pair;
    }
    EXPECT_LT(worst, 1e-9);
    std::printf("%s: worst |difference| of cosine and sine %.1e\n", rope_case["name"].get<std::string>().c_str(),
                worst);
  }
}

TEST(RopeTest, PairsAreHalvesOrNeighbours) {
  RopeSpec rope = PlainRope(8, 10000);
  EXPECT_EQ(FirstOfPair(rope, 3), 3);
  EXPECT_EQ(SecondOfPair(rope, 3), 7);
  rope.interleaved = true;
  EXPECT_EQ(FirstOfPair(rope, 3), 6);
  EXPECT_EQ(SecondOfPair(rope, 3), 7);
}

TEST(RopeTest, LinearStretchSlowsEveryPair) {
  RopeSpec rope = PlainRope(4, 100);
  StretchLinearly(2, &rope);
  EXPECT_DOUBLE_EQ(rope.frequencies[0], 0.5);
  EXPECT_DOUBLE_EQ(rope.frequencies[1], 0.05);
}

}  // namespace
}  // namespace gantry::engine
