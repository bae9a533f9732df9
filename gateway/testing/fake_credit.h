// Billing's Credit service in memory, with answers that come when the test says so or at once on another thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gantry/v1/billing.pb.h"
#include "gateway/admission/credit_book.h"

namespace gantry::gateway {

class FakeCredit final : public CreditClient {
 public:
  explicit FakeCredit(int64_t available_micro) : available_(available_micro) {}
  ~FakeCredit() override { StopThread(); }

  // Answers everything by itself from now on.
  void StartThread() {
    thread_ = std::thread([this] {
      std::unique_lock lock(mu_);
      for (;;) {
        wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
        if (calls_.empty()) return;
        RunOne(lock);
      }
    });
  }
  void StopThread() {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  // Answers what was asked so far and what that leads to; returns how many calls that were.
  int Answer() {
    std::unique_lock lock(mu_);
    int count = 0;
    for (; !calls_.empty(); ++count) RunOne(lock);
    return count;
  }
  // Every call fails with this until it is OK again; grants are carried out all the same if `lost`.
  void Fail(absl::Status status, bool lost = false) {
    std::lock_guard lock(mu_);
    failure_ = std::move(status);
    lost_ = lost;
  }
  void set_life(absl::Duration life) { life_ = life; }

  int64_t available() const {
    std::lock_guard lock(mu_);
    return available_;
  }
  int open_slices() const {
    std::lock_guard lock(mu_);
    int open = 0;
    for (const auto& [id, slice] : slices_) open += slice.open;
    return open;
  }
  // "grant 19..1000", "return 40", "close 60", in the order they were answered.
  std::vector<std::string> log() const {
    std::lock_guard lock(mu_);
    return log_;
  }

  void GrantSlice(const v1::GrantSliceRequest& request,
                  std::function<void(absl::StatusOr<v1::GrantSliceResponse>)> done) override {
    Queue([this, request, done](std::unique_lock<std::mutex>& lock) {
      absl::StatusOr<v1::GrantSliceResponse> answer = Grant(request);
      lock.unlock();
      done(std::move(answer));
      lock.lock();
    });
  }
  void ReturnSlice(const v1::ReturnSliceRequest& request,
                   std::function<void(absl::StatusOr<v1::ReturnSliceResponse>)> done) override {
    Queue([this, request, done](std::unique_lock<std::mutex>& lock) {
      absl::StatusOr<v1::ReturnSliceResponse> answer = TakeBack(request);
      lock.unlock();
      done(std::move(answer));
      lock.lock();
    });
  }

 private:
  struct Slice {
    int64_t granted = 0, returned = 0;
    bool open = true;
  };
  void Queue(std::function<void(std::unique_lock<std::mutex>&)> call) {
    {
      std::lock_guard lock(mu_);
      calls_.push_back(std::move(call));
    }
    wake_.notify_all();
  }
  void RunOne(std::unique_lock<std::mutex>& lock) {
    auto call = std::move(calls_.front());
    calls_.pop_front();
    call(lock);
  }
  absl::StatusOr<v1::GrantSliceResponse> Grant(const v1::GrantSliceRequest& request) {
    if (!failure_.ok() && !lost_) return failure_;
    if (available_ < request.minimum_micro()) {
      return absl::FailedPreconditionError(absl::StrCat("available ", available_));
    }
    v1::GrantSliceResponse response;
    response.set_granted_micro(std::min(available_, request.wanted_micro()));
    response.set_ttl_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(life_)));
    available_ -= response.granted_micro();
    slices_[request.slice_id()] = {.granted = response.granted_micro()};
    log_.push_back(absl::StrCat("grant ", request.minimum_micro(), "..", request.wanted_micro()));
    if (!failure_.ok()) return failure_;
    return response;
  }
  absl::StatusOr<v1::ReturnSliceResponse> TakeBack(const v1::ReturnSliceRequest& request) {
    if (!failure_.ok()) return failure_;
    auto it = slices_.find(request.slice_id());
    if (it == slices_.end()) return absl::NotFoundError("no such slice");
    Slice& slice = it->second;
    const int64_t before = slice.returned;
    slice.returned = std::max(before, request.returned_micro());
    if (slice.open) available_ += slice.returned - before;
    slice.open = slice.open && !request.close();
    log_.push_back(absl::StrCat(request.close() ? "close " : "return ", request.returned_micro()));
    return v1::ReturnSliceResponse();
  }

  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::deque<std::function<void(std::unique_lock<std::mutex>&)>> calls_;
  std::map<std::string, Slice> slices_;
  std::vector<std::string> log_;
  int64_t available_;
  absl::Duration life_ = absl::Hours(1);
  absl::Status failure_;
  bool lost_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace gantry::gateway
