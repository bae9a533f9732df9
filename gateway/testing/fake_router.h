// A router with one model for tests: the demo model's tokenizer and chat template, and answers by a script instead of
// an engine. Keeps to R1: never past until_index, 250 ms of patience there, one finish per sequence.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/text/tokenizer.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "services/common/rpc_test_util.h"

namespace gantry::gateway {

struct FakeScript {
  // What each sequence says, tokenised, then a stop id. Sequence i takes entry i modulo their number.
  std::vector<std::string> texts = {"Hello there, friend."};
  bool endless = false;                            // the text over and over; ends by a limit or a cancel
  absl::Duration interval = absl::ZeroDuration();  // between frames
  size_t tokens_per_frame = 1;
  int cached_tokens = 0;
  double device_ms = 0, joules = 0;  // of each sequence
  absl::Status refusal;              // instead of an answer
  int break_after = -1;              // tokens of each sequence, then the stream ends UNAVAILABLE without a finish
  v1::FinishReason end = v1::FINISH_REASON_STOP;  // instead of a stop id, when it is another
};

class FakeRouter final {
 public:
  // Listens on the identities' socket "router".
  explicit FakeRouter(const TestIdentities& identities);
  ~FakeRouter();
  std::string address() const { return identities_.Socket("router"); }

  void Play(FakeScript script);
  // Away, as a process that was killed; back, knowing the same model.
  void Leave();
  void Return();
  // The model has no worker: it is not listed, and Generate ends UNAVAILABLE.
  void set_model_away(bool away);

  // "start", "raise 0 512", "ack 0 64", "cancel CLIENT_GONE", in order.
  std::vector<std::string> events() const;
  // Blocks up to 5 s; false when none began so.
  bool WaitForEvent(const std::string& beginning) const;
  int running() const;
  v1::GenerateStart last_start() const;
  const engine::text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const v1::ModelCard& card() const { return card_; }

 private:
  class Call;
  class Service;
  void Begin(const v1::GenerateStart& start, FakeScript* script);
  void End();
  void Record(std::string event);

  const TestIdentities& identities_;
  std::string tokenizer_json_, template_source_;
  std::unique_ptr<engine::text::Tokenizer> tokenizer_;
  v1::ModelCard card_;
  std::unique_ptr<Service> service_;
  mutable absl::Mutex mu_;
  FakeScript script_ ABSL_GUARDED_BY(mu_);
  bool away_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
  v1::GenerateStart last_start_ ABSL_GUARDED_BY(mu_);
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<RpcServer> server_;  // last: its calls use the rest
};

}  // namespace gantry::gateway
