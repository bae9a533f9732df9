// What every request of the API uses, put together once by gateway/gateway.cc.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "boost/asio/any_io_executor.hpp"
#include "gateway/admission/admission.h"
#include "gateway/api/gateway_metrics.h"
#include "gateway/clients/generate_client.h"
#include "gateway/clients/model_catalog.h"
#include "gateway/http/wakeup.h"
#include "gateway/metering/usage_journal.h"

namespace gantry::gateway {

struct ApiOptions {
  absl::Duration request_deadline = absl::Minutes(10);  // for one request, queueing included
  absl::Duration credit_timeout = absl::Seconds(4);     // longest wait for a slice
  absl::Duration model_timeout = absl::Seconds(2);      // longest wait for the router's list of models
  absl::Duration keep_alive = absl::Seconds(15);        // silence of a stream before a comment is sent
  std::vector<Cidr> trusted_proxies;                    // whose X-Forwarded-For is believed (R17)
};

// The completions in progress, so that a shutdown can reach them. Thread-safe.
class RunningRequests {
 public:
  // Counts one request for as long as it lives. `wakeup` outlives it.
  class Entry {
   public:
    Entry(RunningRequests* owner, Wakeup* wakeup) : owner_(owner), wakeup_(wakeup) {
      absl::MutexLock lock(&owner_->mu_);
      owner_->wakeups_.insert(wakeup_);
    }
    ~Entry() {
      absl::MutexLock lock(&owner_->mu_);
      owner_->wakeups_.erase(wakeup_);
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    RunningRequests* const owner_;
    Wakeup* const wakeup_;
  };
  int count() const {
    absl::MutexLock lock(&mu_);
    return static_cast<int>(wakeups_.size());
  }
  void NotifyAll() {
    absl::MutexLock lock(&mu_);
    for (Wakeup* wakeup : wakeups_) wakeup->Notify();
  }

 private:
  mutable absl::Mutex mu_;
  std::set<Wakeup*> wakeups_ ABSL_GUARDED_BY(mu_);
};

// The parts outlive the API server and all requests.
struct ApiContext {
  ApiOptions options;
  ModelCatalog* models = nullptr;
  GenerateClient* generate = nullptr;
  std::shared_ptr<Admission> admission;
  std::shared_ptr<UsageJournal> journal;
  GatewayMetrics* metrics = nullptr;
  // Where large bodies are parsed, rendered and tokenised, so that streams of other tenants do not wait for them.
  // Empty: on the connection's thread.
  boost::asio::any_io_executor heavy_work;
  std::function<bool()> ready;        // whether requests would be admitted; null: always
  std::atomic<bool> draining{false};  // admit nothing more
  std::atomic<bool> ending{false};    // running requests end with an error at once; NotifyAll after setting it
  RunningRequests running;
};

}  // namespace gantry::gateway
