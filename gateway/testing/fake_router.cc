#include "gateway/testing/fake_router.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "engine/base/mapped_file.h"
#include "engine/text/chat_template.h"
#include "services/common/digest.h"
#include "services/common/grpc_status.h"

namespace gantry::gateway {
namespace {

constexpr absl::Duration kCreditPatience = absl::Milliseconds(250);  // R1
constexpr char kModelDir[] = GANTRY_SOURCE_DIR "/models/demo";

}  // namespace

// One Generate. Its thread plays the script and waits for each write; reads come on gRPC's threads.
class FakeRouter::Call final : public grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage> {
 public:
  explicit Call(FakeRouter* router) : router_(*router), thread_([this] { Run(); }) { StartRead(&in_); }
  ~Call() override {
    thread_.join();
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&done_));
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    if (!ok) {
      ended_ = true;
      return;
    }
    if (in_.has_start()) {
      start_ = in_.start();
      untils_.assign(static_cast<size_t>(start_.sequences_size()), 0);
      for (const v1::SequenceStart& sequence : start_.sequences()) untils_[sequence.index()] = sequence.until_index();
      started_ = true;
    } else if (in_.has_raise_limit()) {
      uint32_t& until = untils_[in_.raise_limit().sequence()];
      until = std::max(until, in_.raise_limit().until_index());
      router_.Record(absl::StrCat("raise ", in_.raise_limit().sequence(), " ", until));
    } else if (in_.has_ack()) {
      router_.Record(absl::StrCat("ack ", in_.ack().sequence(), " ", in_.ack().next_index()));
    } else if (in_.has_cancel()) {
      router_.Record(absl::StrCat("cancel ", v1::CancelReason_Name(in_.cancel().reason()).substr(14)));
      ended_ = true;
    }
    StartRead(&in_);
  }
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    written_ = true;
    ended_ = ended_ || !ok;
  }
  void OnCancel() override {
    router_.Record("broken");
    absl::MutexLock lock(&mu_);
    ended_ = broken_ = true;
  }
  void OnDone() override {
    absl::MutexLock lock(&mu_);
    done_ = true;
  }

 private:
  struct Sequence {
    std::vector<uint32_t> ids;
    size_t sent = 0;
    absl::Time waits_since = absl::InfiniteFuture();
    bool over = false;
  };

  void Run() {
    {
      absl::MutexLock lock(&mu_);
      const auto begun = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return started_ || ended_; };
      mu_.Await(absl::Condition(&begun));
      sequences_.resize(untils_.size());
    }
    router_.Begin(start_, &script_);
    router_.Record("start");
    const absl::Status status = script_.refusal.ok() ? Play() : script_.refusal;
    router_.End();
    Finish(ToGrpcStatus(status));
  }

  absl::Status Play() {
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const auto ids = router_.tokenizer_->Encode(script_.texts[i % script_.texts.size()], /*parse_special=*/false);
      GANTRY_CHECK(ids.ok(), "the script's text is UTF-8");
      sequences_[i].ids.assign(ids->begin(), ids->end());
      if (script_.end == v1::FINISH_REASON_STOP && start_.sampling().stop_ids_size() > 0 && !script_.endless) {
        sequences_[i].ids.push_back(start_.sampling().stop_ids(0));
      }
    }
    v1::GenerateServerMessage accepted;
    accepted.mutable_accepted()->set_worker_id(std::string(16, 'w'));
    Write(accepted);
    for (;;) {
      if (script_.break_after >= 0 && sequences_[0].sent >= static_cast<size_t>(script_.break_after)) {
        return absl::UnavailableError("worker lost");
      }
      bool all_over = true;
      bool progress = false;
      for (uint32_t i = 0; i < sequences_.size() && !Ended(); ++i) {
        if (sequences_[i].over) continue;
        progress = Step(i) || progress;
        all_over = all_over && sequences_[i].over;
      }
      if (Ended()) {
        for (uint32_t i = 0; i < sequences_.size(); ++i) FinishSequence(i, v1::FINISH_REASON_CANCELLED);
        return absl::OkStatus();
      }
      if (all_over) return absl::OkStatus();
      absl::SleepFor(progress ? script_.interval : absl::Milliseconds(1));
    }
  }

  // One frame or the finish of a sequence. False when it waits for credit.
  bool Step(uint32_t index) {
    Sequence& sequence = sequences_[index];
    const size_t text_end = script_.endless ? SIZE_MAX : sequence.ids.size();
    const size_t breaks = script_.break_after < 0 ? SIZE_MAX : static_cast<size_t>(script_.break_after);
    const size_t end = std::min<size_t>({text_end, start_.max_tokens(), Until(index), breaks});
    if (sequence.sent < end) {
      sequence.waits_since = absl::InfiniteFuture();
      SendTokens(index, std::min(end - sequence.sent, script_.tokens_per_frame));
      return true;
    }
    if (sequence.sent >= text_end) {
      FinishSequence(index, script_.end);
    } else if (sequence.sent >= start_.max_tokens()) {
      FinishSequence(index, v1::FINISH_REASON_LENGTH);
    } else if (sequence.waits_since == absl::InfiniteFuture()) {
      sequence.waits_since = absl::Now();
      return false;
    } else if (absl::Now() - sequence.waits_since > kCreditPatience) {
      FinishSequence(index, v1::FINISH_REASON_CREDIT);
    } else {
      return false;
    }
    return true;
  }

  void SendTokens(uint32_t index, size_t count) {
    Sequence& sequence = sequences_[index];
    v1::GenerateServerMessage message;
    v1::Tokens* tokens = message.mutable_tokens();
    tokens->set_sequence(index);
    tokens->set_first_index(static_cast<uint32_t>(sequence.sent));
    for (size_t i = 0; i < count; ++i) {
      const uint32_t id = sequence.ids[(sequence.sent + i) % sequence.ids.size()];
      tokens->mutable_ids()->append(reinterpret_cast<const char*>(&id), sizeof(id));
      if (!start_.sampling().logprobs()) continue;
      v1::TokenLogprob* logprob = tokens->add_logprobs();
      logprob->set_token_id(id);
      logprob->set_logprob(-0.5F);
      for (uint32_t k = 0; k < start_.sampling().top_logprobs(); ++k) {
        v1::TopLogprob* top = logprob->add_top();
        top->set_token_id(id + k);
        top->set_logprob(-0.5F - static_cast<float>(k));
      }
    }
    sequence.sent += count;
    FillCounts(sequence, tokens->mutable_counts());
    Write(message);
  }

  void FinishSequence(uint32_t index, v1::FinishReason reason) {
    Sequence& sequence = sequences_[index];
    if (std::exchange(sequence.over, true)) return;
    v1::GenerateServerMessage message;
    message.mutable_finish()->set_sequence(index);
    message.mutable_finish()->set_reason(reason);
    message.mutable_finish()->set_device_ms(script_.device_ms);
    message.mutable_finish()->set_joules(script_.joules);
    FillCounts(sequence, message.mutable_finish()->mutable_counts());
    Write(message);
  }

  void FillCounts(const Sequence& sequence, v1::Counts* counts) const {
    counts->set_prompt(start_.prompt_ids().size() / 4);
    counts->set_cached(static_cast<uint64_t>(script_.cached_tokens));
    counts->set_generated(sequence.sent);
  }

  void Write(const v1::GenerateServerMessage& message) {
    {
      absl::MutexLock lock(&mu_);
      if (broken_) return;
      written_ = false;
    }
    out_ = message;
    StartWrite(&out_);
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&written_));
  }
  uint32_t Until(uint32_t index) const {
    absl::MutexLock lock(&mu_);
    return untils_[index];
  }
  bool Ended() const {
    absl::MutexLock lock(&mu_);
    return ended_;
  }

  FakeRouter& router_;
  v1::GenerateClientMessage in_;
  v1::GenerateServerMessage out_;
  FakeScript script_;                // the playing thread's
  std::vector<Sequence> sequences_;  // the playing thread's
  v1::GenerateStart start_;          // constant once started_
  mutable absl::Mutex mu_;
  std::vector<uint32_t> untils_ ABSL_GUARDED_BY(mu_);
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // cancelled by message or broken
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
  bool written_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the rest
};

class FakeRouter::Service final : public v1::Inference::CallbackService {
 public:
  explicit Service(FakeRouter* router) : router_(*router) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    {
      absl::MutexLock lock(&router_.mu_);
      if (!router_.away_) *response->add_models() = router_.card_;
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::BlobChunk>* GetBlob(grpc::CallbackServerContext*,
                                                   const v1::GetBlobRequest* request) override {
    struct Writer final : grpc::ServerWriteReactor<v1::BlobChunk> {
      void OnWriteDone(bool) override { Finish(grpc::Status::OK); }
      void OnDone() override { delete this; }
      v1::BlobChunk chunk;
    };
    auto* writer = new Writer;
    for (const std::string* blob : {&router_.tokenizer_json_, &router_.template_source_}) {
      if (Sha256(*blob) != request->sha256()) continue;
      writer->chunk.set_data(*blob);
      writer->StartWrite(&writer->chunk);
      return writer;
    }
    writer->Finish({grpc::StatusCode::NOT_FOUND, "no such blob"});
    return writer;
  }

  grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage>* Generate(
      grpc::CallbackServerContext*) override {
    auto call = std::make_unique<Call>(&router_);
    auto* raw = call.get();
    absl::MutexLock lock(&router_.mu_);
    router_.calls_.push_back(std::move(call));
    return raw;
  }

 private:
  FakeRouter& router_;
};

FakeRouter::FakeRouter(const TestIdentities& identities)
    : identities_(identities), service_(std::make_unique<Service>(this)) {
  const auto json = engine::ReadSmallFile(absl::StrCat(kModelDir, "/tokenizer.json"), 1 << 24);
  const auto source = engine::text::ReadChatTemplateSource(kModelDir);
  GANTRY_CHECK(json.ok() && source.ok(), "the demo model is there");
  tokenizer_json_ = *json;
  template_source_ = *source;
  auto tokenizer = engine::text::Tokenizer::FromJson(tokenizer_json_, "tokenizer.json");
  GANTRY_CHECK(tokenizer.ok(), "the demo model's tokenizer loads");
  tokenizer_ = *std::move(tokenizer);
  card_.set_name("demo");
  card_.set_card_hash(std::string(32, 'c'));
  card_.set_tokenizer_sha256(Sha256(tokenizer_json_));
  card_.set_template_sha256(Sha256(template_source_));
  card_.add_stop_ids(static_cast<uint32_t>(*tokenizer_->Find("<|im_end|>")));
  card_.add_stop_ids(static_cast<uint32_t>(*tokenizer_->Find("<|endoftext|>")));
  card_.set_context_tokens(4096);
  card_.set_vocab_rows(static_cast<uint32_t>(tokenizer_->size()));
  card_.set_created_us(1'700'000'000'000'000);
  Return();
}

FakeRouter::~FakeRouter() {
  Leave();
  std::vector<std::unique_ptr<Call>> calls;  // joined without the lock
  {
    absl::MutexLock lock(&mu_);
    calls.swap(calls_);
  }
}

void FakeRouter::Leave() {
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  server_.reset();
}

void FakeRouter::Return() {
  absl::StatusOr<std::unique_ptr<RpcServer>> server =
      RpcServer::Start(identities_.ServerOptions("router"), {service_.get()});
  GANTRY_CHECK(server.ok(), "the fake router listens");
  server_ = *std::move(server);
}

void FakeRouter::Play(FakeScript script) {
  absl::MutexLock lock(&mu_);
  script_ = std::move(script);
}

void FakeRouter::set_model_away(bool away) {
  absl::MutexLock lock(&mu_);
  away_ = away;
}

void FakeRouter::Begin(const v1::GenerateStart& start, FakeScript* script) {
  absl::MutexLock lock(&mu_);
  *script = script_;
  if (away_) script->refusal = absl::UnavailableError("no worker serves it at the moment");
  last_start_ = start;
  ++running_;
}

void FakeRouter::End() {
  absl::MutexLock lock(&mu_);
  --running_;
}

void FakeRouter::Record(std::string event) {
  absl::MutexLock lock(&mu_);
  events_.push_back(std::move(event));
}

std::vector<std::string> FakeRouter::events() const {
  absl::MutexLock lock(&mu_);
  return events_;
}

bool FakeRouter::WaitForEvent(const std::string& beginning) const {
  absl::MutexLock lock(&mu_);
  const auto seen = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return std::any_of(events_.begin(), events_.end(),
                       [&](const std::string& event) { return absl::StartsWith(event, beginning); });
  };
  return mu_.AwaitWithTimeout(absl::Condition(&seen), absl::Seconds(5));
}

int FakeRouter::running() const {
  absl::MutexLock lock(&mu_);
  return running_;
}

v1::GenerateStart FakeRouter::last_start() const {
  absl::MutexLock lock(&mu_);
  return last_start_;
}

}  // namespace gantry::gateway
