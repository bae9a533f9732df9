// A sink that collects, and a blocking run of one request.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/engine.h"

namespace gantry::engine {

class CollectingSink final : public Sink {
 public:
  // first_index: how many ids the request has generated already.
  explicit CollectingSink(int first_index = 0) : first_index_(first_index) {}

  bool OnTokens(const TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    EXPECT_EQ(event.first_index, first_index_ + static_cast<int>(ids_.size()));
    ids_.insert(ids_.end(), event.ids.begin(), event.ids.end());
    logprobs_.insert(logprobs_.end(), event.logprobs.begin(), event.logprobs.end());
    changed_.notify_all();
    return true;
  }
  void OnFinish(const FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished_);
    finish_ = event;
    finished_ = true;
    changed_.notify_all();
  }

  FinishEvent Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_; });
    return finish_;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_ || ids_.size() >= count; });
  }
  std::vector<TokenId> ids() {
    std::lock_guard lock(mutex_);
    return ids_;
  }
  std::vector<TokenLogprobs> logprobs() {
    std::lock_guard lock(mutex_);
    return logprobs_;
  }

 private:
  const int first_index_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  FinishEvent finish_;
  std::vector<TokenId> ids_;
  std::vector<TokenLogprobs> logprobs_;
};

inline Request MakeRequest(std::vector<TokenId> ids, int max_tokens,
                           const SamplingParams& sampling = {.temperature = 0}) {
  Request request;
  request.generated_from = static_cast<int>(ids.size());
  request.ids = std::move(ids);
  request.max_tokens = max_tokens;
  request.sampling = sampling;
  return request;
}

}  // namespace gantry::engine
