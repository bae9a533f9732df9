// The round level against the sequence taken token by token: drafts, rollback, snapshots and what waits for the MTP
// layer, over the oracle's blocks and the CPU's.
#include "engine/spec/composed_backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/forward.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/base/long_test_util.h"

namespace gantry::engine {
namespace {

constexpr int kPagesPerSequence = 4;
constexpr int kSnapshots = 4;

std::shared_ptr<const Model> Tiny() {
  static const auto model = LoadModel(std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe").value();
  return model;
}

absl::StatusOr<std::unique_ptr<Blocks>> MakeBlocks(const std::string& backend, const BlocksLimits& limits) {
  return backend == "cpu" ? MakeCpuBlocks(Tiny(), limits) : MakeReferenceBlocks(Tiny(), limits);
}

// One sequence on a backend, driven round by round.
class Driver {
 public:
  Driver(const std::string& backend, const SamplingParams& sampling, int depth = kDraftDepthMax) : sampling_(sampling) {
    ComposedOptions options{.max_sequences = 2,
                            .max_rows = 160,
                            .draft_depth_max = depth,
                            .draft_slots = depth,
                            .snapshots = kSnapshots,
                            .mtp = true};
    backend_ =
        MakeComposedBackend(MakeBlocks(backend, LimitsFor(options, 2 * kPagesPerSequence, 2)).value(), options).value();
    for (int i = 0; i < kPagesPerSequence; ++i) pages_.push_back(i);
  }

  void Open(std::vector<TokenId> ids, int cached = 0, SnapshotSlot snapshot = kNoSnapshot, bool cached_mtp = false) {
    ids_ = std::move(ids);
    processed_ = cached;
    ASSERT_TRUE(backend_
                    ->Open(0, {.sampling = sampling_,
                               .ids = ids_,
                               .generated_from = static_cast<int>(ids_.size()),
                               .cached = cached,
                               .snapshot = snapshot,
                               .cached_mtp = cached_mtp})
                    .ok());
  }
  void Close() { backend_->Close(0); }

  SequencePlan Plan() const {
    return {.slot = 0, .pages = pages_, .ids = ids_, .position = processed_, .mtp = MtpCare::kKeep};
  }
  const SequenceResult& Round(SequencePlan plan) {
    plan_.sequences.assign(1, plan);
    const auto ticket = backend_->Enqueue(plan_);
    EXPECT_TRUE(ticket.ok());
    const SequenceResult& result = (*backend_->Wait(*ticket))->sequences[0];
    EXPECT_TRUE(result.status.ok()) << result.status;
    processed_ += plan.prefill_rows > 0 ? plan.prefill_rows : static_cast<int>(result.ids.size());
    ids_.insert(ids_.end(), result.ids.begin(), result.ids.end());
    for (const TokenLogprobs& row : result.logprobs) logprobs_.push_back(row.logprob);
    return result;
  }
  // The rest of the prompt in one chunk, then plain rounds up to `size` ids.
  void Plain(int size) {
    while (static_cast<int>(ids_.size()) < size) {
      SequencePlan plan = Plan();
      plan.mtp = MtpCare::kDrop;
      plan.prefill_rows = Prefilling() ? static_cast<int>(ids_.size()) - processed_ : 0;
      Round(plan);
    }
  }
  bool Prefilling() const { return processed_ + 1 < static_cast<int>(ids_.size()) || processed_ == 0; }

  const std::vector<TokenId>& ids() const { return ids_; }
  int processed() const { return processed_; }
  const std::vector<float>& logprobs() const { return logprobs_; }

 private:
  SamplingParams sampling_;
  std::unique_ptr<Backend> backend_;
  std::vector<KvPage> pages_;
  std::vector<TokenId> ids_;
  std::vector<float> logprobs_;
  int processed_ = 0;
  RoundPlan plan_;
};

std::vector<TokenId> Prompt(int size, int salt) {
  std::vector<TokenId> ids;
  for (int i = 0; i < size; ++i) ids.push_back((i * 37 + salt * 11 + 3) % 317);
  return ids;
}

// What a fresh MTP prefill over ids[1..] drafts, greedily.
std::vector<TokenId> FreshDrafts(const std::string& backend, const std::vector<TokenId>& ids, int depth) {
  const auto blocks =
      MakeBlocks(backend,
                 {.max_rows = 64, .max_head_rows = 64, .kv_pages = kPagesPerSequence, .state_slots = 2, .threads = 1})
          .value();
  const int hidden_size = blocks->spec().hidden, vocab = blocks->spec().vocab_rows;
  const int processed = static_cast<int>(ids.size()) - 1;
  SequenceRunner runner(*blocks);
  std::vector<float> hidden(static_cast<size_t>(processed) * hidden_size), mtp_hidden(hidden.size());
  std::vector<float> logits(static_cast<size_t>(processed) * vocab);
  runner.Append(absl::MakeConstSpan(ids).first(static_cast<size_t>(processed)), 0, hidden.data(), nullptr);
  runner.AppendMtp(0, absl::MakeConstSpan(ids).subspan(1), hidden.data(), 0, mtp_hidden.data(), logits.data());
  std::vector<float> last(mtp_hidden.end() - hidden_size, mtp_hidden.end());
  std::vector<float> row(logits.end() - vocab, logits.end());
  std::vector<TokenId> drafts;
  while (true) {
    drafts.push_back(static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin()));
    if (static_cast<int>(drafts.size()) == depth) return drafts;
    std::vector<float> next(last.size());
    runner.AppendMtp(processed + static_cast<int>(drafts.size()) - 1, {&drafts.back(), 1}, last.data(), 0, next.data(),
                     row.data());
    last = next;
  }
}

// At every step of runs with random chunks, depths, rejected and given drafts, waiting entries, snapshots and starts
// from them, the drafts are those of a fresh MTP prefill of the accepted prefix.
void CheckDraftsAgainstFreshPrefill(const std::string& backend, int sequences, int steps, unsigned seed) {
  std::mt19937 random(seed);
  int checked = 0, rejected = 0, accepted = 0, restored = 0, deferred = 0, given = 0;
  for (int s = 0; s < sequences; ++s) {
    Driver driver(backend, {.temperature = 0});
    const std::vector<TokenId> prompt = Prompt(70 + static_cast<int>(random() % 60), s);
    // The right continuation, to give some right drafts.
    driver.Open(prompt);
    driver.Plain(static_cast<int>(prompt.size()) + steps + 8);
    const std::vector<TokenId> truth = driver.ids();
    driver.Close();
    driver.Open(prompt);
    int snapshot_at = 0;
    bool snapshot_has_mtp = false;
    for (int step = 0; step < steps;) {
      SequencePlan plan = driver.Plan();
      const bool prefilling = driver.Prefilling();
      const int left = static_cast<int>(driver.ids().size()) - driver.processed();
      plan.mtp_rows = random() % 3 == 0 ? 0 : static_cast<int>(random() % 80);
      if (prefilling) {
        plan.prefill_rows = 1 + static_cast<int>(random() % std::min(left, 40));
        const int boundary = (driver.processed() / kKvPageTokens + 1) * kKvPageTokens;
        if (driver.processed() + plan.prefill_rows >= boundary) {
          plan.prefill_rows = boundary - driver.processed();
          plan.snapshot = 1;
          plan.snapshot_at = boundary;
        }
      } else {
        plan.max_new_ids = 1 + static_cast<int>(random() % 6);
        if (random() % 3 == 0) {
          const int count = 1 + static_cast<int>(random() % kDraftDepthMax), right = static_cast<int>(random() % 6);
          static std::vector<TokenId> drafts;
          drafts.assign(truth.begin() + driver.ids().size(), truth.begin() + driver.ids().size() + count);
          if (right < count) drafts[right] = (drafts[right] + 1) % 300;
          plan.drafts = drafts;
          ++given;
        }
        const int boundary = (driver.processed() / kKvPageTokens + 1) * kKvPageTokens;
        plan.snapshot = 1;
        plan.snapshot_at = boundary;
      }
      plan.draft_depth = static_cast<int>(random() % (kDraftDepthMax + 1));
      const SequenceResult& result = driver.Round(plan);
      deferred += result.mtp_position <= driver.processed();
      if (result.snapshot_taken) {
        snapshot_at = plan.snapshot_at;
        snapshot_has_mtp = false;
      }
      // All entries of the pages up to the snapshot have been computed meanwhile.
      if (snapshot_at > 0 && result.mtp_position >= snapshot_at) snapshot_has_mtp = true;
      rejected += result.drafted - result.accepted;
      accepted += result.accepted;
      ASSERT_TRUE(std::equal(driver.ids().begin(), driver.ids().end(), truth.begin())) << backend << " step " << step;
      if (!result.drafts.empty()) {
        const std::vector<TokenId> drafts(result.drafts.begin(), result.drafts.end());
        ASSERT_EQ(drafts, FreshDrafts(backend, driver.ids(), static_cast<int>(drafts.size())))
            << backend << " sequence " << s << " step " << step;
        ++checked;
      }
      if (!prefilling) step += static_cast<int>(result.ids.size());
      if (snapshot_has_mtp && random() % 12 == 0) {
        const std::vector<TokenId> ids = driver.ids();
        driver.Close();
        driver.Open(ids, snapshot_at, 1, true);
        ++restored;
      }
    }
  }
  std::printf(
      "%s: %d drafts equal a fresh prefill's; %d accepted, %d rejected, %d rounds with given drafts, %d with "
      "waiting entries, %d starts from snapshots\n",
      backend.c_str(), checked, accepted, rejected, given, deferred, restored);
  EXPECT_GT(checked, steps / 4);
  EXPECT_GT(accepted, 0);
  EXPECT_GT(rejected, 0);
  EXPECT_GT(given, 0);
  EXPECT_GT(deferred, 0);
  EXPECT_GT(restored, 0);
}

TEST(ComposedBackendTest, DraftsAreThoseOfAFreshMtpPrefillOnTheReference) {
  CheckDraftsAgainstFreshPrefill("reference", 1, 30, 4);
}
TEST(ComposedBackendTest, DraftsAreThoseOfAFreshMtpPrefillOnTheCpu) {
  CheckDraftsAgainstFreshPrefill("cpu", 6, 60, 5);
}

// A window of `depth` drafts that is cut after `right` of them leaves exactly the state of a plain run: everything
// after it has the same bits.
void CheckCuts(const std::string& backend, int depths) {
  const SamplingParams sampling{.temperature = 0, .logprobs = true};
  const std::vector<TokenId> prompt = Prompt(58, 2);
  Driver plain(backend, sampling);
  plain.Open(prompt);
  plain.Plain(static_cast<int>(prompt.size()) + 16);
  for (int depth = 1; depth <= depths; ++depth) {
    for (int right = 0; right <= depth; ++right) {
      Driver driver(backend, sampling, depth);
      driver.Open(prompt);
      driver.Plain(static_cast<int>(prompt.size()) + 1);
      const size_t at = driver.ids().size();
      std::vector<TokenId> drafts(plain.ids().begin() + at, plain.ids().begin() + at + depth);
      if (right < depth) drafts[right] = (drafts[right] + 1) % 300;
      SequencePlan plan = driver.Plan();
      plan.mtp = MtpCare::kDrop;
      plan.max_new_ids = depth + 1;
      plan.drafts = drafts;
      const SequenceResult& result = driver.Round(plan);
      EXPECT_EQ(result.accepted, right);
      EXPECT_EQ(result.ids.size(), static_cast<size_t>(right) + 1);
      driver.Plain(static_cast<int>(prompt.size()) + 16);
      EXPECT_EQ(driver.ids(), plain.ids()) << backend << " depth " << depth << " cut after " << right;
      EXPECT_EQ(driver.logprobs(), plain.logprobs()) << backend << " depth " << depth << " cut after " << right;
    }
  }
}

TEST(ComposedBackendTest, EveryCutInsideAWindowRestoresTheStateOnTheReference) {
  CheckCuts("reference", 3);
}
TEST(ComposedBackendTest, EveryCutInsideAWindowRestoresTheStateOnTheCpu) {
  CheckCuts("cpu", 5);
}

// A snapshot at a page boundary inside a verification window, for every place of the boundary in it.
TEST(ComposedBackendTest, SnapshotsInsideAWindowContinueWithTheSameBits) {
  const SamplingParams sampling{.temperature = 0, .logprobs = true};
  for (int offset = 0; offset <= kDraftDepthMax; ++offset) {
    const std::vector<TokenId> prompt = Prompt(kKvPageTokens - 1 - offset, 3);
    Driver plain("cpu", sampling);
    plain.Open(prompt);
    plain.Plain(kKvPageTokens + 24);
    Driver driver("cpu", sampling);
    driver.Open(prompt);
    driver.Plain(static_cast<int>(prompt.size()) + 1);
    SequencePlan plan = driver.Plan();
    plan.mtp = MtpCare::kDrop;
    plan.max_new_ids = 1 + kDraftDepthMax;
    const auto next = plain.ids().begin() + static_cast<int>(driver.ids().size());
    const std::vector<TokenId> drafts(next, next + kDraftDepthMax);
    plan.drafts = drafts;
    plan.snapshot = 2;
    plan.snapshot_at = kKvPageTokens;
    ASSERT_TRUE(driver.Round(plan).snapshot_taken) << offset;
    driver.Close();
    const std::vector<TokenId> ids(plain.ids().begin(), plain.ids().begin() + kKvPageTokens + 6);
    const size_t logprobs = driver.logprobs().size();
    driver.Open(ids, kKvPageTokens, 2);
    driver.Plain(kKvPageTokens + 24);
    EXPECT_EQ(driver.ids(), plain.ids());
    const std::vector<float> after(driver.logprobs().begin() + static_cast<int>(logprobs), driver.logprobs().end());
    EXPECT_TRUE(std::equal(after.rbegin(), after.rend(), plain.logprobs().rbegin())) << offset;
  }
}

// ---- the distribution of what comes out ----

// exp(logprob) of every first and, given the likeliest first, second token after a prompt: exact p.
struct Exact {
  std::map<TokenId, double> first, second;
  TokenId given = -1;
};

std::map<TokenId, double> Softmax(const float* logits, int vocab, float temperature) {
  std::map<TokenId, double> p;
  double sum = 0;
  for (int id = 0; id < vocab; ++id) sum += p[id] = std::exp(static_cast<double>(logits[id]) / temperature);
  for (auto& [id, value] : p) value /= sum;
  return p;
}

Exact ExactAfter(const std::vector<TokenId>& prompt, float temperature) {
  const auto blocks =
      MakeBlocks("cpu", {.max_rows = 64, .max_head_rows = 64, .kv_pages = 2, .state_slots = 2, .threads = 1}).value();
  const int vocab = blocks->spec().vocab_rows;
  Exact exact;
  std::vector<float> logits((prompt.size() + 1) * vocab);
  SequenceRunner runner(*blocks);
  runner.Append(prompt, 0, nullptr, logits.data());
  exact.first = Softmax(&logits[(prompt.size() - 1) * vocab], vocab, temperature);
  exact.given = std::max_element(exact.first.begin(), exact.first.end(), [](const auto& a, const auto& b) {
                  return a.second < b.second;
                })->first;
  runner.Append({&exact.given, 1}, 0, nullptr, logits.data());
  exact.second = Softmax(logits.data(), vocab, temperature);
  return exact;
}

// Pearson's statistic over tokens with an expectation of at least 10, the rest pooled, in standard deviations of its
// own distribution.
double ChiSquareZ(const std::map<TokenId, double>& p, const std::map<TokenId, int>& seen, int total) {
  double chi = 0, pooled_p = 1;
  int cells = 0, pooled = total;
  for (const auto& [id, probability] : p) {
    if (probability * total < 10) continue;
    const auto found = seen.find(id);
    const int count = found == seen.end() ? 0 : found->second;
    chi += (count - probability * total) * (count - probability * total) / (probability * total);
    pooled -= count;
    pooled_p -= probability;
    ++cells;
  }
  if (pooled_p * total >= 10) {
    chi += (pooled - pooled_p * total) * (pooled - pooled_p * total) / (pooled_p * total);
    ++cells;
  }
  return (chi - (cells - 1)) / std::sqrt(2.0 * (cells - 1));
}

// The first token after a prompt, and the second given the likeliest first, over many seeds: plain, verified against
// MTP drafts, and against n-gram drafts (here: always the same guess).
void CheckDistribution(int seeds) {
  constexpr float kTemperature = 0.25f;
  const std::vector<TokenId> prompt = Prompt(6, 5);
  const Exact exact = ExactAfter(prompt, kTemperature);
  for (const char* drafter : {"off", "mtp:3", "ngram"}) {
    std::map<TokenId, int> first, second;
    int accepted = 0, drafted = 0, given = 0;
    ComposedOptions options{.max_sequences = 1, .max_rows = 32, .draft_depth_max = 3, .draft_slots = 3, .mtp = true};
    const auto backend = MakeComposedBackend(MakeBlocks("cpu", LimitsFor(options, 2, 1)).value(), options).value();
    const std::vector<KvPage> pages = {0, 1};
    RoundPlan round;
    round.sequences.resize(1);
    for (int seed = 0; seed < seeds; ++seed) {
      std::vector<TokenId> ids = prompt;
      const SamplingParams sampling{.temperature = kTemperature, .seed = static_cast<uint64_t>(seed) * 7919 + 1};
      ASSERT_TRUE(backend->Open(0, {.sampling = sampling, .ids = ids, .generated_from = 6}).ok());
      const bool by_mtp = std::string(drafter) == "mtp:3";
      std::vector<TokenId> guess;
      int processed = 0;
      while (ids.size() < prompt.size() + 2) {
        SequencePlan plan{.slot = 0, .pages = pages, .ids = ids, .position = processed, .max_new_ids = 4};
        plan.prefill_rows = processed == 0 ? 6 : 0;
        plan.mtp = by_mtp ? MtpCare::kKeep : MtpCare::kDrop;
        plan.mtp_rows = by_mtp ? 32 : 0;
        plan.draft_depth = by_mtp ? 3 : 0;
        if (std::string(drafter) == "ngram" && processed > 0) {
          guess = {exact.given, exact.given};
          plan.drafts = guess;
        }
        round.sequences[0] = plan;
        const SequenceResult& result = (*backend->Wait(backend->Enqueue(round).value()))->sequences[0];
        processed += plan.prefill_rows > 0 ? 6 : static_cast<int>(result.ids.size());
        drafted += result.drafted > 0;
        accepted += result.accepted > 0;
        ids.insert(ids.end(), result.ids.begin(), result.ids.end());
      }
      backend->Close(0);
      ++first[ids[6]];
      if (ids[6] == exact.given) {
        ++given;
        ++second[ids[7]];
      }
    }
    const double z_first = ChiSquareZ(exact.first, first, seeds), z_second = ChiSquareZ(exact.second, second, given);
    std::printf("%s: %d seeds, chi-square %.2f and %.2f standard deviations from its mean, %d of %d windows accepted\n",
                drafter, seeds, z_first, z_second, accepted, drafted);
    EXPECT_LT(std::abs(z_first), 4.0) << drafter;
    EXPECT_LT(std::abs(z_second), 4.0) << drafter;
    if (std::string(drafter) != "off") {
      EXPECT_GT(accepted, 0);
      EXPECT_LT(accepted, drafted);
    }
  }
}

TEST(ComposedBackendTest, TokensComeWithTheTargetsProbabilitiesWhateverDrafts) {
  CheckDistribution(LongTests() ? 100'000 : 4'000);
}

}  // namespace
}  // namespace gantry::engine
