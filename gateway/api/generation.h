// One prompt on its way through the cluster: its permit, its usage entry, its stream to the router and the decoders of
// its choices, kept in step.
//
// Counts, per choice, each at most the next: delivered (the kernel took a later or the same event, R2) <= staged (in
// events that are being written) <= decoded <= received <= until (what the worker may generate, paid for by the hold).
// Nothing is sent to the router beyond what the permit has paid. Not thread-safe: lives on its request's strand.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gantry/v1/billing.pb.h"
#include "gateway/admission/admission.h"
#include "gateway/api/api_error.h"
#include "gateway/api/choice_decoder.h"
#include "gateway/api/render.h"
#include "gateway/clients/generate_client.h"
#include "gateway/clients/model_catalog.h"
#include "gateway/metering/token_digest.h"
#include "gateway/metering/usage_journal.h"

namespace gantry::gateway {

class Generation {
 public:
  struct Options {
    std::shared_ptr<const Model> model;
    uint64_t prompt_tokens = 0;
    uint32_t max_tokens = 0;  // per choice
    size_t choices = 1;
    ChoiceDecoder::Options decoder;
    bool whole = false;         // nothing reaches the tenant before the end
    std::string receipt_nonce;  // 32 bytes; the digests of the request's tokens are salted with it
    std::string prompt_digest;
  };
  Generation(Options options, std::unique_ptr<Permit> permit, std::unique_ptr<UsageJournal::Entry> entry);
  // A request that was not closed is closed as aborted.
  ~Generation();

  // `start` gets the credit of its sequences here. `wake` is called from any thread when Pump has something to do.
  void Start(GenerateClient* client, v1::GenerateStart start, std::function<void()> wake);

  // Takes what has arrived and adds to `deltas` (one per choice); raises limits. False when nothing had come.
  bool Pump(std::vector<ChoiceDelta>* deltas);
  // What Pump has added to `deltas` for this choice goes into an event now.
  void Stage(size_t choice);
  // The events staged so far were taken by the kernel.
  void Delivered();

  // All choices have their finish reason.
  bool ended() const;
  // "stop", "length", "tool_calls"; empty while the choice runs.
  absl::string_view finish_reason(size_t choice) const { return choices_[choice].finish_reason; }
  // Set when the request cannot go on. Sticky.
  const std::optional<ApiError>& error() const { return error_; }
  bool revoked() const { return permit_ != nullptr && permit_->revoked(); }
  const LimitState& limits() const { return limits_; }

  // All tokens of all choices.
  Usage usage() const;
  // What Close has charged.
  const Usage& billed() const { return billed_; }

  void Cancel(v1::CancelReason reason);
  enum class Ending { kComplete, kAborted };
  // Settles the hold and writes the final record: all tokens for kComplete, the delivered ones for kAborted. `done` is
  // called, from any thread, when it is durable. Call once; REQUIRES: ended() for kComplete.
  void Close(Ending ending, std::function<void(absl::Status)> done);

 private:
  struct Choice {
    std::unique_ptr<ChoiceDecoder> decoder;
    uint32_t until = 0;
    uint64_t received = 0;
    uint64_t staged = 0;
    uint64_t delivered = 0;
    uint64_t acked = 0;
    // Ids that were decoded and are not in the digest yet: those on their way to the tenant, and all of every choice
    // but the first, whose ids come after it.
    std::vector<uint32_t> ids;
    bool over = false;  // has its finish reason
    bool by_stop_string = false;
    std::string finish_reason;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    v1::Counts counts;
    double device_ms = 0;
    double joules = 0;
  };
  void Take(const v1::Tokens& tokens, std::vector<ChoiceDelta>* deltas);
  void Take(const v1::Finish& finish, std::vector<ChoiceDelta>* deltas);
  void TakeEnd(const absl::Status& status);
  void RaiseLimits();
  void Acknowledge();
  // Moves the first choice's ids into the digest, up to the `upto`-th.
  void Digest(uint64_t upto);
  std::string OutputDigest(bool complete);
  void Fail(ApiError error);
  uint64_t DeliveredTokens() const;

  const Options options_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> first_token_;
  LimitState limits_;
  std::vector<Choice> choices_;
  TokenDigest digest_;
  uint64_t digested_ = 0;  // tokens of the first choice
  std::optional<ApiError> error_;
  std::unique_ptr<Permit> permit_;
  std::unique_ptr<UsageJournal::Entry> entry_;
  std::unique_ptr<GenerateStream> stream_;
  Usage billed_;
  bool cancelled_ = false;
  bool closed_ = false;
};

}  // namespace gantry::gateway
