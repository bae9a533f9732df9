// A running engine holds its weights, its caches and at most 64 MiB beside them.
//
// What counts is the peak of resident memory (VmHWM) over the whole life of a process that loads a model and serves a
// full batch: anonymous memory, the pages of the weights' file that are read in place (they are the weights), and the
// program and its libraries. So loading must not hold weights twice either. Each case runs in a process of its own:
// this program, started again with arguments.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/engine_test_util.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/write_model.h"

namespace gantry::engine {
namespace {

constexpr int64_t kCacheBytes = int64_t{128} << 20, kRestBytes = int64_t{64} << 20;
constexpr int kSequences = 16, kPromptTokens = 200, kGenerated = 32;

// 0 when the kernel does not tell.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::strtoll(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

std::vector<TokenId> Prompt(int index, int vocab) {
  std::vector<TokenId> ids;
  // All over the vocabulary.
  for (int t = 0; t < kPromptTokens; ++t) ids.push_back((t * 1009 + index * 67 + t / 150) % vocab);
  return ids;
}

// The child: twice a full batch that decodes together, the second behind what the first left in the prefix cache (last
// in, first out: older snapshots may have made room), a quarter of the sequences with everything that sampling offers.
int ServeAndPrintPeak(const char* model, const char* spec) {
  EngineOptions options;
  options.model_path = model;
  options.max_sequences = kSequences;
  options.max_context = 2048;
  options.cache_bytes = kCacheBytes;
  options.threads = 2;
  options.spec.mode = spec;
  const auto engine = Engine::Create(options).value();
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    std::vector<RequestId> ids;
    for (int i = 0; i < kSequences; ++i) {
      SamplingParams sampling{.temperature = 0};
      if (i % 4 == 0) {
        sampling = {.temperature = 1, .top_p = 0.9f, .top_k = 40, .min_p = 0.01f, .presence_penalty = 0.3f, .seed = 3};
        sampling.logprobs = true;
        sampling.top_logprobs = 5;
      }
      sinks.push_back(std::make_shared<CollectingSink>());
      const int prompt = turn == 0 ? i : kSequences - 1 - i;
      Request request = MakeRequest(Prompt(prompt, engine->card().spec.vocab_rows), kGenerated, sampling);
      // Nobody goes on before all have their first token.
      request.until_index = 1;
      request.credit_wait = absl::InfiniteDuration();
      ids.push_back(engine->Submit(std::move(request), sinks.back()).value());
    }
    for (const auto& sink : sinks) sink->WaitForTokens(1);
    for (const RequestId id : ids) engine->RaiseLimit(id, kGenerated);
    for (const auto& sink : sinks) {
      if (sink->Wait().reason != FinishReason::kLength) return 1;
    }
  }
  int decode_rows = 0;
  for (const StepRecord& record : engine->StepRecords()) decode_rows = std::max(decode_rows, record.rows_decode);
  const EngineStats stats = engine->Stats();
  std::printf("peak %lld weights %lld cached %lld decode_rows %d\n", static_cast<long long>(PeakBytes()),
              static_cast<long long>(engine->card().weight_bytes), static_cast<long long>(stats.totals.cached),
              decode_rows);
  return 0;
}

void CheckPeak(const std::string& model, const std::string& spec, int64_t weights_min) {
  SCOPED_TRACE(model);
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  FILE* child = popen(absl::StrCat(self, " --serve ", model, " ", spec).c_str(), "r");
  ASSERT_NE(child, nullptr);
  long long peak = 0, weights = 0, cached = 0;
  int decode_rows = 0;
  const int found =
      std::fscanf(child, "peak %lld weights %lld cached %lld decode_rows %d", &peak, &weights, &cached, &decode_rows);
  EXPECT_EQ(pclose(child), 0);
  ASSERT_EQ(found, 4);
  std::printf("%s: weights %.1f + caches %.1f + %.1f MiB\n", spec.c_str(), weights / 1048576.0, kCacheBytes / 1048576.0,
              (peak - weights - kCacheBytes) / 1048576.0);
  EXPECT_LE(peak, weights + kCacheBytes + kRestBytes);
  // The comparison is about something: a full batch ran, the caches were used, and nothing is left to be touched later.
  EXPECT_GE(weights, weights_min);
  EXPECT_GE(decode_rows, kSequences);
  EXPECT_GT(cached, 0);
  EXPECT_GT(peak, weights + kCacheBytes);
}

TEST(EngineMemoryTest, Bf16WeightsWithSpeculationByTheMtpLayer) {
  CheckPeak(absl::StrCat(GANTRY_SOURCE_DIR, "/models/demo"), "mtp:3", int64_t{40} << 20);
}

TEST(EngineMemoryTest, QuantisedWeightsAreNeverHeldTwice) {
  // An embedding that is the head too, and layers, each more than the rest that is allowed.
  const auto config = nlohmann::ordered_json::parse(R"({
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 2048,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 65536,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false})");
  const std::string path = absl::StrCat(testing::TempDir(), "/gantry_engine_memory_test_", getpid(), ".gguf");
  const auto checkpoint = make_model::RandomCheckpoint(config, /*seed=*/1).value();
  ASSERT_TRUE(make_model::WriteGguf(make_model::PlanGguf(checkpoint, "q8_0").value(), path, 2).ok());
  CheckPeak(path, "ngram", 2 * kRestBytes);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace gantry::engine

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--serve") return gantry::engine::ServeAndPrintPeak(argv[2], argv[3]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
