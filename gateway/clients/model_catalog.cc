#include "gateway/clients/model_catalog.h"

#include <grpcpp/grpcpp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::seconds(2);
// While nothing is known: the stack is starting, and somebody waits for it.
constexpr auto kFirstPollInterval = std::chrono::milliseconds(50);
constexpr auto kRefreshInterval = std::chrono::milliseconds(200);
constexpr auto kCallTimeout = std::chrono::seconds(5);
constexpr auto kBlobTimeout = std::chrono::seconds(30);
constexpr size_t kBlobBytesMax = 256 << 20;
constexpr size_t kModelsMax = 256;

class RouterCatalog final : public ModelCatalog {
 public:
  RouterCatalog(const std::shared_ptr<grpc::Channel>& router, std::function<void()> on_change)
      : stub_(v1::Inference::NewStub(router)), on_change_(std::move(on_change)), thread_([this] { Loop(); }) {}
  ~RouterCatalog() override {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    for (auto& done : waiting_) done();
  }

  std::shared_ptr<const Model> Find(const std::string& name) const override {
    std::lock_guard lock(mu_);
    auto it = models_.find(name);
    return it == models_.end() ? nullptr : it->second;
  }
  std::vector<std::shared_ptr<const Model>> List() const override {
    std::lock_guard lock(mu_);
    std::vector<std::shared_ptr<const Model>> list;
    for (const auto& [name, model] : models_) list.push_back(model);
    return list;
  }
  void Refresh(std::function<void()> done) override {
    {
      std::lock_guard lock(mu_);
      if (!stopping_ && Clock::now() >= polled_at_ + kRefreshInterval) {
        waiting_.push_back(std::move(done));
        done = nullptr;
      }
    }
    if (done) {
      done();
    } else {
      wake_.notify_one();
    }
  }

 private:
  void Loop() {
    for (;;) {
      Poll();
      std::vector<std::function<void()>> waiting;
      {
        std::unique_lock lock(mu_);
        polled_at_ = Clock::now();
        std::swap(waiting, waiting_);
      }
      for (auto& done : waiting) done();
      std::unique_lock lock(mu_);
      wake_.wait_for(lock, models_.empty() ? kFirstPollInterval : kPollInterval,
                     [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
    }
  }

  void Poll() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    v1::ListModelsResponse response;
    grpc::Status status = stub_->ListModels(&context, {}, &response);
    if (!status.ok()) return;  // what was known stays known
    bool changed = false;
    for (const v1::ModelCard& card : response.models()) {
      {
        std::lock_guard lock(mu_);
        auto it = models_.find(card.name());
        if (it != models_.end() && it->second->card.card_hash() == card.card_hash()) continue;
        if (models_.size() >= kModelsMax) continue;
      }
      absl::StatusOr<std::shared_ptr<const Model>> model = Load(card);
      if (!model.ok()) {
        // Said once a card: the next poll comes in 2 s.
        if (failed_.insert(card.card_hash()).second) {
          Log(LogLevel::kError, "a model cannot be used",
              {{"model", card.name()}, {"error", model.status().message()}});
        }
        continue;
      }
      failed_.erase(card.card_hash());
      Log(LogLevel::kInfo, "model is known", {{"model", card.name()}, {"context_tokens", card.context_tokens()}});
      std::lock_guard lock(mu_);
      models_[card.name()] = *std::move(model);
      changed = true;
    }
    if (changed && on_change_) on_change_();
  }

  absl::StatusOr<std::shared_ptr<const Model>> Load(const v1::ModelCard& card) {
    GANTRY_ASSIGN_OR_RETURN(std::string tokenizer, GetBlob(card.tokenizer_sha256()));
    std::string template_source;
    if (!card.template_sha256().empty()) {
      GANTRY_ASSIGN_OR_RETURN(template_source, GetBlob(card.template_sha256()));
    }
    return MakeModel(card, tokenizer, template_source);
  }

  absl::StatusOr<std::string> GetBlob(const std::string& hash) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kBlobTimeout);
    v1::GetBlobRequest request;
    request.set_sha256(hash);
    auto reader = stub_->GetBlob(&context, request);
    std::string data;
    v1::BlobChunk chunk;
    while (reader->Read(&chunk)) {
      data += chunk.data();
      if (data.size() > kBlobBytesMax) {
        context.TryCancel();
        break;
      }
    }
    absl::Status status = FromGrpcStatus(reader->Finish());
    if (!status.ok()) return Annotate(status, absl::StrCat("blob ", absl::BytesToHexString(hash)));
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
    if (hash != absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest))) {
      return absl::DataLossError(absl::StrCat("blob ", absl::BytesToHexString(hash), ": what came has another hash"));
    }
    return data;
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  const std::function<void()> on_change_;
  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::map<std::string, std::shared_ptr<const Model>> models_;  // guarded by mu_
  std::vector<std::function<void()>> waiting_;                  // guarded by mu_
  Clock::time_point polled_at_{};                               // guarded by mu_
  bool stopping_ = false;                                       // guarded by mu_
  std::set<std::string> failed_;                                // the thread's
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> MakeModel(const v1::ModelCard& card, const std::string& tokenizer_json,
                                                       const std::string& template_source) {
  auto model = std::make_shared<Model>();
  model->card = card;
  auto tokenizer = engine::text::Tokenizer::FromJson(tokenizer_json, absl::StrCat(card.name(), "/tokenizer.json"));
  if (!tokenizer.ok()) return tokenizer.status();
  model->tokenizer = *std::move(tokenizer);
  if (!template_source.empty()) {
    auto parsed = engine::text::ChatTemplate::Parse(template_source);
    if (!parsed.ok()) return Annotate(parsed.status(), absl::StrCat(card.name(), "/chat template"));
    model->chat_template = *std::move(parsed);
  }
  if (card.context_tokens() < 2)
    return absl::InvalidArgumentError(absl::StrCat(card.name(), ": context_tokens is ", card.context_tokens()));
  model->bos_token = model->tokenizer->Decode(model->tokenizer->prefix(), /*skip_special=*/false);
  if (card.stop_ids_size() > 0) {
    model->eos_token = std::string(model->tokenizer->TokenBytes(static_cast<engine::TokenId>(card.stop_ids(0))));
  }
  for (int id = 0; id < model->tokenizer->size(); ++id) {
    model->longest_token_bytes = std::max(model->longest_token_bytes, model->tokenizer->TokenBytes(id).size());
  }
  return model;
}

std::unique_ptr<ModelCatalog> MakeModelCatalog(std::shared_ptr<grpc::Channel> router, std::function<void()> on_change) {
  return std::make_unique<RouterCatalog>(router, std::move(on_change));
}

}  // namespace gantry::gateway
