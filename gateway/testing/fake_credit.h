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
  // Money is short: no slices, holds only.
  void set_reserve(bool reserve) { reserve_ = reserve; }
  size_t holds() const {
    std::lock_guard lock(mu_);
    return holds_.size();
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

  void GrantSlice(const v1::GrantSliceRequest& request, Done<v1::GrantSliceResponse> done) override {
    Queue<v1::GrantSliceResponse>([this, request] { return Grant(request); }, std::move(done));
  }
  void ReturnSlice(const v1::ReturnSliceRequest& request, Done<v1::ReturnSliceResponse> done) override {
    Queue<v1::ReturnSliceResponse>([this, request] { return TakeBack(request); }, std::move(done));
  }
  void Reserve(const v1::ReserveRequest& request, Done<v1::HoldResponse> done) override {
    Queue<v1::HoldResponse>([this, request] { return Hold(request.hold_id(), request.amount_micro(), "reserve"); },
                            std::move(done));
  }
  void ExtendHold(const v1::ExtendHoldRequest& request, Done<v1::HoldResponse> done) override {
    Queue<v1::HoldResponse>([this, request] { return Hold(request.hold_id(), request.add_micro(), "extend"); },
                            std::move(done));
  }
  void VoidHold(const v1::VoidHoldRequest& request, Done<v1::HoldResponse> done) override {
    Queue<v1::HoldResponse>([this, request] { return End(request.hold_id()); }, std::move(done));
  }

 private:
  struct Slice {
    int64_t granted = 0, returned = 0;
    bool open = true;
  };
  template <typename Response>
  void Queue(std::function<absl::StatusOr<Response>()> run, Done<Response> done) {
    {
      std::lock_guard lock(mu_);
      calls_.push_back([run = std::move(run), done = std::move(done)](std::unique_lock<std::mutex>& held) {
        absl::StatusOr<Response> answer = run();
        held.unlock();
        done(std::move(answer));
        held.lock();
      });
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
    if (reserve_) {
      v1::GrantSliceResponse response;
      response.set_reserve(true);
      return response;
    }
    if (available_ < request.minimum_micro()) {
      return absl::FailedPreconditionError(absl::StrCat("available ", available_));
    }
    v1::GrantSliceResponse response;
    response.set_granted_micro(std::min(available_, request.wanted_micro()));
    response.set_ttl_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(life_)));
    available_ -= response.granted_micro();
    slices_[request.slice_id()] = {.granted = response.granted_micro()};
    log_.push_back(absl::StrCat("grant ", request.minimum_micro(), "..", request.wanted_micro(),
                                request.key_id().empty() ? "" : " of a key"));
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

  absl::StatusOr<v1::HoldResponse> Hold(const std::string& id, int64_t micro, const char* what) {
    if (!failure_.ok() && !lost_) return failure_;
    if (available_ < micro) return absl::FailedPreconditionError(absl::StrCat("available ", available_));
    available_ -= micro;
    holds_[id] += micro;
    log_.push_back(absl::StrCat(what, " ", micro));
    if (!failure_.ok()) return failure_;
    v1::HoldResponse response;
    response.set_held_micro(holds_[id]);
    return response;
  }
  absl::StatusOr<v1::HoldResponse> End(const std::string& id) {
    if (!failure_.ok()) return failure_;
    const auto it = holds_.find(id);
    if (it == holds_.end()) return v1::HoldResponse();
    available_ += it->second;
    log_.push_back(absl::StrCat("void ", it->second));
    holds_.erase(it);
    return v1::HoldResponse();
  }

  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::deque<std::function<void(std::unique_lock<std::mutex>&)>> calls_;
  std::map<std::string, Slice> slices_;
  std::map<std::string, int64_t> holds_;
  std::vector<std::string> log_;
  int64_t available_;
  absl::Duration life_ = absl::Hours(1);
  absl::Status failure_;
  bool lost_ = false;
  bool reserve_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace gantry::gateway
