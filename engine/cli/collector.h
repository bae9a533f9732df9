// A sink that a command waits on: collects ids, and hands them on as they come.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/engine.h"

namespace gantry::engine::cli {

class Collector final : public Sink {
 public:
  explicit Collector(std::function<void(TokenId)> on_token = nullptr) : on_token_(std::move(on_token)) {}

  bool OnTokens(const TokenEvent& event) override {
    for (const TokenId id : event.ids) {
      ids_.push_back(id);
      if (on_token_) on_token_(id);
    }
    return true;
  }
  void OnFinish(const FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    finish_ = event;
    finished_ = true;
    changed_.notify_all();
  }

  const FinishEvent& Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_; });
    return finish_;
  }
  // REQUIRES: Wait has returned.
  const std::vector<TokenId>& ids() const { return ids_; }

 private:
  const std::function<void(TokenId)> on_token_;
  std::vector<TokenId> ids_;  // the engine's thread alone writes, until OnFinish
  std::mutex mutex_;
  std::condition_variable changed_;
  bool finished_ = false;
  FinishEvent finish_;
};

}  // namespace gantry::engine::cli
