#include "engine/backend/long_context_test_util.h"

#include <gtest/gtest.h>

#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_cells_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/backend/widened_model_test_util.h"

namespace gantry::engine {
namespace {

// Each fold of a page rounds the softmax's sum and accumulator by at most 2^-24 of themselves, some 4,000 times at
// most. Pages that repeat round alike, so errors add up instead of cancelling: 5e-4 of a head's output, and random
// weights make ten times that of a logit.
constexpr double kBound = 5e-3;

TEST(LongContextTest, AttentionFarIntoAContextEqualsTheReference) {
  const struct {
    const char* family;
    LongContext context;
  } rows[] = {{"llama3", {}}, {"llama3", {.position = 262'141}}, {"qwen3_5_moe", {}}};
  for (const auto& row : rows) {
    const auto model = Widened(LoadModel(Golden(row.family).model).value());
    const std::vector<float> expected = LogitsFarIn(model, MakeReferenceBlocks, row.context);
    std::vector<float> first;
    for (const char* isa : CpuIsas()) {
      const std::vector<float> logits = LogitsFarIn(model, WithIsa(isa, MakeCpuBlocks), row.context);
      const double difference = MaxDifference(logits, expected);
      EXPECT_LE(difference, kBound) << row.family << " " << isa;
      if (first.empty()) {
        first = logits;
        std::printf("%s at positions %d to %d: max |difference| %.2e, bound %.0e\n", row.family, row.context.position,
                    row.context.position + row.context.rows - 1, difference, kBound);
      }
      EXPECT_TRUE(logits == first) << row.family << " " << isa << ": other bits than the first instruction set";
    }
    // The question tells positions apart: a page less of history is another answer.
    LongContext earlier = row.context;
    earlier.position -= kKvPageTokens;
    EXPECT_GT(MaxDifference(LogitsFarIn(model, MakeCpuBlocks, earlier), expected), 2 * kBound);
  }
}

TEST(LongContextTest, BitsAtPosition200000DoNotDependOnChunksOrThreads) {
  const auto model = LoadModel(Golden("llama3").model).value();
  const LongContext context;
  const std::vector<float> expected = LogitsFarIn(model, MakeCpuBlocks, context);
  for (const int threads : {1, 3}) {
    const auto factory = [threads](std::shared_ptr<const Model> m, BlocksLimits limits) {
      limits.threads = threads;
      return MakeCpuBlocks(std::move(m), limits);
    };
    EXPECT_EQ(LogitsFarIn(model, factory, context), expected) << threads << " threads";
  }
  LongContext alone = context;
  alone.rows = 1;
  const std::vector<float> first = LogitsFarIn(model, MakeCpuBlocks, alone);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), expected.begin())) << "the first row without its followers";
}

}  // namespace
}  // namespace gantry::engine
