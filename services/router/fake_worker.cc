#include "services/router/fake_worker.h"

#include <grpcpp/grpcpp.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"

namespace gantry::router {

// One Generate. Its thread plays the script and waits for each write; it is joined with the worker.
class FakeWorker::Call final : public grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage> {
 public:
  explicit Call(FakeWorker* worker) : worker_(worker), thread_([this] { Play(); }) { StartRead(&in_); }
  ~Call() override {
    thread_.join();
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&done_));
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      bool broken;
      {
        absl::MutexLock lock(&mutex_);
        broken = cancelled_;
        reads_over_ = true;
        started_ = started_ || broken;
      }
      if (!broken) worker_->Record("half-close");
      return;
    }
    if (in_.has_start()) {
      absl::MutexLock lock(&mutex_);
      start_ = in_.start();
      started_ = true;
    } else if (in_.has_raise_limit()) {
      worker_->Record(absl::StrCat("raise ", in_.raise_limit().sequence(), " ", in_.raise_limit().until_index()));
    } else if (in_.has_ack()) {
      worker_->Record(absl::StrCat("ack ", in_.ack().sequence(), " ", in_.ack().next_index()));
    } else if (in_.has_cancel()) {
      worker_->Record("cancel");
      absl::MutexLock lock(&mutex_);
      asked_to_end_ = true;
    }
    StartRead(&in_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    written_ = true;
    write_ok_ = ok;
  }

  void OnCancel() override {
    worker_->Record("broken");
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    asked_to_end_ = true;
    started_ = true;
  }

  void OnDone() override {
    absl::MutexLock lock(&mutex_);
    done_ = true;
  }

 private:
  bool Write(const v1::GenerateServerMessage& message) {
    {
      absl::MutexLock lock(&mutex_);
      if (cancelled_) return false;
      written_ = false;
      out_ = message;
      StartWrite(&out_);
    }
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&written_));
    return write_ok_;
  }

  bool Ended() {
    absl::MutexLock lock(&mutex_);
    return asked_to_end_;
  }

  void Play() {
    v1::GenerateStart start;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&started_));
      start = start_;
    }
    const FakeWorkerOptions& script = worker_->options_;
    {
      absl::MutexLock lock(&worker_->mutex_);
      worker_->last_start_ = start;
    }
    worker_->Record("start");
    ++worker_->running_;
    v1::GenerateServerMessage out;
    std::string id(16, '\0');
    id[15] = static_cast<char>(script.number);
    out.mutable_accepted()->set_worker_id(id);
    bool open = Write(out);
    uint32_t index = 0;
    for (; open && !Ended() && static_cast<int>(index) < script.tokens; ++index) {
      v1::GenerateServerMessage frame;
      frame.mutable_tokens()->set_first_index(index);
      std::string ids(script.frame_bytes, '\0');
      for (size_t i = 0; i < 4; ++i) ids[i] = static_cast<char>(index >> (8 * i));
      frame.mutable_tokens()->set_ids(ids);
      frame.mutable_tokens()->mutable_counts()->set_generated(index + 1);
      open = Write(frame);
      if (open) ++worker_->frames_written_;
      if (script.token_interval > absl::ZeroDuration()) absl::SleepFor(script.token_interval);
    }
    if (script.wait_for_cancel) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&asked_to_end_));
    }
    bool ended = Ended();
    for (const v1::SequenceStart& sequence : start.sequences()) {
      v1::GenerateServerMessage last;
      last.mutable_finish()->set_sequence(sequence.index());
      last.mutable_finish()->set_reason(ended ? v1::FINISH_REASON_CANCELLED : v1::FINISH_REASON_LENGTH);
      last.mutable_finish()->mutable_counts()->set_generated(index);
      Write(last);
    }
    --worker_->running_;
    Finish(grpc::Status::OK);
  }

  FakeWorker* const worker_;
  absl::Mutex mutex_;
  v1::GenerateClientMessage in_;
  v1::GenerateServerMessage out_;
  v1::GenerateStart start_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool reads_over_ ABSL_GUARDED_BY(mutex_) = false;
  bool asked_to_end_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool written_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_ok_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

FakeWorker::FakeWorker(const TestIdentities& identities, const std::string& router_address, FakeWorkerOptions options)
    : options_(std::move(options)) {
  RpcServerOptions rpc = identities.ServerOptions("worker");
  rpc.listen = identities.Socket(options_.name);
  absl::StatusOr<std::unique_ptr<RpcServer>> server = RpcServer::Start(rpc, {this});
  GANTRY_CHECK(server.ok(), "the fake worker listens");
  server_ = *std::move(server);
  router_ = MakeChannel(router_address, identities.Get("worker"));
  attach_context_ = std::make_unique<grpc::ClientContext>();
  attach_context_->set_wait_for_ready(true);
  attach_thread_ = std::thread([this] { AttachLoop(); });
}

FakeWorker::~FakeWorker() {
  stop_ = true;
  attach_context_->TryCancel();
  attach_thread_.join();
  server_.reset();
  std::vector<std::unique_ptr<Call>> calls;
  {
    absl::MutexLock lock(&mutex_);
    calls.swap(calls_);
  }
}

void FakeWorker::Kill() {
  attach_context_->TryCancel();
  server_->Shutdown(absl::ZeroDuration());
}

std::string FakeWorker::TokenizerHash() const {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(options_.blob.data()), options_.blob.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  return hash;
}

void FakeWorker::Record(const std::string& event) {
  absl::MutexLock lock(&mutex_);
  events_.push_back(event);
}

std::vector<std::string> FakeWorker::Events() const {
  absl::MutexLock lock(&mutex_);
  return events_;
}

v1::GenerateStart FakeWorker::LastStart() const {
  absl::MutexLock lock(&mutex_);
  return last_start_;
}

bool FakeWorker::WaitForEvent(const std::string& beginning, absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  auto seen = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return std::any_of(events_.begin(), events_.end(),
                       [&](const std::string& event) { return absl::StartsWith(event, beginning); });
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&seen), timeout);
}

void FakeWorker::WaitAttached() {
  absl::Time limit = absl::Now() + absl::Seconds(10);
  while (!attached_ && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(2));
  GANTRY_CHECK(attached_, "the fake worker attaches within 10 s");
}

void FakeWorker::AttachLoop() {
  auto stub = v1::Fleet::NewStub(router_);
  auto stream = stub->Attach(attach_context_.get());
  v1::WorkerReport report;
  report.set_sequence(1);
  v1::WorkerHello* hello = report.mutable_hello();
  std::string id(16, '\0');
  id[15] = static_cast<char>(options_.number);
  hello->set_worker_id(id);
  hello->set_epoch(options_.epoch);
  hello->mutable_protocol()->set_min(1);
  hello->mutable_protocol()->set_max(1);
  hello->set_address(server_->address());
  hello->set_beat_ms(options_.beat_ms);
  v1::ModelCard* card = hello->add_models();
  card->set_name(options_.model);
  card->set_tokenizer_sha256(TokenizerHash());
  card->set_template_sha256(std::string(32, 't'));
  stream->Write(report);

  std::atomic<bool> open{true};
  std::thread reader([this, &stream, &open] {
    v1::RouterOrder order;
    while (stream->Read(&order)) {
      if (order.has_welcome()) Record("welcome");
      if (order.has_snapshot_request()) {
        Record(absl::StrCat("snapshot request ", order.snapshot_request().expected_sequence()));
      }
    }
    open = false;
  });
  uint64_t sequence = 2;
  while (open && !stop_) {
    if (!frozen_) {
      if (skip_.exchange(false)) ++sequence;
      report.Clear();
      report.set_sequence(sequence++);
      v1::WorkerState* state = sequence == 3 ? report.mutable_snapshot() : report.mutable_delta();
      state->mutable_load()->set_max_sequences(options_.max_sequences);
      state->mutable_load()->set_running(static_cast<uint32_t>(running_));
      state->set_draining(draining_);
      if (!stream->Write(report)) break;
      // The first orders and the first load may cross: the welcome has come when both are known.
      if (WaitForEvent("welcome", absl::ZeroDuration())) attached_ = true;
    }
    absl::SleepFor(absl::Milliseconds(options_.beat_ms / 2));
  }
  stream->WritesDone();
  reader.join();
  grpc::Status status = stream->Finish();
  Record(absl::StrCat("detached: ", status.error_message()));
}

grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage>* FakeWorker::Generate(
    grpc::CallbackServerContext*) {
  auto call = std::make_unique<Call>(this);
  auto* raw = call.get();
  absl::MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
  return raw;
}

grpc::ServerWriteReactor<v1::BlobChunk>* FakeWorker::GetBlob(grpc::CallbackServerContext*,
                                                             const v1::GetBlobRequest* request) {
  struct Writer final : grpc::ServerWriteReactor<v1::BlobChunk> {
    void Next() {
      constexpr size_t kChunk = 1 << 20;
      if (at >= blob.size()) {
        Finish(grpc::Status::OK);
        return;
      }
      chunk.set_data(blob.substr(at, kChunk));
      at += kChunk;
      StartWrite(&chunk);
    }
    void OnWriteDone(bool ok) override {
      if (ok) {
        Next();
      } else {
        Finish(grpc::Status::CANCELLED);
      }
    }
    void OnDone() override { delete this; }
    std::string blob;
    size_t at = 0;
    v1::BlobChunk chunk;
  };
  auto* writer = new Writer;
  if (request->sha256() != TokenizerHash()) {
    writer->Finish({grpc::StatusCode::NOT_FOUND, "no such blob"});
  } else {
    writer->blob = options_.blob;
    writer->Next();
  }
  return writer;
}

}  // namespace gantry::router
