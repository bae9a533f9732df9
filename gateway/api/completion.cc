#include "gateway/api/completion.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "gateway/api/client_address.h"
#include "gateway/api/generate_start.h"
#include "gateway/api/generation.h"
#include "gateway/api/openai_request.h"
#include "gateway/api/prompt.h"
#include "gateway/api/refusal.h"
#include "gateway/api/render.h"
#include "services/common/ids.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;
using MaybeError = std::optional<ApiError>;

// A body of at least this size leaves the connection's thread: about 10 ms of tokenising.
constexpr size_t kHeavyBodyBytes = 64 << 10;
// Admission asks billing for credit so often before it gives up: others may have drawn what came.
constexpr int kCreditAttempts = 3;
// The same for permits of a key's windows.
constexpr int kPermitAttempts = 8;
// nginx's code for a client that left: only in metrics, nobody reads it.
constexpr int kClientLeft = 499;

absl::Duration Since(Clock::time_point then) {
  return absl::FromChrono(Clock::now() - then);
}

asio::awaitable<void> Call(std::function<void()> work) {
  work();
  co_return;
}

// A result that another thread brings to a coroutine.
template <typename T>
class Promise {
 public:
  explicit Promise(Wakeup* wakeup) : handle_(wakeup->handle()) {}
  void Set(T value) {
    {
      absl::MutexLock lock(&mu_);
      value_ = std::move(value);
    }
    handle_.Notify();
  }
  std::optional<T> Get() const {
    absl::MutexLock lock(&mu_);
    return value_;
  }

 private:
  const Wakeup::Handle handle_;
  mutable absl::Mutex mu_;
  std::optional<T> value_ ABSL_GUARDED_BY(mu_);
};

class Completion {
 public:
  Completion(ApiContext* context, HttpRequest request, HttpExchange& exchange, std::shared_ptr<const KeyInfo> key,
             bool chat)
      : context_(context),
        http_(std::move(request)),
        exchange_(exchange),
        key_(std::move(key)),
        wakeup_(exchange.executor()),
        running_(&context->running, &wakeup_) {
    request_.chat = chat;
  }

  asio::awaitable<void> Run() {
    exchange_.WatchClient(&wakeup_);
    MaybeError error = co_await Prepare();
    if (!error.has_value()) error = co_await Begin();
    if (error.has_value()) {
      co_await SendError(*error);
    } else {
      context_->metrics->StreamStarted();
      co_await Serve();
      context_->metrics->StreamEnded();
    }
  }

 private:
  // ---- before anything costs ----

  // Off the connection's thread when it will take a while.
  asio::awaitable<void> Compute(std::function<void()> work) {
    if (http_.body.size() < kHeavyBodyBytes || !context_->heavy_work) {
      work();
      co_return;
    }
    co_await asio::co_spawn(context_->heavy_work, Call(std::move(work)), asio::use_awaitable);
  }

  asio::awaitable<MaybeError> Prepare() {
    MaybeError error;
    co_await Compute([&] {
      auto parsed = request_.chat ? ParseChatRequest(http_.body) : ParseCompletionsRequest(http_.body);
      if (auto* wrong = std::get_if<ApiError>(&parsed)) {
        error = std::move(*wrong);
      } else {
        request_ = std::get<CompletionRequest>(std::move(parsed));
      }
    });
    if (error.has_value()) co_return error;
    co_await FindModel();
    if (model_ == nullptr || !key_->MayUseModel(request_.model)) co_return ModelNotFound(request_.model);
    model_name_ = model_->card.name();
    co_await Compute([&] {
      auto built = BuildPrompts(request_, *model_);
      if (auto* wrong = std::get_if<ApiError>(&built)) {
        error = std::move(*wrong);
      } else {
        prompts_ = std::get<Prompts>(std::move(built));
        DigestPrompts();
      }
      std::string().swap(http_.body);
    });
    co_return error;
  }

  // For the receipts (R12). All prompts of a request share the nonce that its reply's header names.
  void DigestPrompts() {
    receipt_nonce_.resize(kReceiptNonceBytes);
    FillRandom(receipt_nonce_.data(), receipt_nonce_.size());
    for (const Prompt& prompt : prompts_.prompts) {
      TokenDigest digest(receipt_nonce_);
      digest.Add(prompt.ids);
      prompt_digests_.push_back(digest.Finish());
    }
  }

  // The model may have come up a moment ago: the router is asked before it is called unknown.
  asio::awaitable<void> FindModel() {
    model_ = context_->models->Find(request_.model);
    if (model_ != nullptr) co_return;
    auto refreshed = std::make_shared<Promise<bool>>(&wakeup_);
    context_->models->Refresh([refreshed] { refreshed->Set(true); });
    const auto until = Clock::now() + absl::ToChronoNanoseconds(context_->options.model_timeout);
    while (!refreshed->Get().has_value() && Clock::now() < until) co_await wakeup_.Wait(until);
    model_ = context_->models->Find(request_.model);
  }

  // ---- admission: after this the request is on the books ----

  asio::awaitable<MaybeError> Begin() {
    for (size_t i = 0; i < prompts_.prompts.size(); ++i) {
      const Prompt& prompt = prompts_.prompts[i];
      StartIds ids;
      // The id in the reply's header is the id of the request's usage.
      auto request_id = Id16::FromHex(absl::StripPrefix(http_.id, "req_"));
      ids.request = i == 0 && request_id.ok() ? *request_id : NewTimeOrderedId();
      std::unique_ptr<Permit> permit;
      MaybeError error = co_await Admit(prompt, ids.request, /*first=*/i == 0, &permit);
      if (error.has_value()) co_return error;
      const CreditBook::Hold& hold = permit->hold();
      ids.hold = hold.reserved() ? hold.credit() : NewTimeOrderedId();
      ids.tenant = permit->key().party;
      v1::UsageRecord opening;
      opening.set_request_id(ids.request.ToBytes());
      opening.set_party_id(ids.tenant.ToBytes());
      opening.set_key_id(permit->key().key_id.ToBytes());
      opening.set_hold_id(ids.hold.ToBytes());
      if (!hold.reserved()) opening.set_slice_id(hold.credit().ToBytes());
      opening.set_model(model_name_);
      opening.set_plan_version_id(permit->prices().plan_version.ToBytes());
      opening.set_held_micro(hold.held_micro());
      opening.set_prompt_digest(prompt_digests_[i]);
      absl::StatusOr<std::unique_ptr<UsageJournal::Entry>> entry = context_->journal->Begin(std::move(opening));
      if (!entry.ok()) {
        Log(LogLevel::kError, "a request is refused: usage cannot be written", {{"error", entry.status().message()}});
        context_->metrics->Refused("spool");
        co_return Unavailable("Usage cannot be recorded at the moment.", "service_unavailable", 2000);
      }
      Generation::Options options{.model = model_,
                                  .prompt_tokens = prompt.ids.size(),
                                  .max_tokens = prompt.max_tokens,
                                  .choices = static_cast<size_t>(request_.n),
                                  .decoder = DecoderOptions(request_, *model_, prompts_),
                                  .whole = !request_.stream,
                                  .receipt_nonce = receipt_nonce_,
                                  .prompt_digest = prompt_digests_[i]};
      generations_.push_back(std::make_unique<Generation>(std::move(options), std::move(permit), *std::move(entry)));
      ids_.push_back(ids);
    }
    // All prompts are admitted, or none is run.
    uint64_t seed = 0;
    if (request_.seed.has_value()) {
      seed = *request_.seed;
    } else {
      FillRandom(&seed, sizeof(seed));
    }
    const absl::Duration left = context_->options.request_deadline - Since(http_.received);
    for (size_t i = 0; i < generations_.size(); ++i) {
      generations_[i]->Start(context_->generate,
                             MakeGenerateStart(request_, *model_, prompts_.prompts[i], ids_[i], seed, left),
                             [handle = wakeup_.handle()] { handle.Notify(); });
    }
    const size_t choices = generations_.size() * static_cast<size_t>(request_.n);
    deltas_.resize(choices);
    std::vector<absl::Span<const uint32_t>> prompt_ids;
    if (request_.return_token_ids) {
      for (const Prompt& prompt : prompts_.prompts) prompt_ids.emplace_back(prompt.ids);
    }
    renderer_.emplace(
        Renderer::Options{.chat = request_.chat,
                          .id = absl::StrCat(request_.chat ? "chatcmpl-" : "cmpl-", ids_[0].request.ToHex()),
                          .model = model_name_,
                          .created = absl::ToUnixSeconds(absl::Now()),
                          .include_usage = request_.include_usage,
                          .logprobs = request_.logprobs,
                          .top_logprobs = request_.top_logprobs > 0,
                          .choices = choices,
                          .prompt_ids = std::move(prompt_ids)});
    co_return std::nullopt;
  }

  asio::awaitable<MaybeError> Admit(const Prompt& prompt, const Id16& request_id, bool first,
                                    std::unique_ptr<Permit>* permit) {
    const AdmissionRequest request{.key = key_,
                                   .model = model_name_,
                                   .address = ClientAddress(http_, context_->options.trusted_proxies),
                                   .prompt_tokens = prompt.ids.size(),
                                   .max_tokens = prompt.max_tokens,
                                   .choices = static_cast<uint32_t>(request_.n),
                                   .counts_as_request = first};
    Refusal refusal{RefusalReason::kBillingAway, "", absl::ZeroDuration(), {}};
    std::unique_ptr<CreditBook::Hold> reserved;
    int permit_attempts = 0;
    for (int attempt = 0; attempt <= kCreditAttempts;) {
      auto decision = context_->admission->Admit(request, std::move(reserved));
      if (auto* admitted = std::get_if<std::unique_ptr<Permit>>(&decision)) {
        *permit = std::move(*admitted);
        co_return std::nullopt;
      }
      if (auto* refused = std::get_if<Refusal>(&decision)) {
        refusal = std::move(*refused);
        break;
      }
      if (auto* permits = std::get_if<NeedsPermits>(&decision)) {
        std::optional<Refusal> refused_by_limit = co_await Lease(std::move(*permits));
        if (exchange_.client_gone()) co_return Unavailable("The client left.", "client_gone");
        if (!refused_by_limit.has_value() && ++permit_attempts < kPermitAttempts) continue;
        refusal = refused_by_limit.value_or(
            Refusal{RefusalReason::kBillingAway, "The limits of this key are contended.", absl::Seconds(1), {}});
        break;
      }
      ++attempt;
      absl::StatusOr<std::unique_ptr<CreditBook::Hold>> credit =
          co_await Obtain(std::get<NeedsCredit>(decision), request_id);
      if (exchange_.client_gone()) co_return Unavailable("The client left.", "client_gone");
      if (!credit.ok() || attempt > kCreditAttempts) {
        refusal =
            Admission::CreditRefusal(credit.ok() ? absl::UnavailableError("credit is contended") : credit.status());
        break;
      }
      reserved = *std::move(credit);
    }
    context_->metrics->Refused(RefusalName(refusal.reason));
    co_return RefusalError(refusal, model_name_);
  }

  // Waits for an answer of billing, no longer than credit_timeout, nor for a client that has left.
  template <typename T>
  asio::awaitable<std::optional<T>> Await(std::shared_ptr<Promise<T>> promise) {
    const auto until = Clock::now() + absl::ToChronoNanoseconds(context_->options.credit_timeout);
    std::optional<T> answer = promise->Get();
    while (!answer.has_value() && Clock::now() < until && !exchange_.client_gone()) {
      co_await wakeup_.Wait(until);
      answer = promise->Get();
    }
    co_return answer;
  }

  // A hold that comes too late is given back.
  asio::awaitable<absl::StatusOr<std::unique_ptr<CreditBook::Hold>>> Obtain(NeedsCredit need, Id16 request_id) {
    using Credit = std::shared_ptr<absl::StatusOr<std::unique_ptr<CreditBook::Hold>>>;
    auto promise = std::make_shared<Promise<Credit>>(&wakeup_);
    context_->admission->book().Obtain(
        need, request_id, [promise](absl::StatusOr<std::unique_ptr<CreditBook::Hold>> credit) {
          promise->Set(std::make_shared<absl::StatusOr<std::unique_ptr<CreditBook::Hold>>>(std::move(credit)));
        });
    std::optional<Credit> credit = co_await Await(std::move(promise));
    if (!credit.has_value()) co_return absl::DeadlineExceededError("billing did not answer");
    co_return std::move(**credit);
  }

  // Nothing: decide again.
  asio::awaitable<std::optional<Refusal>> Lease(NeedsPermits needs) {
    using Answer = std::optional<Refusal>;
    auto promise = std::make_shared<Promise<Answer>>(&wakeup_);
    context_->admission->Lease(needs, [promise](Answer refusal) { promise->Set(std::move(refusal)); });
    std::optional<Answer> answer = co_await Await(std::move(promise));
    if (answer.has_value()) co_return *std::move(answer);
    co_return Refusal{
        RefusalReason::kBillingAway, "The limits of this key cannot be checked now.", absl::Seconds(2), {}};
  }

  // ---- the reply ----

  asio::awaitable<void> Serve() {
    auto silent_until = NextKeepAlive();
    for (;;) {
      bool any = false;
      for (size_t i = 0; i < generations_.size(); ++i) any = PumpOne(i) || any;
      if (exchange_.client_gone()) {
        Abort(v1::CANCEL_REASON_CLIENT_GONE);
        context_->metrics->Request(model_name_, kClientLeft);
        co_return;
      }
      bool ok = true;
      if (request_.stream) {
        std::string events = TakeEvents();
        const bool text = !events.empty();
        if (!text && Clock::now() >= silent_until) events = ": keep-alive\n\n";
        if (!events.empty()) {
          ok = co_await WriteEvents(std::move(events), text);
          silent_until = NextKeepAlive();
        }
      }
      // A reply that is not streamed has nothing to keep alive; the wait below needs a time that is not over.
      if (Clock::now() >= silent_until) silent_until = NextKeepAlive();
      if (!ok) {
        Abort(exchange_.client_stalled() ? v1::CANCEL_REASON_SLOW_READER : v1::CANCEL_REASON_CLIENT_GONE);
        context_->metrics->Request(model_name_, kClientLeft);
        co_return;
      }
      MaybeError error;
      v1::CancelReason reason = Trouble(&error);
      if (error.has_value()) {
        Abort(reason);
        co_await SendError(*error);
        co_return;
      }
      if (std::all_of(generations_.begin(), generations_.end(), [](const auto& g) { return g->ended(); })) break;
      if (!any) co_await wakeup_.Wait(silent_until);
    }
    co_await Complete();
  }

  Clock::time_point NextKeepAlive() const {
    return Clock::now() + absl::ToChronoNanoseconds(context_->options.keep_alive);
  }

  bool PumpOne(size_t index) {
    const size_t n = static_cast<size_t>(request_.n);
    std::vector<ChoiceDelta> fresh(n);
    if (!generations_[index]->Pump(&fresh)) return false;
    for (size_t i = 0; i < n; ++i) {
      if (fresh[i].empty()) continue;
      if (request_.stream) {
        deltas_[index * n + i] = std::move(fresh[i]);
      } else {
        renderer_->Collect(index * n + i, fresh[i]);
      }
    }
    return true;
  }

  // Events of what came since the last call. What they hold is staged.
  std::string TakeEvents() {
    const size_t n = static_cast<size_t>(request_.n);
    std::string events;
    for (size_t choice = 0; choice < deltas_.size(); ++choice) {
      if (deltas_[choice].empty()) continue;
      events += renderer_->Delta(choice, deltas_[choice]);
      deltas_[choice] = {};
      generations_[choice / n]->Stage(choice % n);
    }
    return events;
  }

  // Why the request cannot go on, if so.
  v1::CancelReason Trouble(MaybeError* error) const {
    for (const auto& generation : generations_) {
      if (generation->revoked()) {
        *error = InvalidApiKey("The API key has been revoked or the account suspended; the request was ended.");
        return v1::CANCEL_REASON_REVOKED;
      }
      if (generation->error().has_value()) {
        *error = generation->error();
        return v1::CANCEL_REASON_INTERNAL;
      }
    }
    if (context_->ending.load()) {
      *error = Unavailable("The gateway is stopping.", "service_unavailable");
      return v1::CANCEL_REASON_SHUTDOWN;
    }
    return v1::CANCEL_REASON_UNSPECIFIED;
  }

  // Ends all that still runs; what was delivered is billed.
  void Abort(v1::CancelReason reason) {
    for (auto& generation : generations_) {
      generation->Cancel(reason);
      generation->Close(Generation::Ending::kAborted, [](const absl::Status&) {});
    }
    CountTokens();
  }

  // All choices have ended: the record first, then the end of the reply (R3).
  asio::awaitable<void> Complete() {
    struct Left {
      std::atomic<size_t> records;
      absl::Mutex mu;
      absl::Status status ABSL_GUARDED_BY(mu);
    };
    const Usage usage = TotalUsage();
    auto left = std::make_shared<Left>();
    left->records = generations_.size();
    auto durable = std::make_shared<Promise<absl::Status>>(&wakeup_);
    for (auto& generation : generations_) {
      generation->Close(Generation::Ending::kComplete, [left, durable](const absl::Status& status) {
        absl::Status all;
        {
          absl::MutexLock lock(&left->mu);
          left->status.Update(status);
          all = left->status;
        }
        if (left->records.fetch_sub(1) == 1) durable->Set(all);
      });
    }
    std::optional<absl::Status> status = durable->Get();
    while (!status.has_value() && !context_->ending.load()) {
      co_await wakeup_.Wait(Clock::now() + std::chrono::seconds(1));
      status = durable->Get();
    }
    if (!status.has_value() || !status->ok()) {
      ApiError error = ServerError("The usage of this request could not be recorded.");
      co_await SendError(error);
      co_return;
    }
    CountTokens();
    const size_t n = static_cast<size_t>(request_.n);
    if (request_.stream) {
      std::string events;
      for (size_t choice = 0; choice < deltas_.size(); ++choice) {
        events += renderer_->FinishEvent(choice, generations_[choice / n]->finish_reason(choice % n));
      }
      if (request_.include_usage) events += renderer_->UsageEvent(usage);
      events += Renderer::Done();
      bool ok = co_await WriteEvents(std::move(events), /*text=*/false);
      if (ok) ok = co_await exchange_.FinishStream();
      context_->metrics->Request(model_name_, ok ? 200 : kClientLeft);
      co_return;
    }
    for (size_t choice = 0; choice < deltas_.size(); ++choice) {
      renderer_->SetFinish(choice, generations_[choice / n]->finish_reason(choice % n));
    }
    HttpReply reply;
    AddLimitHeaders(generations_[0]->limits(), &reply.headers);
    AddReceiptNonce(&reply.headers);
    reply.body = renderer_->Body(usage);
    context_->metrics->FirstToken(model_name_, Since(http_.received));
    const bool ok = co_await exchange_.Send(std::move(reply));
    context_->metrics->Request(model_name_, ok ? 200 : kClientLeft);
  }

  void CountTokens() {
    for (const auto& generation : generations_) {
      const Usage& billed = generation->billed();
      context_->metrics->Tokens(model_name_, billed.prompt_tokens - billed.cached_tokens, billed.cached_tokens,
                                billed.completion_tokens);
    }
  }

  Usage TotalUsage() const {
    Usage total;
    for (const auto& generation : generations_) {
      const Usage one = generation->usage();
      total.prompt_tokens += one.prompt_tokens;
      total.cached_tokens += one.cached_tokens;
      total.completion_tokens += one.completion_tokens;
      total.reasoning_tokens += one.reasoning_tokens;
    }
    return total;
  }

  // ---- writing ----

  void AddReceiptNonce(HttpHeaders* headers) const {
    headers->emplace_back("gantry-receipt-nonce", absl::BytesToHexString(receipt_nonce_));
  }

  asio::awaitable<bool> WriteEvents(std::string events, bool text) {
    if (!stream_open_) {
      stream_open_ = true;
      HttpReply head;
      head.content_type = "text/event-stream; charset=utf-8";
      head.headers = {{"cache-control", "no-cache"}, {"x-accel-buffering", "no"}};
      AddLimitHeaders(generations_[0]->limits(), &head.headers);
      AddReceiptNonce(&head.headers);
      exchange_.StartStream(std::move(head));
    }
    const bool ok = co_await exchange_.Write(events);
    if (!ok || !text) co_return ok;
    for (auto& generation : generations_) generation->Delivered();
    const auto now = Clock::now();
    if (last_text_.has_value()) {
      context_->metrics->BetweenTokens(absl::FromChrono(now - *last_text_));
    } else {
      context_->metrics->FirstToken(model_name_, absl::FromChrono(now - http_.received));
    }
    last_text_ = now;
    co_return true;
  }

  // As the status of the reply, or as an event when the reply has begun.
  asio::awaitable<void> SendError(ApiError error) {
    context_->metrics->Request(model_name_, error.status);
    if (!stream_open_) {
      HttpReply reply = ErrorReply(error);
      co_await exchange_.Send(std::move(reply));
      co_return;
    }
    std::string event = Renderer::ErrorEvent(error);
    const bool ok = co_await exchange_.Write(event);
    if (ok) co_await exchange_.FinishStream();
  }

  ApiContext* const context_;
  HttpRequest http_;
  HttpExchange& exchange_;
  const std::shared_ptr<const KeyInfo> key_;
  Wakeup wakeup_;
  const RunningRequests::Entry running_;
  CompletionRequest request_;
  std::string model_name_;  // empty until it is known: metrics hold no names from outside
  std::shared_ptr<const Model> model_;
  Prompts prompts_;
  std::string receipt_nonce_;  // 32 bytes, for this tenant's eyes
  std::vector<std::string> prompt_digests_;
  std::vector<StartIds> ids_;                             // by prompt
  std::vector<std::unique_ptr<Generation>> generations_;  // by prompt
  std::vector<ChoiceDelta> deltas_;                       // by choice: prompt * n + sequence
  std::optional<Renderer> renderer_;
  bool stream_open_ = false;
  std::optional<Clock::time_point> last_text_;
};

}  // namespace

asio::awaitable<void> RunCompletion(ApiContext* context, HttpRequest request, HttpExchange& exchange,
                                    std::shared_ptr<const KeyInfo> key, bool chat) {
  Completion completion(context, std::move(request), exchange, std::move(key), chat);
  co_await completion.Run();
}

}  // namespace gantry::gateway
