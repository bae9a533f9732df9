// What the CPU backend does with memory: nothing is allocated inside a step, and loading never holds weights twice.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>

#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_test_util.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GANTRY_OWN_MALLOC 0
#else
#define GANTRY_OWN_MALLOC 1
#endif

namespace {
std::atomic<int64_t> allocations{0};
}

#if GANTRY_OWN_MALLOC
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* malloc(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_realloc(old, bytes);
}
}
#endif

namespace gantry::engine {
namespace {

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

// A GGUF file made for one test.
class MadeModel {
 public:
  explicit MadeModel(const std::string& options) : path_(testing::TempDir() + "memory_test.gguf") {
    const std::string command =
        std::string(GANTRY_MAKE_MODEL) + " " + options + " --tokenizer " + kDemo + " --out " + path_;
    made_ = std::system(command.c_str()) == 0;
  }
  ~MadeModel() { unlink(path_.c_str()); }
  bool made() const { return made_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

void CheckStepsAllocateNothing(const std::string& path) {
  SCOPED_TRACE(path);
  const auto model = LoadModel(path).value();
  BlocksLimits limits = TestLimits();
  limits.kv_pages = 20;
  auto blocks = MakeCpuBlocks(model, limits).value();
  const int vocab = model->spec.vocab_rows;
  std::vector<KvPage> pages(limits.kv_pages);
  for (int i = 0; i < limits.kv_pages; ++i) pages[i] = i;
  const StateSlot slot = 0;
  blocks->ZeroState(slot);
  std::vector<float> hidden(limits.max_rows * model->spec.hidden), logits(static_cast<size_t>(limits.max_rows) * vocab);
  std::vector<int> wanted(limits.max_rows);
  int position = 0;
  const auto step = [&](int rows) {
    const std::vector<TokenId> tokens(rows, 5);
    std::vector<int32_t> positions(rows);
    for (int t = 0; t < rows; ++t) {
      positions[t] = position + t;
      wanted[t] = t;
    }
    const RowGroup group{0, rows, position, pages, slot, {&slot, 1}};
    const StepBatch batch{tokens, positions, {&group, 1}};
    const int64_t before = allocations.load();
    RunTrunk(*blocks, batch, blocks->residual());
    blocks->Head(Blocks::HeadOf::kTrunk, absl::MakeConstSpan(wanted).subspan(0, rows), blocks->residual(),
                 hidden.data(), logits.data());
    if (model->spec.mtp) RunMtp(*blocks, batch, hidden.data(), blocks->residual());
    EXPECT_EQ(allocations.load(), before) << rows << " rows at " << position;
    position += rows;
  };
  for (const int rows : {128, 1, 5, 128, 128, 128, 128, 1, 17, 1}) step(rows);
}

TEST(MemoryTest, NothingIsAllocatedInsideAStep) {
  if (!GANTRY_OWN_MALLOC) GTEST_SKIP() << "a sanitizer owns malloc";
  CheckStepsAllocateNothing(kDemo);
  EXPECT_GT(allocations.load(), 0) << "this binary counts";
  CheckStepsAllocateNothing(std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe");
  for (const char* type : {"q8_0", "q4_k_m"}) {
    const MadeModel made("--from " + kDemo + " --type " + type);
    ASSERT_TRUE(made.made());
    CheckStepsAllocateNothing(made.path());
  }
}

constexpr char kLoadPath[] = "GANTRY_MEMORY_TEST_LOAD";

int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

// What the next test runs in a process of its own, whose peak is that of loading.
void LoadAndPrintPeak(const char* path) {
  const auto model = LoadModel(path).value();
  const auto blocks = MakeCpuBlocks(model, TestLimits()).value();
  std::printf("peak %lld over %lld\n", static_cast<long long>(PeakBytes()),
              static_cast<long long>(model->weight_bytes));
}

TEST(MemoryTest, LoadingNeverHoldsTheWeightsTwice) {
  if (!GANTRY_OWN_MALLOC) GTEST_SKIP() << "sanitizers take memory of their own";
  // 160 MB of Q8_0, so that holding them twice would break the bound of a smaller rest.
  const std::string config = testing::TempDir() + "memory_test.json";
  std::ofstream(config) << R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 1024,
    "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4,
    "head_dim": 64, "vocab_size": 4096, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false})";
  const MadeModel made("--config " + config + " --type q8_0");
  ASSERT_TRUE(made.made());
  char self[4096] = {};
  ASSERT_GT(readlink("/proc/self/exe", self, sizeof(self) - 1), 0);
  const std::string command = std::string(kLoadPath) + "=" + made.path() + " GTEST_OUTPUT= " + self;
  FILE* child = popen(command.c_str(), "r");
  ASSERT_NE(child, nullptr);
  long long peak = 0, weights = 0;
  for (char line[512]; std::fgets(line, sizeof(line), child) != nullptr;) {
    std::sscanf(line, "peak %lld over %lld", &peak, &weights);
  }
  EXPECT_EQ(pclose(child), 0);
  ASSERT_GT(weights, 100 << 20);
  std::printf("weights %.0f MB, peak %.0f MB\n", weights / 1e6, peak / 1e6);
  EXPECT_LE(peak, weights + (96 << 20));
}

}  // namespace
}  // namespace gantry::engine

int main(int argc, char** argv) {
  if (const char* path = std::getenv(gantry::engine::kLoadPath); path != nullptr) {
    gantry::engine::LoadAndPrintPeak(path);
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
