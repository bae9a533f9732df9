#include "services/router/fleet.h"

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::router {
namespace {

using ::testing::HasSubstr;

class RecordedStream : public AttachStream {
 public:
  void Close(const absl::Status& status) override { closed = status; }
  std::optional<absl::Status> closed;
};

// What happened to one request, as a word.
class RecordedWaiter : public Waiter {
 public:
  void OnAssigned(Reservation r) override {
    reservation = std::move(r);
    worker = reservation.worker_id().bytes[15];
  }
  void OnRefused(const absl::Status& status) override { refused = status; }
  void OnWorkerLost(const std::string& reason) override { lost = reason; }

  int worker = 0;  // last byte of its id; 0: not assigned
  Reservation reservation;
  absl::Status refused;
  std::string lost;
};

class FleetTest : public ::testing::Test {
 protected:
  FleetTest() { Make(4); }

  void Make(size_t queue_limit) {
    FleetOptions options;
    options.queue_limit = queue_limit;
    options.queue_wait_max = absl::Seconds(60);
    options.now = [this] { return now_; };
    options.connect = [](const std::string&) { return std::shared_ptr<grpc::Channel>(); };
    fleet_ = std::make_unique<Fleet>(std::move(options));
  }

  static v1::WorkerHello Hello(int worker, uint64_t epoch = 1, const std::string& model = "demo") {
    v1::WorkerHello hello;
    std::string id(16, '\0');
    id[15] = static_cast<char>(worker);
    hello.set_worker_id(id);
    hello.set_epoch(epoch);
    hello.mutable_protocol()->set_min(1);
    hello.mutable_protocol()->set_max(1);
    hello.set_address("unix:/tmp/w.sock");
    hello.set_beat_ms(200);
    v1::ModelCard* card = hello.add_models();
    card->set_name(model);
    card->set_tokenizer_sha256(std::string(32, 'a'));
    card->set_template_sha256(std::string(32, 'b'));
    return hello;
  }

  static v1::WorkerReport Report(uint64_t sequence, bool snapshot, uint32_t running = 0, uint32_t max_sequences = 4,
                                 bool draining = false) {
    v1::WorkerReport report;
    report.set_sequence(sequence);
    v1::WorkerState* state = snapshot ? report.mutable_snapshot() : report.mutable_delta();
    state->mutable_load()->set_running(running);
    state->mutable_load()->set_max_sequences(max_sequences);
    state->set_draining(draining);
    return report;
  }

  // Attached with its first snapshot: can be chosen.
  uint64_t AttachReady(int worker, uint32_t max_sequences = 4, uint64_t epoch = 1, const std::string& model = "demo") {
    auto stream = std::make_shared<RecordedStream>();
    streams_[worker] = stream;
    absl::StatusOr<Fleet::Attached> attached = fleet_->Attach(Hello(worker, epoch, model), stream);
    EXPECT_TRUE(attached.ok()) << attached.status();
    EXPECT_TRUE(fleet_->Report(attached->attachment, Report(2, true, 0, max_sequences)).ok());
    return attached->attachment;
  }

  struct Asked {
    std::shared_ptr<RecordedWaiter> waiter = std::make_shared<RecordedWaiter>();
    uint64_t ticket = 0;
    RecordedWaiter* operator->() const { return waiter.get(); }
  };
  Asked Ask(WaitRequest request = {.model = "demo"}) {
    Asked asked;
    asked.ticket = fleet_->Acquire(request, asked.waiter);
    return asked;
  }

  // Time passes in ticks of 50 ms, as in the process.
  void Pass(absl::Duration duration) {
    for (absl::Duration end = now_ + duration; now_ < end;) {
      now_ += absl::Milliseconds(50);
      fleet_->Tick();
    }
  }

  absl::Duration now_ = absl::Seconds(1000);
  std::unique_ptr<Fleet> fleet_;
  std::map<int, std::shared_ptr<RecordedStream>> streams_;
};

// ---- attach ----

TEST_F(FleetTest, HelloIsAnsweredWithVersionAndLease) {
  auto attached = fleet_->Attach(Hello(1), std::make_shared<RecordedStream>());
  ASSERT_TRUE(attached.ok());
  EXPECT_EQ(attached->welcome.protocol(), 1u);
  EXPECT_EQ(attached->welcome.lease_ms(), 600u);
}

TEST_F(FleetTest, BadHellosNameTheField) {
  struct Case {
    std::function<void(v1::WorkerHello*)> spoil;
    absl::StatusCode code;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {[](auto* h) { h->set_worker_id("x"); }, absl::StatusCode::kInvalidArgument, "worker_id"},
           {[](auto* h) { h->set_epoch(0); }, absl::StatusCode::kInvalidArgument, "epoch"},
           {[](auto* h) { h->set_address("http://x"); }, absl::StatusCode::kInvalidArgument, "address"},
           {[](auto* h) { h->set_beat_ms(10); }, absl::StatusCode::kInvalidArgument, "beat_ms"},
           {[](auto* h) { h->clear_models(); }, absl::StatusCode::kInvalidArgument, "models"},
           {[](auto* h) { h->mutable_models(0)->clear_name(); }, absl::StatusCode::kInvalidArgument, "name"},
           {[](auto* h) { h->mutable_models(0)->clear_tokenizer_sha256(); }, absl::StatusCode::kInvalidArgument,
            "SHA-256"},
           {[](auto* h) { h->mutable_protocol()->set_min(0); }, absl::StatusCode::kInvalidArgument, "protocol"},
           {[](auto* h) {
              h->mutable_protocol()->set_min(2);
              h->mutable_protocol()->set_max(3);
            },
            absl::StatusCode::kFailedPrecondition, "worker speaks 2..3, router 1..1"}}) {
    v1::WorkerHello hello = Hello(1);
    c.spoil(&hello);
    absl::Status status = fleet_->Attach(hello, std::make_shared<RecordedStream>()).status();
    EXPECT_EQ(status.code(), c.code) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST_F(FleetTest, ANewerEpochReplacesTheOlderAndItsRequestsAreTold) {
  uint64_t old = AttachReady(1);
  auto old_stream = streams_[1];
  Asked asked = Ask();
  EXPECT_EQ(asked->worker, 1);
  AttachReady(1, 4, 2);
  EXPECT_EQ(asked->lost, "the worker was started again");
  EXPECT_EQ(old_stream->closed->code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fleet_->Report(old, Report(3, false)).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(fleet_->Counts().ready, 1u);
}

TEST_F(FleetTest, AnOlderEpochIsRefusedWhileANewerIsAttached) {
  AttachReady(1, 4, 7);
  absl::Status status = fleet_->Attach(Hello(1, 6), std::make_shared<RecordedStream>()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("epoch 7 is attached"));
}

TEST_F(FleetTest, TheSameProcessOnANewStreamKeepsItsRequests) {
  AttachReady(1);
  Asked asked = Ask();
  AttachReady(1);
  EXPECT_EQ(asked->lost, "");
}

TEST_F(FleetTest, WaitingRequestsSurviveTheReplacementOfTheirOnlyWorker) {
  AttachReady(1, 1);
  Asked running = Ask(), waiting = Ask();
  AttachReady(1, 1, 2);
  EXPECT_EQ(waiting->worker, 1);
  EXPECT_TRUE(waiting->refused.ok()) << waiting->refused;
}

TEST_F(FleetTest, AnotherTokenizerUnderAServedNameIsRefused) {
  AttachReady(1);
  v1::WorkerHello hello = Hello(2);
  hello.mutable_models(0)->set_tokenizer_sha256(std::string(32, 'z'));
  absl::Status status = fleet_->Attach(hello, std::make_shared<RecordedStream>()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another tokenizer"));
}

// ---- reports ----

TEST_F(FleetTest, AGapAsksOnceForASnapshotAndTheSnapshotHealsIt) {
  uint64_t a = AttachReady(1);
  EXPECT_EQ(*fleet_->Report(a, Report(3, false)), std::nullopt);
  EXPECT_EQ(*fleet_->Report(a, Report(5, false)), std::optional<uint64_t>(4));
  EXPECT_EQ(*fleet_->Report(a, Report(7, false)), std::nullopt);  // asked already
  EXPECT_EQ(*fleet_->Report(a, Report(8, true)), std::nullopt);
  EXPECT_EQ(*fleet_->Report(a, Report(9, false)), std::nullopt);
  EXPECT_EQ(*fleet_->Report(a, Report(11, false)), std::optional<uint64_t>(10));
}

TEST_F(FleetTest, SequencesThatGoBackAndSecondHellosAreRefused) {
  uint64_t a = AttachReady(1);
  EXPECT_EQ(fleet_->Report(a, Report(2, false)).status().code(), absl::StatusCode::kInvalidArgument);
  v1::WorkerReport hello;
  hello.set_sequence(3);
  *hello.mutable_hello() = Hello(1);
  EXPECT_EQ(fleet_->Report(a, hello).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FleetTest, NobodyIsChosenBeforeItsFirstSnapshot) {
  auto attached = fleet_->Attach(Hello(1), std::make_shared<RecordedStream>());
  Asked asked = Ask();
  EXPECT_EQ(asked->worker, 0);
  ASSERT_TRUE(fleet_->Report(attached->attachment, Report(2, true)).ok());
  EXPECT_EQ(asked->worker, 1);
}

// ---- leases ----

TEST_F(FleetTest, ThreeMissedBeatsEndTheLeaseAndTellTheRequests) {
  AttachReady(1);
  std::map<int, uint64_t> others;
  for (int i : {2, 3, 4}) others[i] = AttachReady(i);
  Asked asked = Ask();
  ASSERT_EQ(asked->worker, 1);
  for (int beat = 0; beat < 4; ++beat) {
    EXPECT_EQ(fleet_->Counts().ready, 4u) << beat;
    Pass(absl::Milliseconds(200));
    for (auto& [worker, attachment] : others) {
      ASSERT_TRUE(fleet_->Report(attachment, Report(3 + static_cast<uint64_t>(beat), false)).ok());
    }
  }
  EXPECT_EQ(fleet_->Counts().ready, 3u);
  EXPECT_EQ(asked->lost, "silent for longer than its lease");
  EXPECT_EQ(streams_[1]->closed->code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FleetTest, WhenMostOfTheFleetSeemsGoneItIsKeptAsSuspect) {
  uint64_t first = AttachReady(1);
  for (int i : {2, 3, 4}) AttachReady(i);
  uint64_t sequence = 3;
  for (int beat = 0; beat < 5; ++beat) {
    Pass(absl::Milliseconds(200));
    ASSERT_TRUE(fleet_->Report(first, Report(sequence++, false)).ok());
  }
  EXPECT_EQ(fleet_->Counts().ready, 1u);
  EXPECT_EQ(fleet_->Counts().suspect, 3u);
  EXPECT_EQ(Ask()->worker, 1) << "suspects are chosen last";
  // Doubt ends: ten leases of silence are not our fault.
  for (int beat = 0; beat < 30; ++beat) {
    Pass(absl::Milliseconds(200));
    ASSERT_TRUE(fleet_->Report(first, Report(sequence++, false)).ok());
  }
  EXPECT_EQ(fleet_->Counts().suspect, 0u);
  EXPECT_EQ(fleet_->Counts().ready, 1u);
}

TEST_F(FleetTest, ASuspectThatReportsIsReadyAgain) {
  uint64_t a = AttachReady(1);
  Pass(absl::Seconds(1));
  EXPECT_EQ(fleet_->Counts().suspect, 1u);
  Asked asked = Ask();
  EXPECT_EQ(asked->worker, 1) << "nobody else is left";
  ASSERT_TRUE(fleet_->Report(a, Report(3, false)).ok());
  EXPECT_EQ(fleet_->Counts().ready, 1u);
}

TEST_F(FleetTest, AStallOfThisProcessExtendsEveryLease) {
  for (int i : {1, 2, 3}) AttachReady(i);
  fleet_->Tick();
  now_ += absl::Seconds(30);  // suspended, or starved
  fleet_->Tick();
  EXPECT_EQ(fleet_->Counts().ready, 3u);
}

// ---- choice ----

TEST_F(FleetTest, TheLeastLoadedWorkerIsChosenCountingOwnReservations) {
  uint64_t first = AttachReady(1);
  AttachReady(2);
  ASSERT_TRUE(fleet_->Report(first, Report(3, false, 2)).ok());
  std::vector<Asked> asked;
  std::vector<int> workers;
  for (int i = 0; i < 6; ++i) {
    asked.push_back(Ask());
    workers.push_back(asked.back()->worker);
  }
  EXPECT_THAT(workers, ::testing::ElementsAre(2, 2, 1, 2, 1, 2));  // equal loads: the one chosen longer ago
  EXPECT_EQ(Ask()->worker, 0) << "both are full";
}

TEST_F(FleetTest, AStaleReportDoesNotHideOwnReservations) {
  uint64_t a = AttachReady(1, 2);
  Asked one = Ask(), two = Ask();
  ASSERT_TRUE(fleet_->Report(a, Report(3, false, 0, 2)).ok());  // made before the requests arrived there
  EXPECT_EQ(Ask()->worker, 0);
}

TEST_F(FleetTest, AReleaseHandsTheNextRequestOverAtOnce) {
  uint64_t a = AttachReady(1, 1);
  Asked first = Ask(), second = Ask();
  ASSERT_TRUE(fleet_->Report(a, Report(3, false, 1, 1)).ok());
  EXPECT_EQ(second->worker, 0);
  first->reservation.Release();
  EXPECT_EQ(second->worker, 1);
}

TEST_F(FleetTest, ARequestLargerThanTheWorkerRunsWhenItIsIdle) {
  AttachReady(1, 2);
  Asked small = Ask();
  Asked large = Ask({.model = "demo", .sequences = 5});
  EXPECT_EQ(large->worker, 0);
  small->reservation.Release();
  EXPECT_EQ(large->worker, 1);
}

TEST_F(FleetTest, HigherPriorityGoesFirstThenFirstCome) {
  AttachReady(1, 1);
  Asked running = Ask();
  Asked low = Ask({.model = "demo", .priority = -1}), early = Ask(), late = Ask(),
        high = Ask({.model = "demo", .priority = 5});
  std::vector<std::string> order;
  Asked* current = &running;
  for (int i = 0; i < 4; ++i) {
    current->waiter->reservation.Release();
    for (auto [name, asked] :
         {std::pair<const char*, Asked*>{"low", &low}, {"early", &early}, {"late", &late}, {"high", &high}}) {
      if (asked->waiter->reservation) {
        order.push_back(name);
        current = asked;
      }
    }
  }
  EXPECT_THAT(order, ::testing::ElementsAre("high", "early", "late", "low"));
}

// ---- refusals ----

TEST_F(FleetTest, RefusalsSayWhy) {
  Asked nobody = Ask();
  EXPECT_EQ(nobody->refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(nobody->refused.message()), HasSubstr("demo"));

  AttachReady(1);
  uint64_t other = AttachReady(2, 4, 1, "other");
  Asked unknown = Ask({.model = "gpt-9"});
  EXPECT_EQ(unknown->refused.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown->refused.message()), HasSubstr("known: demo, other"));

  fleet_->Detach(other);
  Asked gone = Ask({.model = "other"});
  EXPECT_EQ(gone->refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(gone->refused.message()), HasSubstr("other: no worker serves it"));

  EXPECT_EQ(Ask({.model = "demo", .deadline = now_})->refused.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FleetTest, TheQueueIsBounded) {
  AttachReady(1, 1);
  std::vector<Asked> asked;
  for (int i = 0; i < 6; ++i) asked.push_back(Ask());
  EXPECT_EQ(asked[0]->worker, 1);
  EXPECT_TRUE(asked[4]->refused.ok());
  EXPECT_EQ(asked[5]->refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(asked[5]->refused.message()), HasSubstr("4 requests are waiting"));
  EXPECT_EQ(fleet_->Counts().waiting, 4u);
  EXPECT_TRUE(fleet_->CancelWait(asked[1].ticket));
  EXPECT_FALSE(fleet_->CancelWait(asked[1].ticket));
  EXPECT_TRUE(Ask()->refused.ok()) << "a place is free again";
}

TEST_F(FleetTest, AFreeWorkerNeedsNoQueue) {
  Make(0);
  AttachReady(1, 1);
  Asked first = Ask(), second = Ask();
  EXPECT_EQ(first->worker, 1);
  EXPECT_EQ(second->refused.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FleetTest, WaitingEndsAtTheDeadlineOrTheLongestWait) {
  uint64_t a = AttachReady(1, 1);
  Asked running = Ask();
  Asked patient = Ask(), hurried = Ask({.model = "demo", .deadline = now_ + absl::Seconds(1)});
  uint64_t sequence = 3;
  auto pass = [&](absl::Duration duration) {
    for (absl::Duration end = now_ + duration; now_ < end;) {
      Pass(absl::Milliseconds(200));
      ASSERT_TRUE(fleet_->Report(a, Report(sequence++, false, 1, 1)).ok());
    }
  };
  pass(absl::Milliseconds(800));
  EXPECT_TRUE(hurried->refused.ok());
  pass(absl::Milliseconds(400));
  EXPECT_EQ(hurried->refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(patient->refused.ok());
  pass(absl::Seconds(60));
  EXPECT_EQ(patient->refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(fleet_->Counts().waiting, 0u);
}

TEST_F(FleetTest, WaitingRequestsAreRefusedWhenTheLastWorkerGoesOrDrains) {
  for (bool drain : {false, true}) {
    Make(4);
    uint64_t a = AttachReady(1, 1);
    Asked running = Ask(), waiting = Ask();
    if (drain) {
      ASSERT_TRUE(fleet_->Report(a, Report(3, false, 1, 1, true)).ok());
    } else {
      fleet_->Detach(a);
    }
    EXPECT_EQ(waiting->refused.code(), absl::StatusCode::kUnavailable) << drain;
    EXPECT_EQ(running->lost, "") << "its own stream says whether it lives";
    EXPECT_EQ(Ask()->refused.code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(fleet_->Models().empty());
  }
}

TEST_F(FleetTest, ClosingRefusesEveryoneAndEndsTheStreams) {
  AttachReady(1, 1);
  Asked running = Ask(), waiting = Ask();
  fleet_->Close(absl::UnavailableError("router is stopping"));
  EXPECT_THAT(std::string(waiting->refused.message()), HasSubstr("stopping"));
  EXPECT_THAT(std::string(Ask()->refused.message()), HasSubstr("stopping"));
  EXPECT_TRUE(streams_[1]->closed.has_value());
}

TEST_F(FleetTest, RandomStepsKeepTheCounts) {
  Make(8);
  uint64_t state = 12345;
  auto random = [&](uint64_t n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (state >> 33) % n;
  };
  struct Live {
    uint64_t attachment;
    uint64_t sequence = 3;
  };
  std::map<int, Live> live;
  std::vector<Asked> asked;
  uint64_t epoch = 1;
  for (int step = 0; step < 20'000; ++step) {
    int worker = 1 + static_cast<int>(random(4));
    switch (random(8)) {
      case 0:
        live[worker] = {AttachReady(worker, 3, ++epoch)};
        break;
      case 1:
        if (live.count(worker) > 0 && random(4) == 0) {
          fleet_->Detach(live[worker].attachment);
          live.erase(worker);
        }
        break;
      case 2:
        if (live.count(worker) > 0) {
          auto reported = fleet_->Report(live[worker].attachment,
                                         Report(live[worker].sequence++, false, static_cast<uint32_t>(random(4)), 3));
          if (!reported.ok()) live.erase(worker);
        }
        break;
      case 3:
        now_ += absl::Milliseconds(40);
        fleet_->Tick();
        break;
      case 4:
        if (!asked.empty()) {
          size_t i = random(asked.size());
          fleet_->CancelWait(asked[i].ticket);
          asked[i]->reservation.Release();
          asked.erase(asked.begin() + static_cast<ptrdiff_t>(i));
        }
        break;
      default:
        asked.push_back(Ask({.model = "demo", .sequences = static_cast<uint32_t>(1 + random(3))}));
    }
    size_t reserved = 0, waiting = 0;
    for (const Asked& a : asked) {
      if (a->reservation) {
        ++reserved;
      } else if (a->refused.ok()) {
        ++waiting;
      }
    }
    FleetCounts counts = fleet_->Counts();
    ASSERT_EQ(counts.reserved, reserved) << "step " << step;
    ASSERT_EQ(counts.waiting, waiting) << "step " << step;
    ASSERT_LE(counts.waiting, 8u);
  }
  for (Asked& a : asked) {
    fleet_->CancelWait(a.ticket);
    a->reservation.Release();
  }
  EXPECT_EQ(fleet_->Counts().reserved, 0u);
  EXPECT_EQ(fleet_->Counts().waiting, 0u);
}

}  // namespace
}  // namespace gantry::router
