#include "gateway/clients/billing_client.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "gantry/v1/billing.grpc.pb.h"
#include "gateway/admission/key_table.h"
#include "gateway/admission/price_table.h"
#include "gateway/clients/stream_thread.h"
#include "gateway/metering/usage_journal.h"
#include "services/common/grpc_status.h"

namespace gantry::gateway {
namespace {

constexpr auto kCreditTimeout = std::chrono::seconds(3);
constexpr size_t kBatchRecords = 512;
constexpr size_t kRevokedMax = 65'536;

class Credit final : public CreditClient {
 public:
  explicit Credit(const std::shared_ptr<grpc::Channel>& channel) : stub_(v1::Credit::NewStub(channel)) {}

  // Calls that are under way end now, their callbacks included: what those use may go after this.
  ~Credit() override {
    std::unique_lock lock(mu_);
    stopping_ = true;
    for (grpc::ClientContext* context : calls_) context->TryCancel();
    idle_.wait(lock, [this] { return calls_.empty(); });
  }

  void GrantSlice(const v1::GrantSliceRequest& request, Done<v1::GrantSliceResponse> done) override {
    Start(request, std::move(done), [this](auto* call, auto finish) {
      // A billing that is being started again costs this request a moment, not a refusal: the connection comes back
      // within a second of it.
      call->context.set_wait_for_ready(true);
      stub_->async()->GrantSlice(&call->context, &call->request, &call->response, std::move(finish));
    });
  }
  void ReturnSlice(const v1::ReturnSliceRequest& request, Done<v1::ReturnSliceResponse> done) override {
    Start(request, std::move(done), [this](auto* call, auto finish) {
      stub_->async()->ReturnSlice(&call->context, &call->request, &call->response, std::move(finish));
    });
  }
  void Reserve(const v1::ReserveRequest& request, Done<v1::HoldResponse> done) override {
    Start(request, std::move(done), [this](auto* call, auto finish) {
      call->context.set_wait_for_ready(true);
      stub_->async()->Reserve(&call->context, &call->request, &call->response, std::move(finish));
    });
  }
  void ExtendHold(const v1::ExtendHoldRequest& request, Done<v1::HoldResponse> done) override {
    Start(request, std::move(done), [this](auto* call, auto finish) {
      stub_->async()->ExtendHold(&call->context, &call->request, &call->response, std::move(finish));
    });
  }
  void VoidHold(const v1::VoidHoldRequest& request, Done<v1::HoldResponse> done) override {
    Start(request, std::move(done), [this](auto* call, auto finish) {
      stub_->async()->VoidHold(&call->context, &call->request, &call->response, std::move(finish));
    });
  }

 private:
  template <typename Request, typename Response>
  struct Call {
    grpc::ClientContext context;
    Request request;
    Response response;
    std::function<void(absl::StatusOr<Response>)> done;
  };

  template <typename Request, typename Response, typename Send>
  void Start(const Request& request, std::function<void(absl::StatusOr<Response>)> done, Send send) {
    auto call = std::make_shared<Call<Request, Response>>();
    call->request = request;
    call->done = std::move(done);
    call->context.set_deadline(std::chrono::system_clock::now() + kCreditTimeout);
    bool stopping = false;
    {
      std::lock_guard lock(mu_);
      stopping = stopping_;
      if (!stopping) calls_.insert(&call->context);
    }
    if (stopping) return call->done(absl::CancelledError("the gateway is stopping"));
    send(call.get(), [this, call](const grpc::Status& status) {
      if (status.ok()) {
        call->done(std::move(call->response));
      } else {
        call->done(FromGrpcStatus(status));
      }
      std::lock_guard lock(mu_);
      calls_.erase(&call->context);
      if (calls_.empty()) idle_.notify_all();
    });
  }

  std::unique_ptr<v1::Credit::Stub> stub_;
  std::mutex mu_;
  std::condition_variable idle_;
  std::set<grpc::ClientContext*> calls_;  // guarded by mu_
  bool stopping_ = false;                 // guarded by mu_
};

class Streams final : public BillingStreams {
 public:
  Streams(const std::shared_ptr<grpc::Channel>& channel, const Id16& gateway_id, uint64_t epoch, KeyTable* keys,
          PriceTable* prices, UsageJournal* journal)
      : catalog_(v1::Catalog::NewStub(channel)), usage_(v1::Usage::NewStub(channel)), journal_(journal) {
    watch_.set_gateway_id(gateway_id.ToBytes());
    watch_.set_gateway_epoch(epoch);
    journal->OnReady([this] {
      std::lock_guard lock(ready_mu_);
      ready_ = true;
      ready_wake_.notify_all();
    });
    keys_thread_ = std::make_unique<StreamThread>("keys", [this, keys](grpc::ClientContext* context) {
      v1::WatchRequest request = watch_;
      request.set_after_sequence(keys_sequence_);
      for (const Id16& id : keys->Revoked(kRevokedMax)) request.add_revoked_key_ids(id.ToBytes());
      auto reader = catalog_->WatchKeys(context, request);
      v1::KeyEvent event;
      bool useful = false;
      while (reader->Read(&event)) {
        keys_sequence_ = keys->Apply(event);
        useful = true;
        keys_live_.store(true);
      }
      keys_live_.store(false);
      reader->Finish();
      return useful;
    });
    prices_thread_ = std::make_unique<StreamThread>("prices", [this, prices](grpc::ClientContext* context) {
      v1::WatchRequest request = watch_;
      request.set_after_sequence(prices_sequence_);
      auto reader = catalog_->WatchPrices(context, request);
      v1::PriceEvent event;
      bool useful = false;
      while (reader->Read(&event)) {
        prices_sequence_ = prices->Apply(event);
        useful = true;
      }
      reader->Finish();
      return useful;
    });
    usage_thread_ = std::make_unique<StreamThread>("usage", [this](grpc::ClientContext* c) { return SendUsage(c); });
  }

  ~Streams() override {
    journal_->OnReady(nullptr);
    usage_thread_->BeginStop();
    {
      std::lock_guard lock(ready_mu_);
      stopping_ = true;
    }
    ready_wake_.notify_all();
    keys_thread_->Stop();
    prices_thread_->Stop();
    usage_thread_->Stop();
  }

  bool connected() const override { return keys_live_.load(); }

 private:
  // One batch at a time: it is sent, acked, then the next.
  bool SendUsage(grpc::ClientContext* context) {
    bool useful = false;
    journal_->Requeue();
    auto stream = usage_->AppendUsage(context);
    for (;;) {
      std::vector<v1::UsageRecord> records = journal_->NextBatch(kBatchRecords);
      if (records.empty()) {
        if (!WaitForRecords()) break;
        continue;
      }
      v1::UsageBatch batch;
      batch.set_gateway_id(watch_.gateway_id());
      batch.set_gateway_epoch(watch_.gateway_epoch());
      size_t open = records.size();
      for (v1::UsageRecord& record : records) *batch.add_records() = std::move(record);
      if (!stream->Write(batch)) break;
      v1::UsageAck ack;
      while (open > 0 && stream->Read(&ack)) {
        useful = true;
        open -= std::min<size_t>(open, ack.record_ids_size() + ack.rejected_size());
        for (const std::string& id : ack.record_ids()) journal_->Acked(id, ack.acked_us(), ack.covered_us());
        for (const v1::RejectedRecord& rejected : ack.rejected()) {
          journal_->Rejected(rejected.record_id(), rejected.reason());
        }
      }
      if (open > 0) break;
    }
    context->TryCancel();
    stream->Finish();
    return useful;
  }

  // False: stopping.
  bool WaitForRecords() {
    std::unique_lock lock(ready_mu_);
    ready_wake_.wait(lock, [this] { return ready_ || stopping_; });
    ready_ = false;
    return !stopping_;
  }

  v1::WatchRequest watch_;
  std::unique_ptr<v1::Catalog::Stub> catalog_;
  std::unique_ptr<v1::Usage::Stub> usage_;
  UsageJournal* const journal_;
  uint64_t keys_sequence_ = 0;    // the keys thread's
  uint64_t prices_sequence_ = 0;  // the prices thread's
  std::atomic<bool> keys_live_{false};
  std::mutex ready_mu_;
  std::condition_variable ready_wake_;
  bool ready_ = true;      // guarded by ready_mu_; what was recovered counts
  bool stopping_ = false;  // guarded by ready_mu_
  std::unique_ptr<StreamThread> keys_thread_;
  std::unique_ptr<StreamThread> prices_thread_;
  std::unique_ptr<StreamThread> usage_thread_;
};

}  // namespace

std::unique_ptr<CreditClient> MakeCreditClient(std::shared_ptr<grpc::Channel> billing) {
  return std::make_unique<Credit>(billing);
}

std::unique_ptr<BillingStreams> StartBillingStreams(std::shared_ptr<grpc::Channel> billing, const Id16& gateway_id,
                                                    uint64_t gateway_epoch, KeyTable* keys, PriceTable* prices,
                                                    UsageJournal* journal) {
  return std::make_unique<Streams>(billing, gateway_id, gateway_epoch, keys, prices, journal);
}

}  // namespace gantry::gateway
