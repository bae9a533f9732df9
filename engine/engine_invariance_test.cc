// The promise of docs/design.md, "Numerics": output ids and logprob bits do not depend on what else is in the batch, on
// how a prompt is cut, or on speculation, greedy and seeded alike.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/engine_test_util.h"
#include "engine/format/safetensors.h"

namespace gantry::engine {
namespace {

struct Setting {
  const char* backend;
  const char* model;
  int batch;
  int chunk;
  const char* spec;
};

struct Output {
  std::vector<TokenId> ids;
  std::vector<uint32_t> logprob_bits;
  bool operator==(const Output&) const = default;
};

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Prompts of unequal length, all different; the first is the one that is compared across settings.
std::vector<TokenId> Prompt(int index, int vocab) {
  std::vector<TokenId> ids;
  for (int i = 0; i < 40 + index * 23; ++i) ids.push_back((i * 31 + index * 7 + 5) % (vocab - 20));
  return ids;
}

std::vector<Output> Run(const Setting& setting, float temperature, int64_t* accepted) {
  EngineOptions options;
  options.model_path = absl::StrCat(GANTRY_SOURCE_DIR, "/", setting.model);
  options.backend = setting.backend;
  options.threads = 2;
  options.max_sequences = 8;
  options.max_context = 512;
  options.prefill_chunk_rows = setting.chunk;
  options.spec.mode = setting.spec;
  auto engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < setting.batch; ++i) {
    SamplingParams sampling{
        .temperature = temperature, .top_p = 0.95f, .top_k = 50, .seed = 11, .logprobs = true, .top_logprobs = 2};
    sinks.push_back(std::make_shared<CollectingSink>());
    const auto id =
        (*engine)->Submit(MakeRequest(Prompt(i, (*engine)->card().spec.vocab_rows), 40, sampling), sinks.back());
    EXPECT_TRUE(id.ok()) << id.status();
  }
  std::vector<Output> outputs;
  for (const auto& sink : sinks) {
    *accepted += sink->Wait().counts.accepted;
    Output output;
    output.ids = sink->ids();
    for (const TokenLogprobs& row : sink->logprobs()) {
      output.logprob_bits.push_back(Bits(row.logprob));
      for (const auto& [id, logprob] : row.top) output.logprob_bits.push_back(Bits(logprob));
    }
    outputs.push_back(std::move(output));
  }
  return outputs;
}

void CheckAllSettings(const char* backend, const char* model, const std::vector<const char*>& specs) {
  for (float temperature : {0.0f, 1.0f}) {
    int64_t accepted = 0;
    const std::vector<Output> base = Run({backend, model, 7, 512, "off"}, temperature, &accepted);
    std::set<std::vector<TokenId>> distinct;
    for (const Output& output : base) {
      EXPECT_EQ(output.ids.size(), 40u);
      EXPECT_EQ(output.logprob_bits.size(), 40u * 3);
      distinct.insert(output.ids);
    }
    EXPECT_GT(distinct.size(), 3u);  // the comparison below is about something
    for (int batch : {1, 2, 7}) {
      for (int chunk : {32, 512}) {
        for (const char* spec : specs) {
          accepted = 0;
          const std::vector<Output> outputs = Run({backend, model, batch, chunk, spec}, temperature, &accepted);
          for (int i = 0; i < batch; ++i) {
            EXPECT_EQ(outputs[i], base[i]) << backend << " temperature " << temperature << " batch " << batch
                                           << " chunk " << chunk << " spec " << spec << " sequence " << i;
          }
          if (absl::string_view(spec) != "off" && batch == 7) {
            std::printf("%s %s temperature %.0f spec %s: %lld drafts accepted, same bits\n", backend, model,
                        temperature, spec, static_cast<long long>(accepted));
          }
        }
      }
    }
  }
}

TEST(EngineInvarianceTest, CpuOutputBitsDoNotDependOnBatchChunksOrSpeculation) {
  CheckAllSettings("cpu", "models/demo", {"off", "mtp:1", "mtp:3"});
}

TEST(EngineInvarianceTest, ReferenceOutputBitsDoNotDependOnBatchChunksOrSpeculation) {
  CheckAllSettings("reference", "tests/data/goldens/qwen3_5_moe", {"off", "mtp:1", "mtp:2"});
}

}  // namespace
}  // namespace gantry::engine
