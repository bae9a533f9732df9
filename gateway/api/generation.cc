#include "gateway/api/generation.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"
#include "gateway/api/refusal.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

using Clock = std::chrono::steady_clock;

// Credit is raised this many tokens before it is used up: a second's worth at 128 tokens/s, far above the 250 ms that a
// worker waits (R1).
constexpr uint64_t kRaiseAhead = 128;
// A worker may run this far past the last ack before it counts as an orphan's end (R1: 256).
constexpr uint64_t kAckEvery = 32;

// What is on its way to a tenant who reads: a few frames.
constexpr size_t kIdsOnTheWay = 64;

uint64_t Milliseconds(Clock::duration duration) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

}  // namespace

Generation::Generation(Options options, std::unique_ptr<Permit> permit, std::unique_ptr<UsageJournal::Entry> entry)
    : options_(std::move(options)),
      limits_(permit->limits()),
      choices_(options_.choices),
      digest_(options_.receipt_nonce),
      permit_(std::move(permit)),
      entry_(std::move(entry)) {
  for (Choice& choice : choices_) {
    choice.decoder = std::make_unique<ChoiceDecoder>(options_.model->tokenizer.get(), options_.decoder);
    // Room for all that is kept, so that no token's way allocates.
    choice.ids.reserve(&choice == &choices_[0] ? kIdsOnTheWay : options_.max_tokens);
  }
}

Generation::~Generation() {
  if (!closed_) Close(Ending::kAborted, [](absl::Status) {});
}

void Generation::Start(GenerateClient* client, v1::GenerateStart start, std::function<void()> wake) {
  // The first hold covers this much of every choice (R7).
  const uint32_t credit = std::min<uint32_t>(options_.max_tokens, kCreditTokens);
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices_[i].until = credit;
    start.mutable_sequences(static_cast<int>(i))->set_until_index(credit);
  }
  if (credit == options_.max_tokens) permit_->hold().Complete();
  permit_->OnRevoked(wake);
  permit_->hold().OnGrown(wake);
  stream_ = client->Start(std::move(start), std::move(wake));
}

// ---- what the worker sends ----

bool Generation::Pump(std::vector<ChoiceDelta>* deltas) {
  if (stream_ == nullptr || closed_) return false;
  bool any = false;
  while (!error_.has_value()) {
    std::optional<v1::GenerateServerMessage> message = stream_->Next();
    if (!message.has_value()) break;
    any = true;
    if (message->has_tokens()) {
      Take(message->tokens(), deltas);
    } else if (message->has_finish()) {
      Take(message->finish(), deltas);
    }
  }
  if (!ended() && !error_.has_value()) {
    if (std::optional<absl::Status> status = stream_->Ended()) {
      any = true;
      TakeEnd(*status);
    }
  }
  RaiseLimits();
  if (options_.whole) Acknowledge();
  // Nothing is missing any more: the worker need not run on after a stop string.
  if (ended() && std::any_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.by_stop_string; })) {
    Cancel(v1::CANCEL_REASON_STOP_STRING);
  }
  return any;
}

void Generation::Take(const v1::Tokens& tokens, std::vector<ChoiceDelta>* deltas) {
  if (tokens.sequence() >= choices_.size() || tokens.ids().size() % 4 != 0) {
    return Fail(ServerError("The model's answer was malformed."));
  }
  Choice& choice = choices_[tokens.sequence()];
  choice.counts = tokens.counts();
  if (tokens.first_index() > choice.received) return Fail(ServerError("A part of the model's answer was lost."));
  if (!first_token_.has_value()) first_token_ = Clock::now();
  const size_t count = tokens.ids().size() / 4;
  // After a resume frames may repeat: what is known is skipped by its index.
  for (size_t i = choice.received - tokens.first_index(); i < count; ++i) {
    ++choice.received;
    if (choice.over) continue;
    uint32_t id = 0;
    std::memcpy(&id, tokens.ids().data() + 4 * i, sizeof(id));
    TokenLogprobs logprobs;
    const bool has_logprobs = static_cast<int>(i) < tokens.logprobs_size();
    if (has_logprobs) {
      const engine::text::Tokenizer& tokenizer = *options_.model->tokenizer;
      const v1::TokenLogprob& row = tokens.logprobs(static_cast<int>(i));
      logprobs.bytes = std::string(tokenizer.TokenBytes(static_cast<engine::TokenId>(row.token_id())));
      logprobs.logprob = row.logprob();
      for (const v1::TopLogprob& top : row.top()) {
        logprobs.top.push_back({std::string(tokenizer.TokenBytes(static_cast<engine::TokenId>(top.token_id()))),
                                static_cast<double>(top.logprob())});
      }
    }
    choice.ids.push_back(id);
    choice.decoder->Push(id, has_logprobs ? &logprobs : nullptr, &(*deltas)[tokens.sequence()]);
    if (choice.decoder->stopped()) {
      choice.over = choice.by_stop_string = true;
      choice.finish_reason = "stop";
      choice.reason = v1::FINISH_REASON_STOP;
    }
  }
  // A reply that goes out whole or not at all need not be remembered id by id.
  if (options_.whole && tokens.sequence() == 0) Digest(choice.decoder->tokens());
}

void Generation::Take(const v1::Finish& finish, std::vector<ChoiceDelta>* deltas) {
  if (finish.sequence() >= choices_.size()) return Fail(ServerError("The model's answer was malformed."));
  Choice& choice = choices_[finish.sequence()];
  choice.counts = finish.counts();
  choice.device_ms = finish.device_ms();
  choice.joules = finish.joules();
  if (choice.over) return;
  choice.reason = finish.reason();
  switch (finish.reason()) {
    case v1::FINISH_REASON_STOP:
      choice.finish_reason = "stop";
      break;
    case v1::FINISH_REASON_LENGTH:
    case v1::FINISH_REASON_CREDIT:
      choice.finish_reason = "length";
      break;
    case v1::FINISH_REASON_DEADLINE:
      return Fail(RouterError(absl::DeadlineExceededError(finish.message()), options_.model->card.name()));
    case v1::FINISH_REASON_CANCELLED:
      return Fail(RouterError(absl::UnavailableError("cancelled by the worker"), options_.model->card.name()));
    default:
      Log(LogLevel::kError, "a worker failed on a request", {{"error", finish.message()}});
      return Fail(RouterError(absl::InternalError(finish.message()), options_.model->card.name()));
  }
  if (finish.counts().generated() != choice.received) {
    return Fail(ServerError("A part of the model's answer was lost."));
  }
  choice.over = true;
  choice.decoder->Flush(&(*deltas)[finish.sequence()]);
  // A stop string may be completed by what the decoder had held back.
  if (choice.decoder->stopped()) choice.finish_reason = "stop";
  if (choice.decoder->tool_calls() > 0 && choice.finish_reason == "stop") choice.finish_reason = "tool_calls";
}

void Generation::TakeEnd(const absl::Status& status) {
  const bool known = status.ok() || absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
                     absl::IsNotFound(status) || absl::IsDeadlineExceeded(status);
  Log(known ? LogLevel::kWarning : LogLevel::kError, "a stream to the router broke",
      {{"model", options_.model->card.name()}, {"error", status.ok() ? "no finish came" : status.message()}});
  Fail(RouterError(status.ok() ? absl::UnavailableError("no finish came") : status, options_.model->card.name()));
}

void Generation::Fail(ApiError error) {
  if (!error_.has_value()) error_ = std::move(error);
}

bool Generation::ended() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) { return choice.over; });
}

// ---- credit and acknowledgement ----

void Generation::RaiseLimits() {
  if (error_.has_value() || cancelled_) return;
  bool complete = true;
  bool raised = false;
  const bool last_call = permit_->hold().LastCall();
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    if (choice.over || choice.until >= options_.max_tokens) continue;
    const uint32_t rest = options_.max_tokens - choice.until;
    uint32_t add = 0;
    if (last_call && permit_->ExtendOutput(rest)) {
      add = rest;
    } else if (choice.received + kRaiseAhead >= choice.until) {
      // Without credit the worker ends the choice at its limit, reason `credit`. It is asked for again with every
      // frame: other requests give back what they did not use.
      const uint32_t next = std::min<uint32_t>(kCreditTokens, rest);
      if (permit_->ExtendOutput(next)) add = next;
    }
    if (add > 0) {
      choice.until += add;
      raised = true;
      v1::GenerateClientMessage message;
      message.mutable_raise_limit()->set_sequence(static_cast<uint32_t>(i));
      message.mutable_raise_limit()->set_until_index(choice.until);
      stream_->Send(std::move(message));
    }
    complete = complete && choice.until >= options_.max_tokens;
  }
  if (raised && complete) permit_->hold().Complete();
}

void Generation::Acknowledge() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    const uint64_t reached = options_.whole ? choice.received : choice.delivered;
    if (choice.over || reached < choice.acked + kAckEvery) continue;
    choice.acked = reached;
    v1::GenerateClientMessage message;
    message.mutable_ack()->set_sequence(static_cast<uint32_t>(i));
    message.mutable_ack()->set_next_index(static_cast<uint32_t>(reached));
    stream_->Send(std::move(message));
  }
}

void Generation::Stage(size_t choice) {
  choices_[choice].staged = choices_[choice].decoder->complete();
}

void Generation::Delivered() {
  for (Choice& choice : choices_) choice.delivered = choice.staged;
  if (closed_) return;
  Digest(choices_[0].delivered);
  Acknowledge();
  entry_->Progress(options_.prompt_tokens, std::min(options_.prompt_tokens, choices_[0].counts.cached()),
                   DeliveredTokens());
}

uint64_t Generation::DeliveredTokens() const {
  uint64_t total = 0;
  for (const Choice& choice : choices_) total += choice.delivered;
  return total;
}

// ---- the end ----

void Generation::Digest(uint64_t upto) {
  if (upto <= digested_) return;
  std::vector<uint32_t>& ids = choices_[0].ids;
  const size_t count = std::min<size_t>(upto - digested_, ids.size());
  digest_.Add({ids.data(), count});
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count));
  digested_ += count;
}

std::string Generation::OutputDigest(bool complete) {
  Digest(complete ? choices_[0].decoder->tokens() : choices_[0].delivered);
  for (size_t i = 1; i < choices_.size(); ++i) {
    const uint64_t tokens = complete ? choices_[i].decoder->tokens() : choices_[i].delivered;
    digest_.Add({choices_[i].ids.data(), std::min<size_t>(tokens, choices_[i].ids.size())});
  }
  return digest_.Finish();
}

Usage Generation::usage() const {
  Usage usage;
  usage.prompt_tokens = options_.prompt_tokens;
  usage.cached_tokens = std::min(options_.prompt_tokens, choices_[0].counts.cached());
  for (const Choice& choice : choices_) {
    usage.completion_tokens += choice.decoder->tokens();
    usage.reasoning_tokens += choice.decoder->reasoning_tokens();
  }
  return usage;
}

void Generation::Cancel(v1::CancelReason reason) {
  if (std::exchange(cancelled_, true) || stream_ == nullptr) return;
  v1::GenerateClientMessage message;
  message.mutable_cancel()->set_reason(reason);
  stream_->Send(std::move(message));
}

void Generation::Close(Ending ending, std::function<void(absl::Status)> done) {
  closed_ = true;
  const bool complete = ending == Ending::kComplete;
  v1::UsageRecord record;
  uint64_t output = 0;
  uint64_t reasoning = 0;
  bool stop_string = false;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    const uint64_t tokens = complete ? choice.decoder->tokens() : choice.delivered;
    output += tokens;
    reasoning += std::min(tokens, choice.decoder->reasoning_tokens());
    stop_string = stop_string || choice.by_stop_string;
    v1::SequenceUsage* sequence = record.add_sequences();
    sequence->set_sequence(static_cast<uint32_t>(i));
    sequence->set_attempts(tokens > 0 ? 1 : 0);  // that delivered something
    sequence->set_output_tokens(tokens);
    sequence->set_finish_reason(choice.reason == v1::FINISH_REASON_UNSPECIFIED ? v1::FINISH_REASON_CANCELLED
                                                                               : choice.reason);
    record.set_drafted_tokens(record.drafted_tokens() + choice.counts.drafted());
    record.set_accepted_tokens(record.accepted_tokens() + choice.counts.accepted());
    record.set_device_ms(record.device_ms() + choice.device_ms);
    record.set_joules(record.joules() + choice.joules);
  }
  if (complete) {
    record.set_outcome(stop_string ? v1::USAGE_OUTCOME_STOPPED : v1::USAGE_OUTCOME_COMPLETED);
  } else {
    record.set_outcome(output > 0 ? v1::USAGE_OUTCOME_ABORTED : v1::USAGE_OUTCOME_FAILED);
  }
  const auto now = Clock::now();
  record.set_duration_ms(Milliseconds(now - started_));
  if (first_token_.has_value()) record.set_first_token_ms(Milliseconds(*first_token_ - started_));
  record.set_held_micro(permit_->hold().held_micro());
  if (output > 0) {
    const uint64_t cached = std::min(options_.prompt_tokens, choices_[0].counts.cached());
    billed_ = {options_.prompt_tokens, cached, output, reasoning};
    record.set_prompt_tokens(options_.prompt_tokens);
    record.set_cached_tokens(cached);
    record.set_output_tokens(output);
    record.set_reasoning_tokens(reasoning);
    record.set_prompt_digest(options_.prompt_digest);
    record.set_output_digest(OutputDigest(complete));
    permit_->Settle(options_.prompt_tokens, cached, output);
  } else {
    // Nothing reached the tenant: nothing is billed, the prompt neither.
    permit_->SettleFailed();
  }
  // The hold is settled before the record is on its way, so that the book expects its ack; the permit goes now, so that
  // a client that has read the end finds its place free.
  permit_.reset();
  entry_->Finish(std::move(record), std::move(done));
  entry_.reset();
}

}  // namespace gantry::gateway
