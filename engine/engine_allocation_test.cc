// Nothing allocates in a round.
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/allocation_counter_test_util.h"
#include "engine/engine.h"
#include "engine/engine_test_util.h"

namespace gantry::engine {
namespace {

// Keeps nothing.
class CountingSink final : public Sink {
 public:
  bool OnTokens(const TokenEvent& event) override {
    tokens += static_cast<int>(event.ids.size());
    return true;
  }
  void OnFinish(const FinishEvent&) override { finished = true; }
  std::atomic<int> tokens{0};
  std::atomic<bool> finished{false};
};

template <typename Condition>
void WaitUntil(const Condition& condition) {
  while (!condition()) absl::SleepFor(absl::Microseconds(200));
}

std::vector<TokenId> Prompt(int size, int salt) {
  std::vector<TokenId> ids;
  for (int i = 0; i < size; ++i) ids.push_back((i % 90 * 31 + salt * 7) % 2000);
  return ids;
}

// One sequence decodes, another is prefilled beside it in chunks, then both decode.
TEST(AllocationTest, NeitherPrefillNorDecodeAllocates) {
  for (const char* spec : {"off", "mtp:3", "ngram", "auto"}) {
    for (const bool sampled : {false, true}) {
      EngineOptions options;
      options.model_path = absl::StrCat(GANTRY_SOURCE_DIR, "/models/demo");
      options.max_sequences = 3;
      options.max_context = 2048;
      options.prefill_chunk_rows = 32;
      options.threads = 2;
      options.spec.mode = spec;
      auto engine = Engine::Create(options).value();
      SamplingParams sampling{.temperature = 0};
      if (sampled) {
        sampling = {.temperature = 1, .top_p = 0.9f, .top_k = 40, .min_p = 0.01f, .presence_penalty = 0.3f, .seed = 3};
        sampling.logprobs = true;
        sampling.top_logprobs = 5;
      }
      auto first = std::make_shared<CountingSink>(), second = std::make_shared<CountingSink>();
      ASSERT_TRUE(engine->Submit(MakeRequest(Prompt(100, 1), 1200, sampling), first).ok());
      WaitUntil([&] { return first->tokens > 40; });
      ASSERT_TRUE(engine->Submit(MakeRequest(Prompt(1200, 2), 400, sampling), second).ok());
      WaitUntil([&] { return engine->Stats().running == 2; });
      int64_t in_prefill = 0, in_all = 0;
      {
        const AllocationCounter allocations;
        WaitUntil([&] { return second->tokens > 0; });
        in_prefill = allocations.count();
        WaitUntil([&] { return second->tokens > 200; });
        in_all = allocations.count();
      }
      EXPECT_EQ(in_prefill, 0) << spec << (sampled ? " sampled" : " greedy");
      EXPECT_EQ(in_all - in_prefill, 0) << spec << (sampled ? " sampled" : " greedy");
      engine->Drain(absl::Now());
    }
  }
}

}  // namespace
}  // namespace gantry::engine
