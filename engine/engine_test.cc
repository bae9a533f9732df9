#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>

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

std::unique_ptr<Engine> MakeEngine(const std::string& model, const std::string& spec = "auto", int max_queued = 64,
                                   const std::string& kv_type = "f16") {
  EngineOptions options;
  options.model_path = model;
  options.max_context = 512;
  options.max_sequences = 2;
  options.max_queued = max_queued;
  options.threads = 2;
  options.spec.mode = spec;
  options.kv_type = kv_type;
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

TEST(EngineTest, DemoModelContinuesItsGoldenPromptsWithAndWithoutSpeculationWithEveryKvType) {
  const struct {
    const char* spec;
    const char* kv_type;
  } rows[] = {{"off", "f16"}, {"auto", "f16"}, {"mtp:2", "f16"}, {"off", "f32"}, {"mtp:2", "f32"}, {"auto", "int8"}};
  for (const auto& [spec, kv_type] : rows) {
    auto engine = MakeEngine(kDemo, spec, 64, kv_type);
    EXPECT_THAT(engine->card().numerics_id, HasSubstr(absl::StrCat("kv-", kv_type)));
    for (int p = 0; p < 3; ++p) {
      const std::vector<TokenId> greedy = GoldenIds(absl::StrCat("greedy.", p));
      auto sink = std::make_shared<CollectingSink>();
      SamplingParams sampling{.temperature = 0, .stop_ids = engine->card().spec.stop_ids};
      ASSERT_TRUE(
          engine
              ->Submit(MakeRequest(GoldenIds(absl::StrCat("ids.", p)), static_cast<int>(greedy.size()), sampling), sink)
              .ok());
      const FinishEvent finish = sink->Wait();
      EXPECT_EQ(sink->ids(), greedy) << spec << " " << kv_type << " prompt " << p;
      if (std::string(spec) == "mtp:2") {
        EXPECT_GT(finish.counts.accepted, 0);
      }
    }
  }
}

// What drafts, a text given to the model must give the same ids with the same probabilities: those that it has as a
// prompt. Where the text ends the model goes on by itself.
TEST(EngineTest, AForcedTextIsVerifiedUnderEveryWayOfDrafting) {
  std::vector<TokenId> prompt = GoldenIds("ids.0"), text = GoldenIds("greedy.0");
  // A stretch that the model would not have written, then the same again for the n-gram drafter.
  for (int i = 0; i < 8; ++i) text.push_back(100 + 37 * i);
  text.insert(text.end(), text.begin(), text.begin() + 12);
  const int extra = 5;
  std::vector<TokenId> whole = prompt;
  whole.insert(whole.end(), text.begin(), text.end());

  class PromptSink final : public Sink {
   public:
    bool OnTokens(const TokenEvent& event) override {
      for (const TokenLogprobs& row : event.prompt_logprobs) logprobs.push_back(row.logprob);
      return true;
    }
    void OnFinish(const FinishEvent&) override { done.set_value(); }
    std::vector<float> logprobs;
    std::promise<void> done;
  };
  auto as_prompt = std::make_shared<PromptSink>();
  auto plain = MakeEngine(kDemo, "off");
  Request request = MakeRequest(whole, 1);
  request.prompt_logprobs = true;
  ASSERT_TRUE(plain->Submit(request, as_prompt).ok());
  as_prompt->done.get_future().wait();
  auto after = std::make_shared<CollectingSink>();
  ASSERT_TRUE(plain->Submit(MakeRequest(whole, extra), after).ok());
  after->Wait();
  std::vector<TokenId> expected = text;
  for (const TokenId id : after->ids()) expected.push_back(id);

  for (const char* spec : {"off", "auto", "mtp:3", "ngram", "ngram+mtp:2"}) {
    auto engine = MakeEngine(kDemo, spec);
    auto sink = std::make_shared<CollectingSink>();
    const SamplingParams sampling{.temperature = 0, .logprobs = true, .forced = text};
    ASSERT_TRUE(engine->Submit(MakeRequest(prompt, static_cast<int>(text.size()) + extra, sampling), sink).ok());
    const FinishEvent finish = sink->Wait();
    EXPECT_EQ(sink->ids(), expected) << spec;
    const std::vector<TokenLogprobs> logprobs = sink->logprobs();
    ASSERT_EQ(logprobs.size(), expected.size()) << spec;
    for (size_t i = 0; i < text.size(); ++i) {
      EXPECT_EQ(logprobs[i].logprob, as_prompt->logprobs[prompt.size() - 1 + i]) << spec << ", id " << i;
    }
    if (std::string(spec) == "mtp:3" || std::string(spec) == "ngram") {
      EXPECT_GT(finish.counts.accepted, 0) << spec;
      EXPECT_LT(finish.counts.accepted, finish.counts.drafted) << spec;
    }
  }
}

struct Reply {
  std::vector<TokenId> ids;
  Counts counts;
};
Reply Ask(Engine& engine, const Request& request) {
  auto sink = std::make_shared<CollectingSink>();
  EXPECT_TRUE(engine.Submit(request, sink).ok());
  const FinishEvent finish = sink->Wait();
  return {sink->ids(), finish.counts};
}

TEST(EngineTest, SpeculationChangesBetweenRequestsAndNothingElse) {
  auto engine = MakeEngine(kDemo, "auto");
  const Request request = MakeRequest(GoldenIds("ids.0"), 48);
  const Reply plain = Ask(*engine, request);
  for (const char* spec : {"mtp:2", "off", "ngram", "auto", "mtp:2"}) {
    const bool drafts = std::string(spec) == "mtp:2", off = std::string(spec) == "off";
    ASSERT_TRUE(engine->SetSpeculation(SpecMode::Parse(spec, true).value()).ok()) << spec;
    const Reply reply = Ask(*engine, request);
    EXPECT_EQ(reply.ids, plain.ids) << spec;
    EXPECT_TRUE(!drafts || reply.counts.accepted > 0) << spec;
    EXPECT_TRUE(!off || reply.counts.drafted == 0) << spec;
  }

  const auto running = std::make_shared<CollectingSink>();
  const RequestId id = engine->Submit(MakeRequest({1, 2, 3}, 500), running).value();
  EXPECT_EQ(engine->SetSpeculation({.name = "off"}).code(), absl::StatusCode::kFailedPrecondition);
  engine->Cancel(id);
  running->Wait();

  auto shallow = MakeEngine(kDemo, "ngram:2");
  const absl::Status deeper = shallow->SetSpeculation(SpecMode::Parse("ngram:3", true).value());
  EXPECT_EQ(deeper.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(deeper.message()), HasSubstr("`ngram:3` drafts 3 ids, the engine was made for 2"));
  EXPECT_EQ(shallow->SetSpeculation(SpecMode::Parse("mtp:1", true).value()).code(), absl::StatusCode::kInvalidArgument);
}

// Recorded drafts are right as often as asked, in place of the MTP layer's or without one; the output stays.
TEST(EngineTest, ReplayedDraftsAreAcceptedAsOftenAsAsked) {
  auto engine = MakeEngine(kDemo, "auto");
  const Request request = MakeRequest(GoldenIds("ids.0"), 400);
  ASSERT_TRUE(engine->SetSpeculation({.name = "off"}).ok());
  const Reply plain = Ask(*engine, request);
  // A shorter prompt that is the beginning of the real one is another run.
  const std::vector<ReplayRun> runs = {{{request.ids[0]}, {1, 2, 3}}, {request.ids, plain.ids}};
  for (const bool mtp : {false, true}) {
    const EngineStats before = engine->Stats();
    ASSERT_TRUE(engine
                    ->SetSpeculation({.name = mtp ? "replay+mtp" : "replay",
                                      .depth = 3,
                                      .mtp = mtp,
                                      .replay = Replay(runs, {0.9, 0.6, 0.3})})
                    .ok());
    EXPECT_EQ(Ask(*engine, request).ids, plain.ids);
    const EngineStats after = engine->Stats();
    // Of about 130 rounds; which of them is fixed, so this cannot fail by chance.
    const double expected[] = {0.9, 0.6, 0.3};
    for (int i = 0; i < 3; ++i) {
      const auto drafted = static_cast<double>(after.drafted_at[i] - before.drafted_at[i]);
      EXPECT_NEAR(static_cast<double>(after.accepted_at[i] - before.accepted_at[i]) / drafted, expected[i], 0.15) << i;
    }
    // Without the layer drafts come for nothing; with it a round has a pass for each depth, the first of them with
    // the entries of accepted ids.
    const int64_t passes = after.draft_passes - before.draft_passes;
    EXPECT_EQ(passes > 0, mtp);
    EXPECT_EQ(after.draft_steps_ms > before.draft_steps_ms, mtp);
    if (mtp) {
      EXPECT_NEAR(static_cast<double>(after.draft_steps - before.draft_steps) / static_cast<double>(passes), 2.0 / 3,
                  0.01);
    }
  }
}

// Rounds of one row read what one token needs, two rows at most twice that.
TEST(EngineTest, ExpertsThatARoundReadsAreCounted) {
  for (const char* backend : {"cpu", "reference"}) {
    EngineOptions options;
    options.model_path = kTiny;
    options.backend = backend;
    options.max_context = 128;
    options.max_sequences = 2;
    options.prefix_cache = false;
    options.spec.mode = "off";
    auto engine = Engine::Create(options).value();
    const ModelSpec& spec = engine->card().spec;
    constexpr int kTokens = 20;
    const auto decode = [&](int sequences) {
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      std::vector<RequestId> ids;
      for (int i = 0; i < sequences; ++i) {
        Request request = MakeRequest({1 + i, 5, 9}, kTokens);
        request.until_index = 1;
        request.credit_wait = absl::Hours(1);
        sinks.push_back(std::make_shared<CollectingSink>());
        ids.push_back(engine->Submit(request, sinks.back()).value());
        sinks.back()->WaitForTokens(1);
      }
      while (engine->Stats().totals.generated % kTokens != sequences) absl::SleepFor(absl::Microseconds(50));
      const EngineStats before = engine->Stats();
      for (const RequestId id : ids) engine->RaiseLimit(id, kTokens);
      for (const auto& sink : sinks) sink->Wait();
      while (engine->Stats().totals.generated % kTokens != 0) absl::SleepFor(absl::Microseconds(50));
      std::vector<int64_t> read = engine->Stats().experts_read;
      for (size_t i = 0; i < read.size(); ++i) read[i] -= before.experts_read[i];
      return read;
    };
    const std::vector<int64_t> of_one = decode(1);
    const std::vector<int64_t> of_two = decode(2);
    ASSERT_EQ(static_cast<int>(of_one.size()), spec.trunk_layers());
    for (int layer = 0; layer < spec.trunk_layers(); ++layer) {
      const auto* moe = std::get_if<MixtureOfExpertsSpec>(&spec.layer(layer).ffn);
      const int64_t of_a_token = moe == nullptr ? 0 : (kTokens - 1) * moe->experts_per_token;
      EXPECT_EQ(of_one[layer], of_a_token) << backend << " layer " << layer;
      // The two may be a round apart when they begin.
      EXPECT_GE(of_two[layer], of_a_token) << backend << " layer " << layer;
      EXPECT_LE(of_two[layer], 2 * of_a_token) << backend << " layer " << layer;
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
  EXPECT_THAT(message([](EngineOptions& o) { o.kv_type = "F16"; }),
              HasSubstr("kv_type is `F16`, expected f32, f16 or int8"));
  EXPECT_THAT(message([](EngineOptions& o) {
                o.kv_type = "";
                o.backend = "reference";
              }),
              HasSubstr("kv_type is ``"));
  EXPECT_THAT(message([](EngineOptions& o) { o.spec.mode = "mtp:9"; }), HasSubstr("spec is `mtp:9`"));
  EXPECT_THAT(message([](EngineOptions& o) { o.max_sequences = 0; }), HasSubstr("max_sequences is 0"));
  EXPECT_THAT(message([](EngineOptions& o) { o.max_context = 1 << 20; }), HasSubstr("the model has 4096 positions"));
  EXPECT_THAT(message([](EngineOptions& o) { o.cache_bytes = 1000; }), HasSubstr("too small for one sequence"));
  EXPECT_THAT(message([](EngineOptions& o) { o.vocab_used = 1 << 20; }), HasSubstr("vocabulary rows"));
  EXPECT_THAT(message([](EngineOptions& o) { o.model_path = "/nonexistent"; }), HasSubstr("/nonexistent/config.json"));
}

TEST(EngineTest, SmallerKvTypesGiveMorePagesUnderTheSameCapAndTheReferenceKeepsFloat32) {
  const auto pages = [](const std::string& backend, const std::string& kv_type) {
    EngineOptions options;
    options.model_path = kDemo;
    options.backend = backend;
    options.max_context = 4096;
    options.max_sequences = 8;
    options.cache_bytes = 40 << 20;
    options.prefix_cache = false;  // what states leave goes to pages alone
    options.spec.mode = "off";
    options.kv_type = kv_type;
    const auto engine = Engine::Create(options).value();
    // The engine's thread tells them when it starts.
    while (engine->Stats().kv_pages_free == 0) absl::SleepFor(absl::Milliseconds(1));
    return engine->Stats().kv_pages_free;
  };
  const int64_t f32 = pages("cpu", "f32"), f16 = pages("cpu", "f16"), int8 = pages("cpu", "int8");
  // What a page costs less buys pages; int8 also stores two scales a position and head, and a page left over is lost.
  EXPECT_NEAR(static_cast<double>(f16), 2.0 * static_cast<double>(f32), 2);
  EXPECT_GT(static_cast<double>(int8), 3.5 * static_cast<double>(f32));
  EXPECT_LE(int8, 4 * f32 + 4);
  EXPECT_EQ(pages("reference", "int8"), pages("reference", "f32"));
}

// A thousand random submissions, cancellations and raises with limits, deadlines and preemption on the demo model:
// nothing is left behind, and every finished reply is a prefix of what its prompt gives alone.
TEST(EngineTest, RandomTrafficLeavesNothingBehind) {
  EngineOptions options;
  options.model_path = kDemo;
  options.max_context = 512;
  options.max_sequences = 6;
  options.max_queued = 1000;
  options.threads = 2;
  options.prefill_chunk_rows = 64;
  options.cache_bytes = 40 << 20;
  options.spec.mode = "ngram+mtp:2";
  auto engine = Engine::Create(options).value();
  const auto prompt = [](int index) {
    std::vector<TokenId> ids;
    for (int t = 0; t < 20 + index * 45; ++t) ids.push_back((t % 50 * 17 + index * 5) % 2000);
    return ids;
  };
  constexpr int kPrompts = 8, kTokens = 48;
  std::vector<std::vector<TokenId>> expected;
  for (int p = 0; p < kPrompts; ++p) {
    auto sink = std::make_shared<CollectingSink>();
    ASSERT_TRUE(engine->Submit(MakeRequest(prompt(p), kTokens), sink).ok());
    sink->Wait();
    expected.push_back(sink->ids());
  }
  std::mt19937 random(11);
  struct Live {
    RequestId id;
    int prompt;
    std::shared_ptr<CollectingSink> sink;
  };
  std::vector<Live> all;
  for (int step = 0; step < 1000; ++step) {
    switch (random() % 4) {
      case 0:
      case 1: {
        const int p = static_cast<int>(random() % kPrompts);
        Request request = MakeRequest(prompt(p), 1 + static_cast<int>(random() % kTokens));
        request.priority = static_cast<int>(random() % 2);
        if (random() % 3 == 0) request.until_index = 1 + static_cast<int>(random() % 20);
        if (random() % 9 == 0) request.deadline = absl::Now() + absl::Milliseconds(random() % 40);
        auto sink = std::make_shared<CollectingSink>();
        const auto id = engine->Submit(std::move(request), sink);
        if (id.ok()) all.push_back({*id, p, sink});
        break;
      }
      case 2:
        if (!all.empty()) engine->Cancel(all[all.size() - 1 - random() % std::min<size_t>(all.size(), 10)].id);
        break;
      default:
        if (!all.empty()) engine->RaiseLimit(all[random() % all.size()].id, static_cast<int>(random() % kTokens));
    }
  }
  engine->Drain(absl::InfiniteFuture());
  int complete = 0;
  for (const Live& live : all) {
    const FinishEvent finish = live.sink->Wait();
    const std::vector<TokenId> ids = live.sink->ids();
    ASSERT_TRUE(std::equal(ids.begin(), ids.end(), expected[live.prompt].begin()));
    EXPECT_NE(finish.reason, FinishReason::kError) << finish.status;
    complete += finish.reason == FinishReason::kLength;
  }
  const EngineStats stats = engine->Stats();
  EXPECT_GT(complete, 50);
  EXPECT_GT(stats.totals.cached, 0);
  EXPECT_EQ(stats.running + stats.queued, 0);
  EXPECT_EQ(stats.kv_pages_used, 0);
}

TEST(EngineTest, ThirtyTwoIdenticalPromptsGiveOneAnswer) {
  EngineOptions options;
  options.model_path = kDemo;
  options.max_context = 512;
  options.max_sequences = 32;
  auto engine = Engine::Create(options).value();
  std::vector<TokenId> ids;
  for (int t = 0; t < 300; ++t) ids.push_back((t * 31 + 5) % 2000);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < 32; ++i) {
    sinks.push_back(std::make_shared<CollectingSink>());
    ASSERT_TRUE(engine->Submit(MakeRequest(ids, 40), sinks.back()).ok());
  }
  int64_t cached = 0;
  for (const auto& sink : sinks) {
    cached += sink->Wait().counts.cached;
    EXPECT_EQ(sink->ids(), sinks[0]->ids());
  }
  EXPECT_EQ(cached, 31 * 256);
}

TEST(EngineTest, ASecondTurnBehindFourThousandTokensStartsAtOnce) {
  EngineOptions options;
  options.model_path = kDemo;
  options.max_context = 8192;
  options.max_sequences = 2;
  options.threads = 2;
  auto engine = Engine::Create(options).value();
  std::vector<TokenId> ids;
  for (int t = 0; t < 4200; ++t) ids.push_back((t * 31 + t / 97 * 7 + 5) % 2000);
  auto first = std::make_shared<CollectingSink>();
  ASSERT_TRUE(engine->Submit(MakeRequest(ids, 40), first).ok());
  const FinishEvent cold = first->Wait();
  const std::vector<TokenId> reply = first->ids();
  ids.insert(ids.end(), reply.begin(), reply.end());
  for (int t = 0; t < 30; ++t) ids.push_back((t * 17 + 3) % 2000);
  auto second = std::make_shared<CollectingSink>();
  ASSERT_TRUE(engine->Submit(MakeRequest(ids, 4), second).ok());
  const FinishEvent warm = second->Wait();
  std::printf("first token after %.1f ms cold, %.1f ms with %lld of %lld tokens cached: %.1f %%\n", cold.prefill_ms,
              warm.prefill_ms, static_cast<long long>(warm.counts.cached), static_cast<long long>(warm.counts.prompt),
              100 * warm.prefill_ms / cold.prefill_ms);
  EXPECT_GE(warm.counts.cached, 4096);
  EXPECT_LE(warm.counts.prompt - warm.counts.cached, 64 + 30 + 40);
  // 5 % is what we hold ourselves to; a busy machine gets some room.
  EXPECT_LE(warm.prefill_ms, 0.15 * cold.prefill_ms);
}

TEST(EngineTest, PageEventsTellWhatTheCacheHolds) {
  auto engine = MakeEngine(kDemo, "off");
  std::vector<TokenId> ids;
  for (int t = 0; t < 150; ++t) ids.push_back((t * 31 + 5) % 2000);
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(engine->Submit(MakeRequest(ids, 4), sink).ok());
  sink->Wait();
  const uint64_t first = PageHash(SaltHash(""), absl::MakeConstSpan(ids).first(64));
  const uint64_t second = PageHash(first, absl::MakeConstSpan(ids).subspan(64, 64));
  // The round's events are told right after its tokens.
  while (engine->PageHashes().hashes.size() < 2) absl::SleepFor(absl::Milliseconds(1));
  const auto events = engine->Events(0).value();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].hash, first);
  EXPECT_EQ(events[1].hash, second);
  EXPECT_THAT(engine->PageHashes().hashes, testing::UnorderedElementsAre(first, second));
  EXPECT_EQ(engine->Events(7).status().code(), absl::StatusCode::kOutOfRange);
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

  // Byte range of a tensor's data in model.safetensors.
  std::pair<size_t, size_t> Place(const std::string& bytes, const std::string& tensor) {
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    const size_t at = bytes.find("\"data_offsets\":[", bytes.find("\"" + tensor + "\""));
    EXPECT_LT(at, header);
    size_t begin = 0, end = 0;
    EXPECT_EQ(std::sscanf(bytes.c_str() + at, "\"data_offsets\":[%zu,%zu]", &begin, &end), 2);
    return {8 + header + begin, 8 + header + end};
  }
  // bfloat16 NaN from element `first` on.
  void Poison(const std::string& tensor, int64_t first, int64_t count) {
    std::string bytes = Read("model.safetensors");
    const auto [begin, end] = Place(bytes, tensor);
    for (int64_t i = first; i < first + count; ++i) {
      ASSERT_LE(begin + 2 * i + 2, end);
      bytes[begin + 2 * i] = static_cast<char>(0xc0);
      bytes[begin + 2 * i + 1] = 0x7f;
    }
    Write("model.safetensors", bytes);
  }

  // Eight requests at once, of which number 3 has token 7 in the middle of a prompt of several chunks.
  std::vector<std::shared_ptr<CollectingSink>> RunEight(const std::string& model, const std::string& spec,
                                                        EngineStats* stats) {
    EngineOptions options;
    options.model_path = model;
    options.max_sequences = 8;
    options.max_context = 512;
    options.prefill_chunk_rows = 32;
    options.spec.mode = spec;
    auto engine = Engine::Create(options).value();
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (int i = 0; i < 8; ++i) {
      std::vector<TokenId> ids;
      for (int t = 0; t < 150; ++t) ids.push_back(8 + (t * 13 + i * 29) % 300);
      if (i == 3) ids[100] = 7;
      sinks.push_back(std::make_shared<CollectingSink>());
      SamplingParams sampling{.temperature = 0.7f, .seed = 5, .logit_bias = {{7, -100.0f}}, .logprobs = true};
      EXPECT_TRUE(engine->Submit(MakeRequest(ids, 30, sampling), sinks.back()).ok());
    }
    engine->Drain(absl::InfiniteFuture());
    *stats = engine->Stats();
    return sinks;
  }
  fs::path path_;
};

TEST_F(DamagedModelTest, OnePoisonedRowOfEightFailsAloneAndIsNamed) {
  for (const char* spec : {"off", "mtp:2"}) {
    EngineStats stats;
    const auto clean = RunEight(kTiny, spec, &stats);
    const int hidden = 64;
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy(kTiny + "/" + name, path_ / name, fs::copy_options::overwrite_existing);
    }
    Poison("model.embed_tokens.weight", 7 * hidden + 5, 1);
    const auto poisoned = RunEight(path_, spec, &stats);
    for (int i = 0; i < 8; ++i) {
      const FinishEvent finish = poisoned[i]->Wait();
      if (i == 3) {
        EXPECT_EQ(finish.reason, FinishReason::kError);
        EXPECT_THAT(std::string(finish.status.message()),
                    testing::AllOf(HasSubstr("not finite: the embedding, at position 100"), HasSubstr("not affected")));
        continue;
      }
      EXPECT_EQ(finish.reason, FinishReason::kLength) << finish.status;
      EXPECT_EQ(poisoned[i]->ids(), clean[i]->ids()) << spec << " " << i;
      for (size_t t = 0; t < clean[i]->logprobs().size(); ++t) {
        ASSERT_EQ(poisoned[i]->logprobs()[t].logprob, clean[i]->logprobs()[t].logprob) << spec << " " << i;
      }
    }
    EXPECT_EQ(stats.kv_pages_used, 0);
  }
}

TEST_F(DamagedModelTest, TheBlockThatSpoilsARowIsNamed) {
  const struct {
    const char* tensor;
    const char* block;
  } rows[] = {
      {"model.layers.0.linear_attn.out_proj.weight", "layer 0, mixer"},
      {"model.layers.2.mlp.shared_expert.down_proj.weight", "layer 2, ffn"},
      {"model.layers.3.self_attn.o_proj.weight", "layer 3, mixer"},
      {"lm_head.weight", "the head"},
  };
  for (const auto& row : rows) {
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy(kTiny + "/" + name, path_ / name, fs::copy_options::overwrite_existing);
    }
    Poison(row.tensor, 0, 1);
    EngineOptions options;
    options.model_path = path_;
    options.max_context = 256;
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    auto sink = std::make_shared<CollectingSink>();
    ASSERT_TRUE((*engine)->Submit(MakeRequest({1, 2, 3}, 4), sink).ok());
    const FinishEvent finish = sink->Wait();
    EXPECT_EQ(finish.reason, FinishReason::kError);
    EXPECT_THAT(std::string(finish.status.message()), HasSubstr(absl::StrCat("not finite: ", row.block)));
  }
}

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
