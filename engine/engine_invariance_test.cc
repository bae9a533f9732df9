// The promise of docs/design.md, "Numerics": output ids and logprob bits do not depend on what else is in the batch, on
// how a prompt is cut, on speculation, on what the cache held, on preemption or on threads, greedy and seeded alike.
//
// By default a sample of cells in which every value of every axis occurs, at full length all of them.
// GANTRY_CELLS_MODEL puts another model (a directory or .gguf) through the cells, those of the MTP layer only when it
// has one; GANTRY_CELLS_SPECS (mtp:3,auto) takes those of some ways of speculating alone; GANTRY_CELLS_SKIP leaves out
// so many of the first, to go on after a run that was stopped (all cells take hours).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/base/long_test_util.h"
#include "engine/cache/page_pool.h"
#include "engine/engine.h"
#include "engine/engine_test_util.h"
#include "engine/spec/spec_mode.h"

namespace gantry::engine {
namespace {

constexpr int kGenerated = 96, kContext = 1320, kPromptMin = 600, kPromptSpan = 600;
constexpr int kBullyPrompt = 900, kBullyTokens = 200;

struct Cell {
  std::string spec = "off";
  int chunk = 512;
  int threads = 2;
  bool preempted = false;
  bool warm = false;
  int batch = 7;
  float temperature = 0;
  bool processed = false;  // penalties, logit_bias and min_p
  bool operator==(const Cell&) const = default;
};

struct Output {
  std::vector<TokenId> ids;
  std::vector<uint32_t> logprob_bits;
  bool operator==(const Output&) const = default;
};

uint64_t Hash(const std::vector<Output>& outputs) {
  uint64_t hash = 1469598103934665603ull;
  for (const Output& output : outputs) {
    for (const TokenId id : output.ids) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211ull;
    for (const uint32_t bits : output.logprob_bits) hash = (hash ^ bits) * 1099511628211ull;
  }
  return hash;
}

// Prompts of unequal length, all different, with passages that repeat.
std::vector<TokenId> Prompt(int index, int vocab) {
  std::vector<TokenId> ids;
  const int size = kPromptMin + index * 97 % kPromptSpan;
  for (int i = 0; i < size; ++i) ids.push_back((i % 150 * 31 + index * 7 + i / 300 + 5) % (vocab - 20));
  return ids;
}

constexpr int kSequences = 33;  // 32 and the bully
// Pages of the first prompt and the bully's, but not of what both write.
constexpr int kTightPages =
    (kBullyPrompt + kKvPageTokens) / kKvPageTokens + (kPromptMin + kKvPageTokens) / kKvPageTokens + 1;
// Of all sequences as long as they can get: the next run finds all of theirs.
constexpr int kRoomyPages = kSequences * (kContext / kKvPageTokens + 1);
constexpr int64_t kRoomyBytesMin = int64_t{512} << 20;

int64_t CacheBytesFor(int pages, const ModelSpec& spec, int depth, bool mtp) {
  const CacheCosts costs = CpuCacheCosts(spec, BlocksLimits{}.kv_type);
  CacheWish wish{.sequences = kSequences,
                 .draft_depth_max = depth,
                 .max_context = kContext + 2 * depth,
                 .hidden_bytes = mtp ? spec.hidden * int64_t{4} : 0};
  for (wish.cache_bytes = costs.kv_page_bytes;; wish.cache_bytes += costs.kv_page_bytes / 4) {
    const auto plan = PlanCaches(costs, wish);
    if (plan.ok() && plan->kv_pages >= pages) return wish.cache_bytes;
  }
}

class Cells {
 public:
  explicit Cells(std::string model) : model_(std::move(model)) {}

  const ModelSpec& spec() {
    if (!spec_) {
      EngineOptions options;
      options.model_path = model_;
      options.max_context = kContext;
      options.spec.mode = "off";
      spec_ = Engine::Create(options).value()->card().spec;
    }
    return *spec_;
  }

  // An engine serves all cells that differ only in what is asked of it.
  void Open(const Cell& cell) {
    EngineOptions options;
    options.model_path = model_;
    options.threads = cell.threads;
    options.max_sequences = kSequences;
    options.max_context = kContext;
    options.prefill_chunk_rows = cell.chunk;
    options.spec.mode = cell.spec;
    const SpecMode mode = SpecMode::Parse(cell.spec, spec().mtp.has_value()).value();
    options.cache_bytes = CacheBytesFor(cell.preempted ? kTightPages : kRoomyPages, spec(), mode.depth, mode.mtp);
    // Snapshots of states have to fit as well.
    if (!cell.preempted) options.cache_bytes = std::max(options.cache_bytes, kRoomyBytesMin);
    engine_.reset();
    last_cold_.reset();
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }

  struct Result {
    std::vector<Output> outputs;
    Counts counts;  // of the compared sequences
    int64_t preempted = 0;
  };
  // A warm cell finds the prefixes that its cold twin left: the run before it, where that was the twin.
  Result Run(const Cell& cell) {
    Cell cold = cell;
    cold.warm = false;
    if (!cell.warm || last_cold_ != cold) {
      ++runs_;
      last_cold_ = cold;
      if (cell.warm) RunOnce(cold);
    }
    const int64_t before = engine_->Stats().preempted;
    Result result = RunOnce(cell);
    result.preempted = engine_->Stats().preempted - before;
    return result;
  }

 private:
  Result RunOnce(const Cell& cell) {
    const std::string salt = absl::StrCat("run ", runs_);
    const int vocab = engine_->card().spec.vocab_rows;
    auto bully = std::make_shared<CollectingSink>();
    if (cell.preempted) {
      std::vector<TokenId> ids = Prompt(40, vocab);
      ids.resize(kBullyPrompt, 3);
      Request request = MakeRequest(ids, kBullyTokens);
      request.priority = 1;
      request.cache_salt = absl::StrCat(salt, " bully");
      EXPECT_TRUE(engine_->Submit(request, bully).ok());
    }
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (int i = 0; i < cell.batch; ++i) {
      SamplingParams sampling{.temperature = cell.temperature, .seed = 11, .logprobs = true, .top_logprobs = 2};
      if (cell.temperature > 0) {
        sampling.top_p = 0.95f;
        sampling.top_k = 50;
      }
      if (cell.processed) {
        sampling.presence_penalty = 0.5f;
        sampling.frequency_penalty = 0.2f;
        sampling.repetition_penalty = 1.1f;
        sampling.min_p = 0.02f;
        sampling.logit_bias = {{5, 1.5f}, {17, -3.0f}};
      }
      Request request = MakeRequest(Prompt(i, vocab), kGenerated, sampling);
      request.cache_salt = salt;
      sinks.push_back(std::make_shared<CollectingSink>());
      const auto id = engine_->Submit(std::move(request), sinks.back());
      EXPECT_TRUE(id.ok()) << id.status();
    }
    Result result;
    for (const auto& sink : sinks) {
      const FinishEvent finish = sink->Wait();
      EXPECT_EQ(finish.reason, FinishReason::kLength) << finish.status;
      result.counts.cached += finish.counts.cached;
      result.counts.recomputed += finish.counts.recomputed;
      result.counts.drafted += finish.counts.drafted;
      result.counts.accepted += finish.counts.accepted;
      Output output{.ids = sink->ids()};
      for (const TokenLogprobs& row : sink->logprobs()) {
        const auto add = [&](float value) {
          uint32_t bits;
          std::memcpy(&bits, &value, sizeof(bits));
          output.logprob_bits.push_back(bits);
        };
        add(row.logprob);
        for (const auto& [id, logprob] : row.top) add(logprob);
      }
      result.outputs.push_back(std::move(output));
    }
    if (cell.preempted) bully->Wait();
    return result;
  }

  const std::string model_;
  std::unique_ptr<Engine> engine_;
  std::optional<ModelSpec> spec_;
  std::optional<Cell> last_cold_;
  int runs_ = 0;
};

void CheckCells(const std::string& model) {
  Cells cells(model);
  std::vector<std::string> specs = cells.spec().mtp
                                       ? std::vector<std::string>{"off", "mtp:1", "mtp:3", "mtp:5", "ngram", "auto"}
                                       : std::vector<std::string>{"off", "ngram"};
  if (const char* some = std::getenv("GANTRY_CELLS_SPECS")) specs = absl::StrSplit(some, ',');
  int skipped = 0;
  if (const char* count = std::getenv("GANTRY_CELLS_SKIP")) {
    ASSERT_TRUE(absl::SimpleAtoi(count, &skipped)) << count;
  }
  const auto same_base = [](const Cell& cell) { return std::pair(cell.temperature, cell.processed); };
  std::map<std::pair<float, bool>, std::vector<Output>> base;
  Cell plain{.batch = LongTests() ? 32 : 7};
  cells.Open(plain);
  for (const auto& [temperature, processed] : {std::pair(0.0f, false), {1.0f, false}, {1.0f, true}}) {
    plain.temperature = temperature;
    plain.processed = processed;
    base[same_base(plain)] = cells.Run(plain).outputs;
    std::set<std::vector<TokenId>> distinct;
    for (const Output& output : base[same_base(plain)]) {
      ASSERT_EQ(output.ids.size(), static_cast<size_t>(kGenerated));
      ASSERT_EQ(output.logprob_bits.size(), static_cast<size_t>(kGenerated) * 3);
      distinct.insert(output.ids);
    }
    EXPECT_GT(distinct.size(), base[same_base(plain)].size() / 2);  // the comparison below is about something
  }
  int number = 0, run = 0;
  for (const std::string& spec : specs) {
    for (const int chunk : {32, 64, 512}) {
      for (const int threads : {1, 2, 4}) {
        for (const bool preempted : {false, true}) {
          bool open = false;
          for (const int batch : {1, 2, 7, 32}) {
            for (const float temperature : {0.0f, 1.0f}) {
              for (const bool warm : {false, true}) {
                // 7 is prime to the size of every axis: each value meets each value of the others.
                if (++number <= skipped || (number % 71 != 7 && !LongTests())) continue;
                Cell cell{spec, chunk, threads, preempted, warm, batch, temperature};
                cell.processed = temperature > 0 && (batch + chunk / 32 + threads + preempted) % 2 == 0;
                if (!LongTests()) cell.batch = std::min(batch, 7);
                if (!open) cells.Open(cell);
                open = true;
                const Cells::Result result = cells.Run(cell);
                const std::vector<Output>& expected = base[same_base(cell)];
                const std::vector<Output> wanted(expected.begin(), expected.begin() + cell.batch);
                const std::string name =
                    absl::StrFormat("%-6s batch %2d chunk %3d threads %d %s %s T %.0f%s", cell.spec, cell.batch, chunk,
                                    threads, warm ? "warm" : "cold", preempted ? "preempted" : "undisturbed",
                                    temperature, cell.processed ? " processed" : "");
                EXPECT_EQ(Hash(result.outputs), Hash(wanted)) << name;
                EXPECT_EQ(result.outputs, wanted) << name;
                std::printf("%s: %016llx, accepted %lld, rejected %lld, preempted %lld, recomputed %lld, cached %lld\n",
                            name.c_str(), static_cast<unsigned long long>(Hash(result.outputs)),
                            static_cast<long long>(result.counts.accepted),
                            static_cast<long long>(result.counts.drafted - result.counts.accepted),
                            static_cast<long long>(result.preempted), static_cast<long long>(result.counts.recomputed),
                            static_cast<long long>(result.counts.cached));
                std::fflush(stdout);
                ++run;
                // What the cell claims has happened. (auto may find that nothing pays; a tight cache may have
                // forgotten.)
                EXPECT_TRUE(!warm || preempted || result.counts.cached > 0) << name;
                EXPECT_TRUE(warm || result.counts.cached == 0) << name;
                EXPECT_TRUE(warm || !preempted || result.preempted > 0) << name;
                const bool by_mtp = spec.starts_with("mtp");
                EXPECT_TRUE(!by_mtp || result.counts.accepted > 0) << name;
                EXPECT_TRUE(!by_mtp || result.counts.drafted > result.counts.accepted) << name;
                EXPECT_TRUE(spec != "off" || result.counts.drafted == 0) << name;
              }
            }
          }
        }
      }
    }
  }
  std::printf("%d of %d cells, the same bits as plain decoding\n", run, number);
}

TEST(EngineInvarianceTest, OutputBitsAreOnesOwn) {
  const char* other = std::getenv("GANTRY_CELLS_MODEL");
  CheckCells(other != nullptr ? other : absl::StrCat(GANTRY_SOURCE_DIR, "/models/demo"));
}

}  // namespace
}  // namespace gantry::engine
