// Nothing allocates in a round: this binary's malloc counts while it is armed.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/engine_test_util.h"

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
}

namespace {
std::atomic<bool> armed{false};
std::atomic<int> allocations{0};

void Count() {
  if (!armed.load(std::memory_order_relaxed)) return;
  allocations.fetch_add(1);
  if (std::getenv("GANTRY_ABORT_ON_ALLOCATION") != nullptr) std::abort();  // for a debugger
}
}  // namespace

extern "C" {
void* malloc(size_t size) {
  Count();
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  Count();
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) {
  Count();
  return __libc_realloc(old, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  Count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) {
  Count();
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
}

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

TEST(AllocationTest, TheHookSees) {
  armed = true;
  delete new int;
  free(malloc(10));
  armed = false;
  EXPECT_GE(allocations.exchange(0), 1);
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
      armed = true;
      WaitUntil([&] { return second->tokens > 0; });
      const int in_prefill = allocations.exchange(0);
      WaitUntil([&] { return second->tokens > 200; });
      armed = false;
      const int in_decode = allocations.exchange(0);
      EXPECT_EQ(in_prefill, 0) << spec << (sampled ? " sampled" : " greedy");
      EXPECT_EQ(in_decode, 0) << spec << (sampled ? " sampled" : " greedy");
      engine->Drain(absl::Now());
    }
  }
}

}  // namespace
}  // namespace gantry::engine
