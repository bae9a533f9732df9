// The scheduler over a backend whose next token is a function of what it was fed: any mix-up of rows, positions, pages
// or drafts shows in the output.
#include "engine/sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace gantry::engine {
namespace {

using ::testing::HasSubstr;

constexpr int kVocab = 1000;
constexpr TokenId kStop = 0;

TokenId NextToken(const std::vector<TokenId>& ids) {
  uint64_t hash = 1469598103934665603ull;
  for (TokenId id : ids) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211ull;
  return static_cast<TokenId>((hash >> 20) % kVocab);  // kStop about once in a thousand
}

// Computes nothing, but keeps in memory what a real one would keep in its pages, states and snapshots, and looks at all
// of it whenever it is used.
class FakeBackend final : public Backend {
 public:
  FakeBackend(int sequences, int max_rows, int pages, int snapshots)
      : sequences_(sequences), max_rows_(max_rows), state_(sequences), pages_(pages), snapshots_(snapshots) {
    spec_.vocab_rows = kVocab;
    results_.resize(sequences);
  }
  const ModelSpec& spec() const override { return spec_; }
  const std::string& numerics_id() const override { return id_; }
  int max_sequences() const override { return sequences_; }
  int max_rows() const override { return max_rows_; }
  int max_draft_depth() const override { return 1; }
  CacheCosts costs() const override { return {}; }
  absl::Status Open(SequenceSlot slot, const SequenceStart& start) override {
    EXPECT_FALSE(state_[slot].open);
    state_[slot] = {true, {start.ids.begin(), start.ids.begin() + start.cached}};
    if (start.cached > 0) {
      EXPECT_EQ(snapshots_[start.snapshot], state_[slot].ids);
    }
    return absl::OkStatus();
  }
  void Close(SequenceSlot slot) override {
    EXPECT_TRUE(state_[slot].open);
    state_[slot].open = false;
  }
  void ZeroPage(KvPage page) override { pages_[page].clear(); }

  absl::StatusOr<Ticket> Enqueue(const RoundPlan& plan) override {
    if (fail_next_round) {
      fail_next_round = false;
      return absl::InternalError("device lost");
    }
    result_.sequences = absl::MakeConstSpan(results_).first(plan.sequences.size());
    std::map<KvPage, SequenceSlot> writers;
    result_.rows = 0;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const SequencePlan& wish = plan.sequences[i];
      SequenceResult& result = results_[i] = {};
      result.slot = wish.slot;
      State& state = state_[wish.slot];
      EXPECT_TRUE(state.open);
      EXPECT_EQ(wish.position, static_cast<int>(state.ids.size()));
      EXPECT_TRUE(std::equal(state.ids.begin(), state.ids.end(), wish.ids.begin()));
      for (int p = 0; p < wish.position / kKvPageTokens; ++p) {
        EXPECT_EQ(pages_[wish.pages[p]], Prefix(state.ids, p)) << "somebody wrote to a page of another sequence";
      }
      std::vector<TokenId> ids(wish.ids.begin(), wish.ids.end());
      const auto commit = [&] { result.ids.push_back(NextToken(ids)), ids.push_back(result.ids.back()); };
      if (wish.prefill_rows > 0) {
        result_.rows += wish.prefill_rows;
        state.ids.assign(ids.begin(), ids.begin() + wish.position + wish.prefill_rows);
        if (state.ids.size() == ids.size()) commit();
      } else {
        // Half of all rounds accept a draft.
        const int count = std::min(wish.max_new_ids, 1 + static_cast<int>(state.ids.size() % 2));
        result_.rows += count;
        for (int k = 0; k < count; ++k) {
          state.ids.push_back(ids.back());
          commit();
          if (ids.back() == kStop) break;
        }
        result.drafted = 1;
        result.accepted = static_cast<int>(result.ids.size()) - 1;
      }
      if (std::count(state.ids.begin() + wish.position, state.ids.end(), poisoned) > 0) {
        result = {.slot = wish.slot, .status = absl::InternalError("not finite")};
        for (size_t p = wish.position / kKvPageTokens; p < wish.pages.size(); ++p) pages_[wish.pages[p]] = {poisoned};
        continue;
      }
      EXPECT_LE(state.ids.size(), wish.pages.size() * kKvPageTokens);
      for (size_t p = wish.position / kKvPageTokens; p * kKvPageTokens < state.ids.size(); ++p) {
        const auto [writer, first] = writers.emplace(wish.pages[p], wish.slot);
        EXPECT_TRUE(first) << "two sequences write to one page";
        pages_[wish.pages[p]] = Prefix(state.ids, static_cast<int>(p));
      }
      if (wish.snapshot != kNoSnapshot && wish.snapshot_at > wish.position &&
          wish.snapshot_at <= static_cast<int>(state.ids.size())) {
        snapshots_[wish.snapshot].assign(state.ids.begin(), state.ids.begin() + wish.snapshot_at);
        result.snapshot_taken = true;
      }
    }
    EXPECT_LE(result_.rows, max_rows_);
    result_.device_ms = 3 + 0.25 * result_.rows;
    ++rounds;
    return 1;
  }
  absl::StatusOr<const RoundResult*> Wait(Ticket) override { return &result_; }

  int open_sequences() const {
    return static_cast<int>(std::count_if(state_.begin(), state_.end(), [](const State& s) { return s.open; }));
  }

  // Nothing of a failed sequence may be left.
  bool HoldsPoison() const {
    return std::any_of(pages_.begin(), pages_.end(),
                       [](const auto& page) { return page.size() == 1 && page[0] < 0; }) ||
           std::any_of(pages_.begin(), pages_.end(),
                       [this](const auto& page) { return std::count(page.begin(), page.end(), poisoned) > 0; });
  }

  bool fail_next_round = false;
  TokenId poisoned = -1;  // a sequence that processes it fails
  int rounds = 0;

 private:
  struct State {
    bool open = false;
    std::vector<TokenId> ids;
  };
  // All ids up to the end of page p, as far as there are.
  static std::vector<TokenId> Prefix(const std::vector<TokenId>& ids, int p) {
    return {ids.begin(), ids.begin() + std::min<size_t>(ids.size(), size_t{kKvPageTokens} * (p + 1))};
  }
  int sequences_, max_rows_;
  ModelSpec spec_;
  std::string id_ = "fake";
  std::vector<State> state_;
  std::vector<std::vector<TokenId>> pages_, snapshots_;
  std::vector<SequenceResult> results_;
  RoundResult result_;
};

class RecordingSink final : public Sink {
 public:
  bool OnTokens(const TokenEvent& event) override {
    if (full) return false;
    EXPECT_FALSE(finished);
    EXPECT_EQ(event.first_index, next_index);
    ids.insert(ids.end(), event.ids.begin(), event.ids.end());
    next_index += static_cast<int>(event.ids.size());
    EXPECT_EQ(event.counts.generated, next_index);
    return true;
  }
  void OnFinish(const FinishEvent& event) override {
    EXPECT_FALSE(finished);
    finished = true;
    finish = event;
  }
  bool full = false, finished = false;
  int next_index = 0;
  std::vector<TokenId> ids;
  FinishEvent finish;
};

std::vector<TokenId> Expected(std::vector<TokenId> prompt, int count) {
  std::vector<TokenId> out;
  while (static_cast<int>(out.size()) < count) {
    out.push_back(NextToken(prompt));
    prompt.push_back(out.back());
    if (out.back() == kStop) break;
  }
  return out;
}

Request MakeRequest(int prompt_size, int max_tokens, int salt = 0) {
  Request request;
  for (int i = 0; i < prompt_size; ++i) request.ids.push_back(1 + (i * 7 + salt * 13) % (kVocab - 1));
  request.generated_from = prompt_size;
  request.max_tokens = max_tokens;
  request.sampling.stop_ids = {kStop};
  return request;
}

class SchedulerTest : public ::testing::Test {
 protected:
  static constexpr int kPages = 10, kSnapshots = 6;
  explicit SchedulerTest(int pages = kPages)
      : backend_(3, 40, pages, kSnapshots),
        scheduler_(&backend_,
                   {.max_context = 256,
                    .prefill_chunk_rows = 16,
                    .cache = {.pages = pages, .snapshots = kSnapshots, .needs_snapshot = true}},
                   SpecMode{.depth = 1}) {}

  std::shared_ptr<RecordingSink> Add(Request request) {
    auto sink = std::make_shared<RecordingSink>();
    EXPECT_TRUE(scheduler_.Check(request).ok()) << scheduler_.Check(request);
    scheduler_.Add(++last_id_, std::move(request), sink, now_);
    return sink;
  }
  void Run(int steps_max = 100'000) {
    while (steps_max-- > 0 && !scheduler_.empty()) {
      const auto outcome = scheduler_.Step(now_);
      if (!outcome.progressed) {
        if (outcome.wake_at == absl::InfiniteFuture()) break;
        now_ = std::max(now_, outcome.wake_at);
      }
    }
  }
  EngineStats Stats() {
    EngineStats stats;
    scheduler_.FillStats(&stats);
    return stats;
  }
  int PagesUsed() { return static_cast<int>(Stats().kv_pages_used); }

  FakeBackend backend_;
  Scheduler scheduler_;
  RequestId last_id_ = 0;
  absl::Time now_ = absl::Now();
};

TEST_F(SchedulerTest, ChunkedPromptsInOneBatchGiveEachItsOwnTokens) {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(Add(MakeRequest(5 + 17 * i, 20 + i, i)));
  Run();
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(sinks[i]->ids, Expected(MakeRequest(5 + 17 * i, 1, i).ids, 20 + i)) << i;
    EXPECT_TRUE(sinks[i]->finished);
  }
  EXPECT_EQ(PagesUsed(), 0);
}

TEST_F(SchedulerTest, MaxTokensAndTheContextEndWithLength) {
  auto limited = Add(MakeRequest(5, 3));
  Run();
  EXPECT_EQ(limited->ids.size(), 3u);
  EXPECT_EQ(limited->finish.reason, FinishReason::kLength);
  auto full = Add(MakeRequest(250, 100));
  Run();
  EXPECT_EQ(full->ids.size(), 6u);
  EXPECT_EQ(full->finish.reason, FinishReason::kLength);
}

TEST_F(SchedulerTest, StopIdIsTheLastTokenAndEndsTheSequence) {
  // Found by search: the first salt whose continuation stops early.
  int salt = 0;
  while (Expected(MakeRequest(4, 1, salt).ids, 100).size() == 100) ++salt;
  auto sink = Add(MakeRequest(4, 100, salt));
  Run();
  EXPECT_EQ(sink->ids.back(), kStop);
  EXPECT_EQ(sink->finish.reason, FinishReason::kStop);
  EXPECT_EQ(sink->finish.stop_id, kStop);
}

TEST_F(SchedulerTest, CreditIsNeverOverrunAndRaisingItGoesOn) {
  Request request = MakeRequest(5, 50);
  request.until_index = 4;
  auto sink = Add(request);
  while (scheduler_.Step(now_).progressed) {
  }
  EXPECT_EQ(sink->ids.size(), 4u);
  EXPECT_FALSE(sink->finished);
  scheduler_.RaiseLimit(last_id_, 9);
  scheduler_.RaiseLimit(last_id_, 2);  // never lowered
  while (scheduler_.Step(now_).progressed) {
  }
  EXPECT_EQ(sink->ids.size(), 9u);
  Run();  // time passes, nobody raises
  EXPECT_EQ(sink->finish.reason, FinishReason::kCredit);
  EXPECT_EQ(sink->ids, Expected(MakeRequest(5, 1).ids, 9));
}

TEST_F(SchedulerTest, CancelTakesEffectAtTheNextRoundAlsoInsideAPrompt) {
  auto sink = Add(MakeRequest(200, 10));
  scheduler_.Step(now_);
  const int rounds = backend_.rounds;
  scheduler_.Cancel(last_id_);
  scheduler_.Step(now_);
  EXPECT_EQ(backend_.rounds, rounds);
  EXPECT_EQ(sink->finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(PagesUsed(), 0);
}

TEST_F(SchedulerTest, DeadlineEndsRunningAndWaitingRequests) {
  for (int i = 0; i < 3; ++i) Add(MakeRequest(5, 200, i));
  Request late = MakeRequest(5, 10);
  late.deadline = now_ + absl::Seconds(1);
  auto sink = Add(late);  // three slots: this one waits
  scheduler_.Step(now_);
  scheduler_.Step(now_ + absl::Seconds(2));
  EXPECT_EQ(sink->finish.reason, FinishReason::kDeadline);
  EXPECT_EQ(sink->finish.status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SchedulerTest, FullSinkPausesItsOwnSequenceAloneAndIsCancelledAfterTheBound) {
  auto slow = Add(MakeRequest(5, 40, 3));
  auto quick = Add(MakeRequest(5, 40, 2));
  slow->full = true;
  for (int i = 0; i < 60; ++i) scheduler_.Step(now_);
  EXPECT_EQ(quick->ids, Expected(MakeRequest(5, 1, 2).ids, 40));
  EXPECT_FALSE(slow->finished);
  slow->full = false;
  scheduler_.Step(now_);
  slow->full = true;
  scheduler_.Step(now_);
  scheduler_.Step(now_ + absl::Seconds(3));

  EXPECT_EQ(slow->finish.reason, FinishReason::kCancelled);
  EXPECT_EQ(slow->finish.status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SchedulerTest, LostDeviceFailsTheRoundsRequestsAndLaterOnesRun) {
  auto lost = Add(MakeRequest(5, 10));
  backend_.fail_next_round = true;
  Run();
  EXPECT_EQ(lost->finish.reason, FinishReason::kError);
  EXPECT_THAT(std::string(lost->finish.status.message()), HasSubstr("device lost"));
  auto next = Add(MakeRequest(5, 10));
  Run();
  EXPECT_EQ(next->ids.size(), 10u);
}

TEST_F(SchedulerTest, ResumedRequestContinuesItsIndices) {
  const Request whole = MakeRequest(5, 12);
  const std::vector<TokenId> expected = Expected(whole.ids, 12);
  Request resumed = whole;
  resumed.ids.insert(resumed.ids.end(), expected.begin(), expected.begin() + 5);
  auto sink = std::make_shared<RecordingSink>();
  sink->next_index = 5;
  scheduler_.Add(++last_id_, resumed, sink, now_);
  Run();
  EXPECT_EQ(sink->ids, std::vector<TokenId>(expected.begin() + 5, expected.end()));
  EXPECT_EQ(sink->finish.counts.recomputed, 5);
}

TEST_F(SchedulerTest, HigherPriorityGoesFirst) {
  for (int i = 0; i < 3; ++i) Add(MakeRequest(5, 60, i));
  auto low = Add(MakeRequest(5, 1, 4));
  Request urgent = MakeRequest(5, 1, 5);
  urgent.priority = 5;
  auto high = Add(urgent);
  while (!low->finished && !high->finished) scheduler_.Step(now_);
  EXPECT_TRUE(high->finished);
  EXPECT_FALSE(low->finished);
}

TEST_F(SchedulerTest, ImpossibleRequestsAreRefusedNamingTheField) {
  const auto refused = [&](auto change) {
    Request request = MakeRequest(5, 10);
    change(request);
    const absl::Status status = scheduler_.Check(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](Request& r) { r.ids.clear(); }), HasSubstr("ids is empty"));
  EXPECT_THAT(refused([](Request& r) { r.ids.assign(256, 1); }), HasSubstr("ids has 256 tokens, expected at most 255"));
  EXPECT_THAT(refused([](Request& r) { r.ids[3] = kVocab; }), HasSubstr("ids[3] is 1000"));
  EXPECT_THAT(refused([](Request& r) { r.ids[3] = -1; }), HasSubstr("ids[3] is -1"));
  EXPECT_THAT(refused([](Request& r) { r.max_tokens = 0; }), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(refused([](Request& r) { r.generated_from = 9; }), HasSubstr("generated_from is 9"));
  EXPECT_THAT(refused([](Request& r) { r.sampling.top_p = 0; }), HasSubstr("top_p"));
}

TEST_F(SchedulerTest, ASecondTurnComputesOnlyWhatIsNew) {
  const Request first = MakeRequest(150, 20);
  auto sink = Add(first);
  Run();
  EXPECT_EQ(sink->finish.counts.cached, 0);
  Request second = first;
  second.ids.insert(second.ids.end(), sink->ids.begin(), sink->ids.end());
  const Request more = MakeRequest(40, 1, 9);
  second.ids.insert(second.ids.end(), more.ids.begin(), more.ids.end());
  second.generated_from = static_cast<int>(second.ids.size());
  auto next = Add(second);
  Run();
  EXPECT_EQ(next->finish.counts.cached, 128);  // two whole pages of the 169 processed positions
  EXPECT_EQ(next->ids, Expected(second.ids, 20));
}

TEST_F(SchedulerTest, AReplyLeavesItsOwnPagesToTheNextTurn) {
  const Request first = MakeRequest(60, 80);
  auto sink = Add(first);
  Run();
  Request second = first;
  second.ids.insert(second.ids.end(), sink->ids.begin(), sink->ids.end());
  second.generated_from = static_cast<int>(second.ids.size());
  auto next = Add(second);
  Run();
  EXPECT_EQ(next->finish.counts.cached, 128);  // the snapshot at 128 was taken while decoding
}

TEST_F(SchedulerTest, ACachePointInsideThePromptServesWhoBranchesOffThere) {
  Request first = MakeRequest(200, 2);
  first.cache_points = {100};
  Add(first);
  Run();
  Request other = MakeRequest(200, 2);
  for (size_t i = 100; i < other.ids.size(); ++i) other.ids[i] = 1 + static_cast<TokenId>(i % 50);
  auto sink = Add(other);
  Run();
  EXPECT_EQ(sink->finish.counts.cached, 64);
  EXPECT_EQ(sink->ids, Expected(other.ids, 2));
}

TEST_F(SchedulerTest, IdenticalPromptsAtOnceAreComputedOnce) {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) sinks.push_back(Add(MakeRequest(150, 10)));
  Run();
  EXPECT_EQ(sinks[0]->finish.counts.cached, 0);
  for (int i = 1; i < 3; ++i) {
    EXPECT_EQ(sinks[i]->finish.counts.cached, 128);
    EXPECT_EQ(sinks[i]->ids, sinks[0]->ids);
  }
}

TEST_F(SchedulerTest, SaltsAndPromptLogprobsReadNothing) {
  Add(MakeRequest(150, 2));
  Run();
  Request salted = MakeRequest(150, 2);
  salted.cache_salt = "other tenant";
  auto other = Add(salted);
  Request scored = MakeRequest(150, 2);
  scored.prompt_logprobs = true;
  auto scores = Add(scored);
  Run();
  EXPECT_EQ(other->finish.counts.cached, 0);
  EXPECT_EQ(scores->finish.counts.cached, 0);
}

TEST_F(SchedulerTest, WhoRanksLowestGivesWayAndIsComputedAgainWithTheSameTokens) {
  // Three times 60 + 190 tokens need 12 pages: more than there are.
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<std::vector<TokenId>> expected;
  for (int salt = 0; sinks.size() < 3; ++salt) {
    expected.push_back(Expected(MakeRequest(60, 1, salt).ids, 190));
    if (expected.back().size() < 190) {
      expected.pop_back();  // a stop id ends it too early
    } else {
      sinks.push_back(Add(MakeRequest(60, 190, salt)));
    }
  }
  Run();
  EXPECT_GT(Stats().preempted, 0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(sinks[i]->ids, expected[i]) << i;
    EXPECT_EQ(sinks[i]->finish.counts.cached, 0);  // what the cache gave back is no discount on the prompt
  }
  EXPECT_EQ(sinks[0]->finish.counts.recomputed, 0);
  EXPECT_GT(sinks[2]->finish.counts.recomputed, 0);
  EXPECT_EQ(PagesUsed(), 0);
}

TEST_F(SchedulerTest, DeviceTimeIsSharedByRowsAndNoneIsLost) {
  // The last two prompts differ in length alone; all three give way to each other at times.
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Add(MakeRequest(i % 3 == 2 ? 150 : 40, 80, i)));
  Run();
  auto brief = Add(MakeRequest(20, 1)), lengthy = Add(MakeRequest(140, 1));
  Run();
  sinks.insert(sinks.end(), {brief, lengthy});
  double shared_ms = 0;
  for (const auto& sink : sinks) shared_ms += sink->finish.device_ms;
  EXPECT_NEAR(shared_ms, Stats().device_ms, 1e-6);
  EXPECT_GT(Stats().device_ms, 3.0 * backend_.rounds);
  EXPECT_GT(brief->finish.device_ms, 0);
  EXPECT_GT(lengthy->finish.device_ms, 3 * brief->finish.device_ms);
}

TEST_F(SchedulerTest, AFailedSequenceLeavesNothingInTheCacheAndHarmsNobody) {
  backend_.poisoned = 999;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) {
    Request request = MakeRequest(100, 30, i);
    std::replace(request.ids.begin(), request.ids.end(), 999, 998);
    if (i == 1) request.ids[90] = 999;
    sinks.push_back(Add(request));
  }
  Run();
  EXPECT_EQ(sinks[1]->finish.reason, FinishReason::kError);
  EXPECT_FALSE(backend_.HoldsPoison());
  for (int i : {0, 2}) EXPECT_EQ(sinks[i]->ids.size(), 30u);
  EXPECT_EQ(PagesUsed(), 0);
}

// Pages for one and a half of its three sequences.
class CrowdedSchedulerTest : public SchedulerTest {
 protected:
  static constexpr int kPages = 6;
  CrowdedSchedulerTest() : SchedulerTest(kPages) {}
};

// Random submissions, cancellations, raises and slow readers that make each other give way: every sink ends exactly
// once with a prefix of its own expected tokens, and pages, slots and queue come back to nothing.
TEST_F(CrowdedSchedulerTest, RandomTrafficLosesNothing) {
  constexpr int64_t kOperations = 100'000;
  std::mt19937 random(7);
  struct Live {
    std::shared_ptr<RecordingSink> sink;
    Request request;
    RequestId id;
  };
  std::vector<Live> all;
  int64_t submitted = 0, cancelled = 0, raised = 0, stalled = 0;
  const auto operations = [&] { return submitted + cancelled + raised + Stats().preempted; };
  const auto unfinished = [&] {
    const EngineStats stats = Stats();
    return submitted - std::accumulate(std::begin(stats.finished), std::end(stats.finished), int64_t{0});
  };
  while (operations() < kOperations) {
    if (random() % 5 == 0 && unfinished() < 24) {
      // Few prompts, so that they meet in the cache; sometimes long enough to preempt each other.
      Request request = MakeRequest(1 + random() % (random() % 2 == 0 ? 200 : 60), 1 + random() % 180,
                                    static_cast<int>(random() % 6));
      if (random() % 3 == 0) request.cache_points = {static_cast<int>(random() % request.ids.size())};
      if (random() % 11 == 0) request.cache_salt = "other";
      if (random() % 3 == 0) request.until_index = 1 + random() % 40;
      request.priority = static_cast<int>(random() % 3);
      if (random() % 7 == 0) request.deadline = now_ + absl::Milliseconds(random() % 50);
      auto sink = Add(request);
      all.push_back({sink, request, last_id_});
      ++submitted;
    }
    if (!all.empty()) {
      Live& live = all[all.size() - 1 - random() % std::min<size_t>(all.size(), 24)];
      if (random() % 40 == 0) scheduler_.Cancel(live.id), ++cancelled;
      if (random() % 10 == 0) scheduler_.RaiseLimit(live.id, static_cast<int>(random() % 80)), ++raised;
      if (random() % 4 == 0) live.sink->full = random() % 10 == 0, stalled += live.sink->full;
    }
    scheduler_.Step(now_);
    now_ += absl::Milliseconds(1);
  }
  for (Live& live : all) live.sink->full = false;
  Run();
  EXPECT_TRUE(scheduler_.empty());
  const EngineStats stats = Stats();
  EXPECT_EQ(stats.running + stats.queued, 0);
  EXPECT_EQ(stats.kv_pages_used, 0);
  EXPECT_EQ(stats.kv_pages_free, kPages);
  EXPECT_EQ(backend_.open_sequences(), 0);
  int complete = 0;
  for (const Live& live : all) {
    ASSERT_TRUE(live.sink->finished);
    const std::vector<TokenId> expected = Expected(live.request.ids, live.request.max_tokens);
    ASSERT_LE(live.sink->ids.size(), expected.size());
    ASSERT_TRUE(std::equal(live.sink->ids.begin(), live.sink->ids.end(), expected.begin()));
    complete += live.sink->ids.size() == expected.size();
  }
  std::printf("%lld submitted, %lld cancelled, %lld raised, %lld preempted, %lld readers stalled; %d complete\n",
              static_cast<long long>(submitted), static_cast<long long>(cancelled), static_cast<long long>(raised),
              static_cast<long long>(stats.preempted), static_cast<long long>(stalled), complete);
  EXPECT_GT(complete, 1000);
  EXPECT_GT(stats.preempted, 1000);
  EXPECT_GT(stats.totals.cached, 0);
}

}  // namespace
}  // namespace gantry::engine
