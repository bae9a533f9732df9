// How other threads wake the one coroutine that serves a request: token frames, a client that left, a revoked key and
// deadlines all come through here, so that the coroutine has a single place to wait.
#pragma once

#include <chrono>
#include <memory>

#include "boost/asio/any_io_executor.hpp"
#include "boost/asio/awaitable.hpp"

namespace gantry::gateway {

class Wakeup {
 public:
  explicit Wakeup(boost::asio::any_io_executor executor);
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  // Any thread. Many notifications before a wait are one.
  void Notify();
  // On the executor (a strand), one waiter at a time. Returns at once when notified since the last wait.
  boost::asio::awaitable<void> Wait(std::chrono::steady_clock::time_point until);

  // A copyable handle that outlives the Wakeup and then does nothing.
  class Handle {
   public:
    Handle() = default;
    void Notify() const;

   private:
    friend class Wakeup;
    std::weak_ptr<struct WakeupState> state_;
  };
  Handle handle() const;

 private:
  std::shared_ptr<struct WakeupState> state_;
};

}  // namespace gantry::gateway
