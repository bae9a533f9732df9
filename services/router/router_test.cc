// A router with fake workers and real clients over unix sockets, all in this process.
#include "services/router/router.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/lifecycle.h"
#include "services/common/metrics.h"
#include "services/router/fake_worker.h"
#include "services/router/fleet.h"
#include "services/router/router_metrics.h"

namespace gantry::router {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using ClientStream = grpc::ClientReaderWriter<v1::GenerateClientMessage, v1::GenerateServerMessage>;

v1::GenerateClientMessage StartMessage(uint64_t deadline_ms = 10'000, int sequences = 1,
                                       const std::string& model = "demo") {
  v1::GenerateClientMessage message;
  v1::GenerateStart* start = message.mutable_start();
  start->set_request_id(std::string(16, 'r'));
  start->set_attempt(1);
  start->set_model(model);
  start->set_prompt_ids(std::string(8, '\1'));
  for (int i = 0; i < sequences; ++i) start->add_sequences()->set_index(static_cast<uint32_t>(i));
  start->set_max_tokens(100);
  start->set_deadline_ms(deadline_ms);
  return message;
}

class RouterTest : public ::testing::Test {
 protected:
  void StartRouter(int64_t queue_limit = 1024, Lifecycle* lifecycle = nullptr) {
    RouterOptions options;
    options.rpc = identities_.ServerOptions("router");
    options.identity = identities_.Get("router");
    options.queue_limit = queue_limit;
    absl::StatusOr<std::unique_ptr<Router>> router = Router::Start(std::move(options), lifecycle);
    ASSERT_TRUE(router.ok()) << router.status();
    router_ = *std::move(router);
    channel_ = MakeChannel(router_->address(), identities_.Get("gateway"));
    stub_ = v1::Inference::NewStub(channel_);
  }

  std::unique_ptr<FakeWorker> StartWorker(FakeWorkerOptions options = {}) {
    auto worker = std::make_unique<FakeWorker>(identities_, router_->address(), std::move(options));
    worker->WaitAttached();
    return worker;
  }

  struct Request {
    grpc::ClientContext context;
    std::unique_ptr<ClientStream> stream;
  };
  std::unique_ptr<Request> Ask(const v1::GenerateClientMessage& start = StartMessage(),
                               absl::Duration deadline = absl::Seconds(10)) {
    auto request = std::make_unique<Request>();
    request->context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(deadline));
    request->stream = stub_->Generate(&request->context);
    request->stream->Write(start);
    return request;
  }

  // Everything until the end of the stream, as words: "accepted 1", "0..1" for tokens, "finish length".
  static std::vector<std::string> ReadAll(Request* request, grpc::Status* status) {
    std::vector<std::string> words;
    v1::GenerateServerMessage message;
    while (request->stream->Read(&message)) words.push_back(Word(message));
    *status = request->stream->Finish();
    return words;
  }

  static std::string Word(const v1::GenerateServerMessage& message) {
    if (message.has_accepted()) return absl::StrCat("accepted ", static_cast<int>(message.accepted().worker_id()[15]));
    if (message.has_tokens()) return absl::StrCat("token ", message.tokens().first_index());
    return absl::StrCat("finish ", message.finish().sequence(), " ", v1::FinishReason_Name(message.finish().reason()));
  }

  static void ReadUntil(Request* request, const std::string& word) {
    v1::GenerateServerMessage message;
    while (request->stream->Read(&message)) {
      if (Word(message) == word) return;
    }
    FAIL() << "the stream ended before " << word;
  }

  void WaitForCounts(const std::function<bool(const FleetCounts&)>& wanted) {
    absl::Time limit = absl::Now() + absl::Seconds(5);
    while (!wanted(router_->Counts()) && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_TRUE(wanted(router_->Counts()));
  }

  TestIdentities identities_;
  std::unique_ptr<Router> router_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// ---- forwarding ----

TEST_F(RouterTest, FramesArriveInOrderAndTheStreamEndsOk) {
  StartRouter();
  auto worker = StartWorker({.tokens = 3});
  auto request = Ask();
  grpc::Status status;
  EXPECT_THAT(ReadAll(request.get(), &status),
              ElementsAre("accepted 1", "token 0", "token 1", "token 2", "finish 0 FINISH_REASON_LENGTH"));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(worker->LastStart().prompt_ids(), std::string(8, '\1'));
  EXPECT_LE(worker->LastStart().deadline_ms(), 10'000u);
  EXPECT_GT(worker->LastStart().deadline_ms(), 9'000u);
  WaitForCounts([](const FleetCounts& counts) { return counts.reserved == 0; });
}

TEST_F(RouterTest, ClientMessagesReachTheWorkerInOrder) {
  StartRouter();
  auto worker = StartWorker({.tokens = 1, .wait_for_cancel = true});
  auto request = Ask();
  v1::GenerateClientMessage message;
  for (uint32_t until : {20u, 30u, 40u}) {
    message.mutable_raise_limit()->set_until_index(until);
    request->stream->Write(message);
  }
  message.mutable_ack()->set_next_index(1);
  request->stream->Write(message);
  // The limits may come before the worker has the request; a cancel then would end it without the worker.
  ReadUntil(request.get(), "accepted 1");
  message.mutable_cancel()->set_reason(v1::CANCEL_REASON_STOP_STRING);
  request->stream->Write(message);
  request->stream->WritesDone();
  grpc::Status status;
  EXPECT_THAT(ReadAll(request.get(), &status), Contains("finish 0 FINISH_REASON_CANCELLED"));
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::vector<std::string> events = worker->Events();
  std::erase(events, "start");
  std::erase(events, "half-close");  // may follow the end of the stream
  EXPECT_THAT(events, ElementsAre("welcome", "raise 0 20", "raise 0 30", "raise 0 40", "ack 0 1", "cancel"));
}

TEST_F(RouterTest, AHalfCloseReachesTheWorkerAndTheStreamGoesOn) {
  StartRouter();
  auto worker = StartWorker({.tokens = 5, .token_interval = absl::Milliseconds(20)});
  auto request = Ask();
  request->stream->WritesDone();
  EXPECT_TRUE(worker->WaitForEvent("half-close", absl::Seconds(2)));
  grpc::Status status;
  EXPECT_EQ(ReadAll(request.get(), &status).back(), "finish 0 FINISH_REASON_LENGTH");
  EXPECT_TRUE(status.ok());
}

TEST_F(RouterTest, ManyStreamsAtOnceAllEnd) {
  StartRouter();
  auto one = StartWorker({.name = "w1", .number = 1, .max_sequences = 16, .tokens = 50});
  auto two = StartWorker({.name = "w2", .number = 2, .max_sequences = 16, .tokens = 50});
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&] {
      auto request = Ask();
      grpc::Status status;
      std::vector<std::string> words = ReadAll(request.get(), &status);
      if (status.ok() && words.size() == 52) ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 64);
  EXPECT_THAT(one->Events(), Contains("start").Times(::testing::Ge(16)));
  EXPECT_THAT(two->Events(), Contains("start").Times(::testing::Ge(16)));
  WaitForCounts([](const FleetCounts& counts) { return counts.reserved == 0 && counts.waiting == 0; });
  EXPECT_THAT(router_->metrics().metrics().Render(), HasSubstr("gantry_router_requests_total{outcome=\"ok\"} 64"));
}

TEST_F(RouterTest, ASlowReaderHoldsBackItsOwnStreamOnly) {
  StartRouter();
  constexpr int kFrames = 4000;
  constexpr size_t kFrameBytes = 16 << 10;  // 64 MiB in all
  auto worker = StartWorker({.tokens = kFrames, .frame_bytes = kFrameBytes});
  auto quick = StartWorker({.name = "quick", .number = 2, .model = "quick", .tokens = 100});
  auto slow = Ask(StartMessage(60'000), absl::Seconds(60));
  ASSERT_TRUE(worker->WaitForEvent("start", absl::Seconds(5)));
  int64_t before = -1;
  absl::Time limit = absl::Now() + absl::Seconds(10);
  while (worker->frames_written() != before && absl::Now() < limit) {
    before = worker->frames_written();
    absl::SleepFor(absl::Milliseconds(300));
  }
  EXPECT_LT(before, kFrames / 2) << "the worker is held back while its reader sleeps";
  auto other = Ask(StartMessage(10'000, 1, "quick"));
  grpc::Status status;
  EXPECT_EQ(ReadAll(other.get(), &status).size(), 102u);
  EXPECT_EQ(ReadAll(slow.get(), &status).size(), static_cast<size_t>(kFrames) + 2) << "nothing is lost";
  EXPECT_TRUE(status.ok());
}

// ---- endings ----

TEST_F(RouterTest, ACancelMessageReachesTheWorkerWithin100Ms) {
  StartRouter();
  auto worker = StartWorker({.tokens = 2, .wait_for_cancel = true});
  auto request = Ask();
  ReadUntil(request.get(), "token 1");
  absl::Time start = absl::Now();
  v1::GenerateClientMessage cancel;
  cancel.mutable_cancel()->set_reason(v1::CANCEL_REASON_CLIENT_GONE);
  request->stream->Write(cancel);
  ASSERT_TRUE(worker->WaitForEvent("cancel", absl::Seconds(2)));
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(100));
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_TRUE(status.ok());
}

TEST_F(RouterTest, ABrokenClientReachesTheWorkerAsABrokenTransportWithin100Ms) {
  StartRouter();
  auto worker = StartWorker({.tokens = 2, .wait_for_cancel = true});
  auto request = Ask();
  ReadUntil(request.get(), "token 1");
  absl::Time start = absl::Now();
  request->context.TryCancel();
  ASSERT_TRUE(worker->WaitForEvent("broken", absl::Seconds(2)));
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(100));
  EXPECT_THAT(worker->Events(), ::testing::Not(Contains("cancel")));
  WaitForCounts([](const FleetCounts& counts) { return counts.reserved == 0; });
}

TEST_F(RouterTest, TheDeadlineOfTheCallIsPropagated) {
  StartRouter();
  auto worker = StartWorker({.tokens = 1, .wait_for_cancel = true});
  auto request = Ask(StartMessage(), absl::Milliseconds(300));
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker->WaitForEvent("broken", absl::Milliseconds(500)));
  WaitForCounts([](const FleetCounts& counts) { return counts.reserved == 0; });
}

TEST_F(RouterTest, AWorkerThatDiesEndsItsStreamsUnavailableAtOnce) {
  StartRouter();
  auto worker = StartWorker({.tokens = 2, .wait_for_cancel = true});
  auto request = Ask();
  ReadUntil(request.get(), "token 1");
  absl::Time start = absl::Now();
  worker->Kill();
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("lost"));
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(500));
  WaitForCounts([](const FleetCounts& counts) { return counts.ready == 0; });
  auto next = Ask();
  ReadAll(next.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("demo"));
}

TEST_F(RouterTest, AWorkerThatHangsLosesItsLeaseAndItsStreams) {
  StartRouter();
  auto hangs = StartWorker({.name = "w1", .number = 1, .beat_ms = 50, .tokens = 2, .wait_for_cancel = true});
  auto two = StartWorker({.name = "w2", .number = 2, .model = "other", .beat_ms = 100});
  auto three = StartWorker({.name = "w3", .number = 3, .model = "other", .beat_ms = 100});
  auto request = Ask();
  ReadUntil(request.get(), "token 1");
  hangs->Freeze();
  absl::Time start = absl::Now();
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("silent for longer than its lease"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  EXPECT_TRUE(hangs->WaitForEvent("detached: lease expired", absl::Seconds(2)));
}

// ---- waiting ----

TEST_F(RouterTest, TheQueueIsBoundedAndSaysWhenToComeBack) {
  StartRouter(/*queue_limit=*/1);
  auto worker = StartWorker({.max_sequences = 1, .tokens = 1, .wait_for_cancel = true});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  auto waiting = Ask();
  WaitForCounts([](const FleetCounts& counts) { return counts.waiting == 1; });
  auto refused = Ask();
  grpc::Status status;
  EXPECT_THAT(ReadAll(refused.get(), &status), ElementsAre());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(refused->context.GetServerTrailingMetadata().count("gantry-retry-after-ms"), 1u);
  running->context.TryCancel();
  ReadUntil(waiting.get(), "token 0");  // its turn has come
}

TEST_F(RouterTest, ARequestCancelledWhileItWaitsIsFinishedByTheRouter) {
  StartRouter();
  auto worker = StartWorker({.max_sequences = 1, .tokens = 1, .wait_for_cancel = true});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  auto waiting = Ask(StartMessage(10'000, 2));
  WaitForCounts([](const FleetCounts& counts) { return counts.waiting == 1; });
  v1::GenerateClientMessage message;
  message.mutable_raise_limit()->set_until_index(20);
  waiting->stream->Write(message);
  message.mutable_cancel()->set_reason(v1::CANCEL_REASON_CLIENT_GONE);
  waiting->stream->Write(message);
  grpc::Status status;
  EXPECT_THAT(ReadAll(waiting.get(), &status),
              ElementsAre("finish 0 FINISH_REASON_CANCELLED", "finish 1 FINISH_REASON_CANCELLED"));
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(router_->Counts().waiting, 0u);
  EXPECT_THAT(worker->Events(), Contains("start").Times(1));
}

TEST_F(RouterTest, AClientThatLeavesWhileItWaitsLeavesTheQueue) {
  StartRouter();
  auto worker = StartWorker({.max_sequences = 1, .tokens = 1, .wait_for_cancel = true});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  auto waiting = Ask();
  WaitForCounts([](const FleetCounts& counts) { return counts.waiting == 1; });
  waiting->context.TryCancel();
  WaitForCounts([](const FleetCounts& counts) { return counts.waiting == 0; });
}

TEST_F(RouterTest, LimitsRaisedWhileWaitingReachTheWorkerAfterTheStart) {
  StartRouter();
  auto worker = StartWorker({.max_sequences = 1, .tokens = 1, .wait_for_cancel = true});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  auto waiting = Ask();
  v1::GenerateClientMessage message;
  message.mutable_raise_limit()->set_until_index(77);
  waiting->stream->Write(message);
  WaitForCounts([](const FleetCounts& counts) { return counts.waiting == 1; });
  absl::SleepFor(absl::Milliseconds(50));
  running->context.TryCancel();
  ReadUntil(waiting.get(), "token 0");
  EXPECT_TRUE(worker->WaitForEvent("raise 0 77", absl::Seconds(2)));
  EXPECT_LT(worker->LastStart().deadline_ms(), 9'960u) << "what it waited is off its budget";
}

TEST_F(RouterTest, TheBudgetInTheStartEndsAWait) {
  StartRouter();
  auto worker = StartWorker({.max_sequences = 1, .tokens = 1, .wait_for_cancel = true});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  auto waiting = Ask(StartMessage(200));
  grpc::Status status;
  ReadAll(waiting.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("no room before the deadline"));
}

// ---- refusals ----

TEST_F(RouterTest, BadRequestsNameTheField) {
  StartRouter();
  auto worker = StartWorker();
  struct Case {
    std::function<void(v1::GenerateClientMessage*)> spoil;
    grpc::StatusCode code;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {[](auto* m) { m->mutable_cancel(); }, grpc::StatusCode::INVALID_ARGUMENT, "first message"},
           {[](auto* m) { m->mutable_start()->set_request_id("x"); }, grpc::StatusCode::INVALID_ARGUMENT, "request_id"},
           {[](auto* m) { m->mutable_start()->clear_model(); }, grpc::StatusCode::INVALID_ARGUMENT, "model"},
           {[](auto* m) { m->mutable_start()->clear_sequences(); }, grpc::StatusCode::INVALID_ARGUMENT, "sequences"},
           {[](auto* m) { m->mutable_start()->set_priority(101); }, grpc::StatusCode::INVALID_ARGUMENT, "priority"},
           {[](auto* m) { m->mutable_start()->clear_deadline_ms(); }, grpc::StatusCode::INVALID_ARGUMENT,
            "deadline_ms"},
           {[](auto* m) { m->mutable_start()->set_model("gpt"); }, grpc::StatusCode::NOT_FOUND, "known: demo"}}) {
    v1::GenerateClientMessage message = StartMessage();
    c.spoil(&message);
    auto request = Ask(message);
    grpc::Status status;
    ReadAll(request.get(), &status);
    EXPECT_EQ(status.error_code(), c.code) << c.message;
    EXPECT_THAT(status.error_message(), HasSubstr(c.message));
  }
  EXPECT_THAT(worker->Events(), ::testing::Not(Contains("start")));
}

TEST_F(RouterTest, AStreamWithoutAStartIsRefused) {
  StartRouter();
  grpc::ClientContext context;
  auto stream = stub_->Generate(&context);
  stream->WritesDone();
  grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(RouterTest, WithoutAWorkerTheModelIsUnavailable) {
  StartRouter();
  auto request = Ask();
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("model demo"));
}

// ---- models and blobs ----

TEST_F(RouterTest, ModelsAreListedWhileAWorkerServesThem) {
  StartRouter();
  auto list = [&] {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    EXPECT_TRUE(stub_->ListModels(&context, {}, &response).ok());
    std::vector<std::string> names;
    for (const v1::ModelCard& card : response.models()) names.push_back(card.name());
    return names;
  };
  EXPECT_THAT(list(), ElementsAre());
  auto one = StartWorker({.name = "w1", .number = 1, .model = "alpha"});
  auto two = StartWorker({.name = "w2", .number = 2, .model = "beta"});
  auto also = StartWorker({.name = "w3", .number = 3, .model = "beta"});
  EXPECT_THAT(list(), ElementsAre("alpha", "beta"));
  one.reset();
  WaitForCounts([](const FleetCounts& counts) { return counts.ready == 2; });
  EXPECT_THAT(list(), ElementsAre("beta"));
}

TEST_F(RouterTest, BlobsComeFromAWorkerThatHasThem) {
  StartRouter();
  std::string blob(5'500'000, 'x');
  for (size_t i = 0; i < blob.size(); i += 1000) blob[i] = static_cast<char>(i / 1000);
  auto other = StartWorker({.name = "w1", .number = 1, .model = "alpha"});
  auto worker = StartWorker({.name = "w2", .number = 2, .model = "beta", .blob = blob});
  auto get = [&](const std::string& hash, std::string* out) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::GetBlobRequest request;
    request.set_sha256(hash);
    auto reader = stub_->GetBlob(&context, request);
    v1::BlobChunk chunk;
    while (reader->Read(&chunk)) out->append(chunk.data());
    return reader->Finish();
  };
  std::string got;
  EXPECT_TRUE(get(worker->TokenizerHash(), &got).ok());
  EXPECT_EQ(got, blob);
  EXPECT_EQ(get(std::string(32, 'q'), &got).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(get("short", &got).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// ---- attach over the wire ----

TEST_F(RouterTest, AGapInTheReportsAsksForASnapshot) {
  StartRouter();
  auto worker = StartWorker({.beat_ms = 50});
  worker->SkipSequence();
  EXPECT_TRUE(worker->WaitForEvent("snapshot request", absl::Seconds(2)));
}

TEST_F(RouterTest, ADrainingWorkerGetsNothingNew) {
  StartRouter();
  auto worker = StartWorker({.beat_ms = 50});
  worker->SetDraining();
  WaitForCounts([](const FleetCounts& counts) { return counts.draining == 1; });
  auto request = Ask();
  grpc::Status status;
  ReadAll(request.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RouterTest, AnOlderEpochIsTurnedAway) {
  StartRouter();
  auto newer = StartWorker({.name = "w1", .number = 1, .epoch = 9});
  FakeWorker older(identities_, router_->address(), {.name = "w2", .number = 1, .epoch = 8});
  EXPECT_TRUE(older.WaitForEvent("detached: worker", absl::Seconds(2)));
}

// ---- draining ----

TEST_F(RouterTest, DrainingFinishesWhatRunsAndAdmitsNothing) {
  StartRouter();
  auto worker = StartWorker({.tokens = 20, .token_interval = absl::Milliseconds(20)});
  auto running = Ask();
  ReadUntil(running.get(), "token 0");
  std::thread drain([&] { router_->Drain(absl::Seconds(5)); });
  absl::SleepFor(absl::Milliseconds(50));
  auto late = Ask();
  grpc::Status status;
  ReadAll(late.get(), &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("draining"));
  EXPECT_EQ(ReadAll(running.get(), &status).back(), "finish 0 FINISH_REASON_LENGTH");
  EXPECT_TRUE(status.ok());
  drain.join();
  EXPECT_TRUE(worker->WaitForEvent("detached: router is stopping", absl::Seconds(2)));
}

TEST_F(RouterTest, AdminSeesStatusAndStartsTheDrain) {
  Lifecycle lifecycle;
  StartRouter(1024, &lifecycle);
  auto worker = StartWorker();
  auto admin = v1::Process::NewStub(MakeChannel(router_->address(), identities_.Get("admin")));
  v1::StatusResponse status;
  grpc::ClientContext first;
  ASSERT_TRUE(admin->Status(&first, {}, &status).ok());
  EXPECT_EQ(status.process(), "router");
  EXPECT_EQ(status.pid(), static_cast<uint64_t>(getpid()));
  EXPECT_TRUE(status.live() && status.ready());
  ASSERT_GT(status.items_size(), 0);
  EXPECT_EQ(status.items(0).name() + ": " + status.items(0).value(), "workers: 1");

  v1::DrainRequest request;
  v1::DrainResponse response;
  request.set_deadline_ms(1500);
  grpc::ClientContext second;
  ASSERT_TRUE(admin->Drain(&second, request, &response).ok());
  EXPECT_EQ(lifecycle.WaitForDrain().budget, absl::Milliseconds(1500));
  EXPECT_FALSE(router_->CurrentHealth().ready);
  auto late = Ask();
  grpc::Status refused;
  ReadAll(late.get(), &refused);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  router_.reset();
}

}  // namespace
}  // namespace gantry::router
