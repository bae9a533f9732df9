#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine_test_util.h"
#include "engine/format/safetensors.h"

namespace gantry::engine {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";
const std::string kTiny = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe";

std::unique_ptr<Engine> MakeEngine(const std::string& model, const std::string& spec = "auto", int max_queued = 64) {
  EngineOptions options;
  options.model_path = model;
  options.max_context = 512;
  options.max_sequences = 2;
  options.max_queued = max_queued;
  options.threads = 2;
  options.spec.mode = spec;
  auto engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return std::move(*engine);
}

std::vector<TokenId> GoldenIds(const std::string& name) {
  const auto file = SafetensorsFile::Open(kDemo + "/golden.safetensors").value();
  const StoredTensor& tensor = *file.Find(name).value();
  const auto* data = static_cast<const int64_t*>(tensor.data);
  return std::vector<TokenId>(data, data + tensor.elements());
}

TEST(EngineTest, DemoModelContinuesItsGoldenPromptsWithAndWithoutSpeculation) {
  for (const char* spec : {"off", "auto", "mtp:2"}) {
    auto engine = MakeEngine(kDemo, spec);
    for (int p = 0; p < 3; ++p) {
      const std::vector<TokenId> greedy = GoldenIds(absl::StrCat("greedy.", p));
      auto sink = std::make_shared<CollectingSink>();
      SamplingParams sampling{.temperature = 0, .stop_ids = engine->card().spec.stop_ids};
      ASSERT_TRUE(
          engine
              ->Submit(MakeRequest(GoldenIds(absl::StrCat("ids.", p)), static_cast<int>(greedy.size()), sampling), sink)
              .ok());
      const FinishEvent finish = sink->Wait();
      EXPECT_EQ(sink->ids(), greedy) << spec << " prompt " << p;
      if (std::string(spec) == "mtp:2") {
        EXPECT_GT(finish.counts.accepted, 0);
      }
    }
  }
}

TEST(EngineTest, FullQueueRefusesAndDrainLetsTheRestFinish) {
  auto engine = MakeEngine(kTiny, "off", 3);
  std::vector<std::shared_ptr<CollectingSink>> taken;
  absl::Status refused;
  for (int i = 0; i < 50 && refused.ok(); ++i) {
    auto sink = std::make_shared<CollectingSink>();
    refused = engine->Submit(MakeRequest({1, 2, 3}, 400), sink).status();
    if (refused.ok()) taken.push_back(sink);
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("queue is full"));
  engine->Drain(absl::InfiniteFuture());
  for (const auto& sink : taken) EXPECT_EQ(sink->Wait().reason, FinishReason::kLength);
  EXPECT_EQ(engine->Submit(MakeRequest({1}, 1), std::make_shared<CollectingSink>()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(EngineTest, CancelEndsARunningRequestAndDrainCancelsAfterItsDeadline) {
  auto engine = MakeEngine(kTiny, "off");
  auto first = std::make_shared<CollectingSink>(), second = std::make_shared<CollectingSink>();
  const RequestId id = engine->Submit(MakeRequest({1, 2, 3}, 500), first).value();
  first->WaitForTokens(3);
  engine->Cancel(id);
  EXPECT_EQ(first->Wait().reason, FinishReason::kCancelled);
  ASSERT_TRUE(engine->Submit(MakeRequest({1, 2, 3}, 500), second).ok());
  engine->Drain(absl::Now());
  EXPECT_EQ(second->Wait().reason, FinishReason::kCancelled);
}

TEST(EngineTest, DestroyingTheEngineEndsEveryRequestOnce) {
  auto sink = std::make_shared<CollectingSink>();
  {
    auto engine = MakeEngine(kTiny, "off");
    ASSERT_TRUE(engine->Submit(MakeRequest({1, 2, 3}, 500), sink).ok());
  }
  EXPECT_EQ(sink->Wait().reason, FinishReason::kCancelled);
}

TEST(EngineTest, WrongOptionsAreRefusedByName) {
  const auto message = [](auto change) {
    EngineOptions options;
    options.model_path = kTiny;
    change(options);
    return std::string(Engine::Create(options).status().message());
  };
  EXPECT_THAT(message([](EngineOptions& o) { o.backend = "gpu"; }),
              HasSubstr("backend is `gpu`, expected reference or cpu"));
  EXPECT_THAT(message([](EngineOptions& o) { o.spec.mode = "mtp:9"; }), HasSubstr("spec is `mtp:9`"));
  EXPECT_THAT(message([](EngineOptions& o) { o.max_sequences = 0; }), HasSubstr("max_sequences is 0"));
  EXPECT_THAT(message([](EngineOptions& o) { o.max_context = 1 << 20; }), HasSubstr("the model has 4096 positions"));
  EXPECT_THAT(message([](EngineOptions& o) { o.cache_bytes = 1000; }), HasSubstr("too small for one sequence"));
  EXPECT_THAT(message([](EngineOptions& o) { o.vocab_used = 1 << 20; }), HasSubstr("vocabulary rows"));
  EXPECT_THAT(message([](EngineOptions& o) { o.model_path = "/nonexistent"; }), HasSubstr("/nonexistent/config.json"));
}

// A copy of the small model that a test may damage.
class DamagedModelTest : public ::testing::Test {
 protected:
  DamagedModelTest() : path_(fs::temp_directory_path() / absl::StrCat("gantry_model_", getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    for (const char* name : {"config.json", "model.safetensors"}) fs::copy(kTiny + "/" + name, path_ / name);
  }
  ~DamagedModelTest() override { fs::remove_all(path_); }

  std::string Read(const char* name) {
    std::ifstream file(path_ / name, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  }
  void Write(const char* name, const std::string& bytes) { std::ofstream(path_ / name, std::ios::binary) << bytes; }
  void Replace(const char* name, const std::string& from, const std::string& to) {
    std::string bytes = Read(name);
    ASSERT_NE(bytes.find(from), std::string::npos);
    Write(name, bytes.replace(bytes.find(from), from.size(), to));
  }
  std::string Error() {
    EngineOptions options;
    options.model_path = path_;
    const absl::Status status = Engine::Create(options).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_.string()));
    return std::string(status.message());
  }
  fs::path path_;
};

TEST_F(DamagedModelTest, TruncatedWeightsNameFileTensorExpectedAndFound) {
  std::string bytes = Read("model.safetensors");
  Write("model.safetensors", bytes.substr(0, bytes.size() / 2));
  EXPECT_THAT(Error(), testing::AllOf(HasSubstr("model.safetensors: tensor "), HasSubstr("expected data up to byte"),
                                      HasSubstr("found")));
}

TEST_F(DamagedModelTest, MissingTensorIsNamed) {
  // Same length, so that the header's length still fits.
  Replace("model.safetensors", "model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.x_proj.weight");
  EXPECT_THAT(Error(),
              HasSubstr("tensor model.layers.3.self_attn.q_proj.weight: expected shape [512, 64], found none"));
}

TEST_F(DamagedModelTest, WrongShapeIsNamed) {
  Replace("config.json", "\"num_experts\": 16", "\"num_experts\": 17");
  EXPECT_THAT(Error(), HasSubstr("tensor model.layers.0.mlp.gate.weight: expected shape [17, 64], found [16, 64]"));
}

TEST_F(DamagedModelTest, TensorThatBelongsToNothingIsNamed) {
  Replace("config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  EXPECT_THAT(Error(), HasSubstr("tensor lm_head.weight [320, 64] belongs to nothing"));
}

TEST_F(DamagedModelTest, WrongConfigurationNamesKeyExpectedAndFound) {
  const std::string good = Read("config.json");
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } rows[] = {
      {"\"hidden_size\": 64", "\"hidden_size\": \"64\"",
       "config.json: `hidden_size`: expected an integer in [1, 1048576], found \"64\""},
      {"\"hidden_size\": 64", "\"hidden\": 64", "config.json: key `hidden_size` is missing"},
      {"\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 99",
       "`num_experts_per_tok`: expected an integer in [1, 16], found 99"},
      {"\"qwen3_5_moe_text\"", "\"gpt_9\"",
       "model_type `gpt_9` is not supported; supported are: llama, mixtral, qwen3, qwen3_moe, qwen3_5_moe, "
       "qwen3_5_moe_text"},
      {"\"rope_type\": \"default\"", "\"rope_type\": \"longrope\"",
       "`rope_type`: expected default, linear, llama3 or yarn, found longrope"},
      {"{", "[", "expected a JSON object"},
  };
  for (const auto& row : rows) {
    Write("config.json", good);
    Replace("config.json", row.from, row.to);
    EXPECT_THAT(Error(), HasSubstr(row.message));
  }
}

}  // namespace
}  // namespace gantry::engine
