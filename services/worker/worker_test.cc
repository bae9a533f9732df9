// The worker's service over a unix socket with the real engine and the demo model, and a billing that remembers what it
// got.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/format/safetensors.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/digest.h"
#include "services/common/rpc_test_util.h"
#include "services/worker/inference_service.h"

namespace gantry::worker {
namespace {

using ::testing::HasSubstr;
// A sequence alone sends a frame every 40 ms: many rounds of the demo model.
constexpr int kFramesPerS = 25;
const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

class RememberingBilling final : public v1::Usage::Service {
 public:
  grpc::Status AppendWitness(grpc::ServerContext*,
                             grpc::ServerReaderWriter<v1::UsageAck, v1::WitnessBatch>* stream) override {
    v1::WitnessBatch batch;
    while (stream->Read(&batch)) {
      v1::UsageAck ack;
      {
        std::lock_guard lock(mutex_);
        for (const v1::WitnessRecord& record : batch.records()) {
          records_[record.record_id()] = record;
          ack.add_record_ids(record.record_id());
        }
      }
      changed_.notify_all();
      stream->Write(ack);
    }
    return grpc::Status::OK;
  }
  // All records once there are `count`.
  std::vector<v1::WitnessRecord> Wait(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(10), [&] { return records_.size() >= count; });
    std::vector<v1::WitnessRecord> records;
    for (const auto& [id, record] : records_) records.push_back(record);
    return records;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, v1::WitnessRecord> records_;
};

std::string Packed(const std::vector<engine::TokenId>& ids) {
  std::string bytes(ids.size() * sizeof(uint32_t), '\0');
  std::memcpy(bytes.data(), ids.data(), bytes.size());
  return bytes;
}

std::vector<engine::TokenId> GoldenIds(const std::string& name) {
  const auto file = engine::SafetensorsFile::Open(kDemo + "/golden.safetensors").value();
  const engine::StoredTensor& tensor = *file.Find(name).value();
  const auto* data = static_cast<const int64_t*>(tensor.data);
  return std::vector<engine::TokenId>(data, data + tensor.elements());
}

class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() {
    billing_server_ = RpcServer::Start(identities_.ServerOptions("billing"), {&billing_}).value();
    engine::EngineOptions options;
    options.model_path = kDemo;
    options.max_context = 1024;
    options.max_sequences = 4;
    options.max_queued = 4;
    options.threads = 2;
    options.cache_bytes = 64 << 20;
    engine_ = engine::Engine::Create(options).value();
    files_ = ReadModelFiles("demo", engine_->card()).value();
    StartWitness();
    context_ = {.engine = engine_.get(),
                .witness = witness_.get(),
                .delayed = &delayed_,
                .pacer = &pacer_,
                .model = "demo",
                .worker_id = std::string(16, 'w'),
                .numerics_id = engine_->card().numerics_id};
    service_ = std::make_unique<InferenceService>(&context_, &files_);
    server_ = RpcServer::Start(identities_.ServerOptions("worker"), {service_.get()}).value();
    stub_ = v1::Inference::NewStub(MakeChannel(server_->address(), identities_.Get("router")));
  }
  ~WorkerTest() override {
    server_->Shutdown(absl::ZeroDuration());
    server_.reset();
    engine_.reset();  // hands every sink its end
    witness_.reset();
  }

  void StartWitness() {
    witness_ = WitnessSender::Start({.state_dir = identities_.dir(),
                                     .billing = billing_server_->address(),
                                     .identity = identities_.Get("worker"),
                                     .worker_id = std::string(16, 'w'),
                                     .epoch = 1,
                                     .model = "demo"})
                   .value();
  }

  v1::GenerateStart Start(uint32_t max_tokens, int prompt = 0) {
    v1::GenerateStart start;
    start.set_request_id(std::string(15, 'r') + static_cast<char>('a' + requests_++));
    start.set_attempt(1);
    start.set_model("demo");
    start.set_tenant(std::string(16, 't'));
    start.set_hold_id(std::string(16, 'h'));
    start.set_prompt_ids(Packed(GoldenIds(absl::StrCat("ids.", prompt))));
    start.set_max_tokens(max_tokens);
    start.set_deadline_ms(60'000);
    start.mutable_sampling()->set_top_p(1);
    start.mutable_sampling()->set_repetition_penalty(1);
    v1::SequenceStart* sequence = start.add_sequences();
    sequence->set_until_index(max_tokens);
    return start;
  }

  // One stream: what came, put together.
  struct Reply {
    std::map<uint32_t, std::vector<engine::TokenId>> ids;
    std::map<uint32_t, v1::Finish> finishes;
    bool accepted = false;
    std::vector<size_t> frames;  // tokens of each
    grpc::Status status;
  };
  static void Take(const v1::GenerateServerMessage& message, Reply* reply) {
    if (message.has_accepted()) reply->accepted = true;
    if (message.has_finish()) reply->finishes[message.finish().sequence()] = message.finish();
    if (message.has_tokens()) {
      auto& ids = reply->ids[message.tokens().sequence()];
      EXPECT_EQ(message.tokens().first_index(), ids.size());
      const std::string& packed = message.tokens().ids();
      for (size_t i = 0; i < packed.size(); i += 4) {
        uint32_t id = 0;
        std::memcpy(&id, &packed[i], 4);
        ids.push_back(static_cast<engine::TokenId>(id));
      }
      EXPECT_EQ(message.tokens().counts().generated(), ids.size());
      reply->frames.push_back(packed.size() / 4);
    }
  }
  // `first_tokens` is called when the first are there.
  Reply Run(const v1::GenerateStart& start, const std::function<void()>& first_tokens = nullptr) {
    grpc::ClientContext rpc;
    rpc.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    auto stream = stub_->Generate(&rpc);
    v1::GenerateClientMessage message;
    *message.mutable_start() = start;
    stream->Write(message);
    Reply reply;
    v1::GenerateServerMessage answer;
    while (stream->Read(&answer)) {
      if (first_tokens != nullptr && reply.frames.empty() && answer.has_tokens()) first_tokens();
      Take(answer, &reply);
    }
    reply.status = stream->Finish();
    return reply;
  }

  TestIdentities identities_;
  RememberingBilling billing_;
  std::unique_ptr<RpcServer> billing_server_;
  std::unique_ptr<engine::Engine> engine_;
  ModelFiles files_;
  std::unique_ptr<WitnessSender> witness_;
  DelayedCalls delayed_;
  FramePacer pacer_{kFramesPerS};
  GenerateContext context_;
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  int requests_ = 0;
};

TEST_F(WorkerTest, GreedyStreamEqualsTheGoldenAndTheWitnessAgrees) {
  const std::vector<engine::TokenId> greedy = GoldenIds("greedy.0");
  v1::GenerateStart start = Start(static_cast<uint32_t>(greedy.size()));
  for (const uint32_t id : files_.card.stop_ids()) start.mutable_sampling()->add_stop_ids(id);
  const Reply reply = Run(start);
  EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_TRUE(reply.accepted);
  EXPECT_EQ(reply.ids.at(0), greedy);
  const auto records = billing_.Wait(1);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].request_id(), start.request_id());
  EXPECT_EQ(records[0].hold_id(), start.hold_id());
  EXPECT_EQ(records[0].party_id(), start.tenant());
  EXPECT_EQ(records[0].from_index(), 0u);
  EXPECT_EQ(records[0].to_index(), greedy.size());
  EXPECT_EQ(records[0].prompt_tokens(), GoldenIds("ids.0").size());
  EXPECT_TRUE(witness_->Flush(absl::Seconds(5)));
}

TEST_F(WorkerTest, SequencesOfOneRequestEachHaveTheirOwnIndexAndFinish) {
  v1::GenerateStart start = Start(20, 1);
  start.mutable_sampling()->set_temperature(1);
  for (uint32_t i = 1; i < 3; ++i) {
    v1::SequenceStart* sequence = start.add_sequences();
    sequence->set_index(i);
    sequence->set_until_index(20);
  }
  const Reply reply = Run(start);
  EXPECT_TRUE(reply.status.ok());
  EXPECT_EQ(reply.finishes.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(reply.ids.at(i).size(), 20u);
  EXPECT_NE(reply.ids.at(0), reply.ids.at(1));  // the choice is part of the noise
  EXPECT_EQ(billing_.Wait(3).size(), 3u);
}

TEST_F(WorkerTest, JoulesOfASequenceAreToldToTheGatewayAndToBilling) {
  const std::string zone = identities_.dir() + "/powercap/intel-rapl:0";
  std::filesystem::create_directories(zone);
  const auto set = [&](const std::string& file, const std::string& text) { std::ofstream(zone + "/" + file) << text; };
  set("name", "package-0\n");
  set("max_energy_range_uj", "65532610987\n");
  set("energy_uj", "1000000\n");
  EnergyMeter meter(identities_.dir() + "/powercap");
  context_.energy = &meter;
  const Reply reply = Run(Start(100), [&] { set("energy_uj", "9000000\n"); });  // 8 J while it runs
  EXPECT_TRUE(reply.status.ok());
  const v1::Finish& finish = reply.finishes.at(0);
  EXPECT_GT(finish.device_ms(), 0);
  EXPECT_GT(finish.joules(), 0);
  EXPECT_LE(finish.joules(), 8);
  const auto records = billing_.Wait(1);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].device_ms(), finish.device_ms());
  EXPECT_EQ(records[0].joules(), finish.joules());
  server_->Shutdown(absl::ZeroDuration());  // before the meter goes
}

TEST_F(WorkerTest, FirstTokenIsSentAtOnceAndLaterOnesShareFrames) {
  const auto begin = absl::Now();
  const Reply reply = Run(Start(300));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  EXPECT_EQ(reply.ids.at(0).size(), 300u);
  EXPECT_LE(reply.frames.front(), 8u);  // of one round, which may hold accepted drafts
  // The first and the last come whenever they are there.
  EXPECT_LE(reply.frames.size(), 2 + static_cast<size_t>(seconds * kFramesPerS));
}

TEST_F(WorkerTest, CreditStopsTheSequenceAndRaisingItGoesOn) {
  v1::GenerateStart start = Start(200);
  start.mutable_sequences(0)->set_until_index(5);
  grpc::ClientContext rpc;
  auto stream = stub_->Generate(&rpc);
  v1::GenerateClientMessage message;
  *message.mutable_start() = start;
  stream->Write(message);
  Reply reply;
  v1::GenerateServerMessage answer;
  while (reply.ids[0].size() < 5 && stream->Read(&answer)) Take(answer, &reply);
  EXPECT_EQ(reply.ids[0].size(), 5u);
  message.mutable_raise_limit()->set_until_index(12);
  stream->Write(message);
  while (stream->Read(&answer)) Take(answer, &reply);
  EXPECT_EQ(reply.ids[0].size(), 12u);
  EXPECT_EQ(reply.finishes[0].reason(), v1::FINISH_REASON_CREDIT);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(WorkerTest, CancelEndsTheStreamWithItsFinish) {
  grpc::ClientContext rpc;
  auto stream = stub_->Generate(&rpc);
  v1::GenerateClientMessage message;
  *message.mutable_start() = Start(900);
  stream->Write(message);
  Reply reply;
  v1::GenerateServerMessage answer;
  while (reply.ids[0].size() < 3 && stream->Read(&answer)) Take(answer, &reply);
  message.mutable_cancel()->set_reason(v1::CANCEL_REASON_CLIENT_GONE);
  stream->Write(message);
  while (stream->Read(&answer)) Take(answer, &reply);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(reply.finishes[0].reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_LT(reply.ids[0].size(), 900u);
  EXPECT_GE(billing_.Wait(1)[0].to_index(), reply.ids[0].size());
}

TEST_F(WorkerTest, OrphanRunsABoundedNumberOfTokensAndItsWitnessKnowsThem) {
  uint64_t received = 0;
  {
    grpc::ClientContext rpc;
    auto stream = stub_->Generate(&rpc);
    v1::GenerateClientMessage message;
    *message.mutable_start() = Start(1000);
    stream->Write(message);
    Reply reply;
    v1::GenerateServerMessage answer;
    while (reply.ids[0].size() < 3 && stream->Read(&answer)) Take(answer, &reply);
    received = reply.ids[0].size();
    message.mutable_ack()->set_next_index(static_cast<uint32_t>(received));
    stream->Write(message);
    rpc.TryCancel();  // the transport breaks; nobody said cancel
    stream->Finish();
  }
  const auto records = billing_.Wait(1);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_GE(records[0].to_index(), received);
  // One round may carry it past the bound.
  EXPECT_LE(records[0].to_index(), received + 256 + 64 * 2);
  EXPECT_EQ(engine_->Stats().running, 0);
}

TEST_F(WorkerTest, WrongStartsAreRefusedNamingTheField) {
  const struct {
    std::function<void(v1::GenerateStart&)> change;
    grpc::StatusCode code;
    const char* message;
  } rows[] = {
      {[](auto& s) { s.set_model("gpt"); }, grpc::StatusCode::NOT_FOUND, "start.model: `gpt` is not served here"},
      {[](auto& s) { s.set_request_id("short"); }, grpc::StatusCode::INVALID_ARGUMENT,
       "start.request_id: expected 16 bytes, found 5 bytes"},
      {[](auto& s) { s.set_prompt_ids("abc"); }, grpc::StatusCode::INVALID_ARGUMENT,
       "start.prompt_ids: expected packed uint32"},
      {[](auto& s) { s.set_prompt_ids(""); }, grpc::StatusCode::INVALID_ARGUMENT, "ids is empty"},
      {[](auto& s) { s.set_prompt_ids(std::string(4, '\x7f')); }, grpc::StatusCode::INVALID_ARGUMENT, "ids[0] is"},
      {[](auto& s) { s.set_max_tokens(0); }, grpc::StatusCode::INVALID_ARGUMENT,
       "start.max_tokens: expected at least 1"},
      {[](auto& s) { s.set_attempt(0); }, grpc::StatusCode::INVALID_ARGUMENT, "start.attempt"},
      {[](auto& s) { s.clear_sequences(); }, grpc::StatusCode::INVALID_ARGUMENT,
       "start.sequences: expected 1 to 16, found 0"},
      {[](auto& s) { s.mutable_sequences(0)->set_index(3); }, grpc::StatusCode::INVALID_ARGUMENT,
       "start.sequences[0].index: expected 0, found 3"},
      {[](auto& s) { s.mutable_sequences(0)->set_until_index(0); }, grpc::StatusCode::INVALID_ARGUMENT, "until_index"},
      {[](auto& s) { s.add_cache_points(0); }, grpc::StatusCode::INVALID_ARGUMENT, "start.cache_points[0]: expected"},
      {[](auto& s) { s.add_cache_points(1000); }, grpc::StatusCode::INVALID_ARGUMENT, "found 1000"},
      {[](auto& s) {
         s.add_cache_points(1);
         s.add_cache_points(1);
       },
       grpc::StatusCode::INVALID_ARGUMENT, "start.cache_points[1]: expected"},
      {[](auto& s) { s.set_deadline_ms(0); }, grpc::StatusCode::INVALID_ARGUMENT, "start.deadline_ms"},
      {[](auto& s) { s.mutable_sampling()->set_top_p(0); }, grpc::StatusCode::INVALID_ARGUMENT, "top_p is 0"},
      {[](auto& s) { s.mutable_sampling()->set_temperature(9); }, grpc::StatusCode::INVALID_ARGUMENT,
       "temperature is 9"},
  };
  for (const auto& row : rows) {
    v1::GenerateStart start = Start(5);
    row.change(start);
    const Reply reply = Run(start);
    EXPECT_EQ(reply.status.error_code(), row.code) << row.message;
    EXPECT_THAT(reply.status.error_message(), HasSubstr(row.message));
  }
  EXPECT_EQ(Run(Start(5)).ids.at(0).size(), 5u);  // still usable
}

TEST_F(WorkerTest, SequenceThatACrashLeftOpenBecomesAWitnessRecord) {
  BoardSlot slot{};
  std::memset(slot.request_id, 'q', 16);
  std::memset(slot.hold_id, 'h', 16);
  slot.attempt = 1;
  slot.prompt_tokens = 9;
  BoardSlot* taken = witness_->board().Take(slot).value();
  WitnessBoard::Advance(taken, 41, 0);
  // The process dies here: the board's file is all that is left.
  witness_.reset();
  StartWitness();
  const auto records = billing_.Wait(1);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].request_id(), std::string(16, 'q'));
  EXPECT_EQ(records[0].to_index(), 41u);
  EXPECT_EQ(records[0].finish_reason(), v1::FINISH_REASON_ERROR);
  EXPECT_TRUE(witness_->Flush(absl::Seconds(5)));
  // Told again after another restart, under the same id: billing counts it once.
  witness_.reset();
  StartWitness();
  EXPECT_TRUE(witness_->Flush(absl::Seconds(5)));
  EXPECT_EQ(billing_.Wait(1).size(), 1u);
}

TEST_F(WorkerTest, BlobsCarryWhatTheCardNames) {
  for (const std::string& hash : {files_.card.tokenizer_sha256(), files_.card.template_sha256()}) {
    grpc::ClientContext rpc;
    v1::GetBlobRequest request;
    request.set_sha256(hash);
    auto stream = stub_->GetBlob(&rpc, request);
    std::string all;
    v1::BlobChunk chunk;
    while (stream->Read(&chunk)) all += chunk.data();
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_EQ(Sha256(all), hash);
  }
  grpc::ClientContext rpc;
  v1::GetBlobRequest request;
  request.set_sha256(std::string(32, 'x'));
  v1::BlobChunk chunk;
  auto stream = stub_->GetBlob(&rpc, request);
  while (stream->Read(&chunk)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace gantry::worker
