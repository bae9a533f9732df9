#include "gateway/http/wakeup.h"

#include <mutex>
#include <utility>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"

namespace gantry::gateway {

namespace asio = boost::asio;

namespace {

// What lives and dies on the executor: with the Wakeup, or with a handler that was posted there.
struct Sleeper {
  explicit Sleeper(const asio::any_io_executor& executor) : timer(executor) {}
  asio::steady_timer timer;
  bool pending = false;
};

}  // namespace

// What other threads may hold: once the Wakeup has gone it knows nothing of the executor, which may be gone too.
struct WakeupState {
  std::mutex mu;
  std::shared_ptr<Sleeper> sleeper;  // guarded by mu; null once the Wakeup has gone
  bool posted = false;               // guarded by mu
};

namespace {
void NotifyState(const std::shared_ptr<WakeupState>& state) {
  std::lock_guard lock(state->mu);
  if (state->sleeper == nullptr || std::exchange(state->posted, true)) return;
  // Under the lock: the executor cannot go before the Wakeup has.
  asio::post(state->sleeper->timer.get_executor(), [state, sleeper = state->sleeper] {
    {
      std::lock_guard relock(state->mu);
      state->posted = false;
    }
    sleeper->pending = true;
    sleeper->timer.cancel();
  });
}
}  // namespace

Wakeup::Wakeup(asio::any_io_executor executor) : state_(std::make_shared<WakeupState>()) {
  state_->sleeper = std::make_shared<Sleeper>(executor);
}

Wakeup::~Wakeup() {
  std::shared_ptr<Sleeper> sleeper;
  std::lock_guard lock(state_->mu);
  sleeper = std::move(state_->sleeper);
}

void Wakeup::Notify() {
  NotifyState(state_);
}

asio::awaitable<void> Wakeup::Wait(std::chrono::steady_clock::time_point until) {
  std::shared_ptr<Sleeper> sleeper;
  {
    std::lock_guard lock(state_->mu);
    sleeper = state_->sleeper;
  }
  if (!sleeper->pending) {
    sleeper->timer.expires_at(until);
    co_await sleeper->timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  sleeper->pending = false;
}

void Wakeup::Handle::Notify() const {
  if (std::shared_ptr<WakeupState> state = state_.lock()) NotifyState(state);
}

Wakeup::Handle Wakeup::handle() const {
  Handle handle;
  handle.state_ = state_;
  return handle;
}

}  // namespace gantry::gateway
