#include "gateway/http/wakeup.h"

#include <atomic>
#include <utility>

#include "boost/asio/as_tuple.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"

namespace gantry::gateway {

namespace asio = boost::asio;

struct WakeupState {
  explicit WakeupState(asio::any_io_executor e) : executor(std::move(e)), timer(executor) {}
  asio::any_io_executor executor;
  asio::steady_timer timer;  // executor only
  bool pending = false;      // executor only
  std::atomic<bool> posted{false};
};

namespace {
void NotifyState(const std::shared_ptr<WakeupState>& state) {
  if (state->posted.exchange(true, std::memory_order_acq_rel)) return;
  asio::post(state->executor, [state] {
    state->posted.store(false, std::memory_order_release);
    state->pending = true;
    state->timer.cancel();
  });
}
}  // namespace

Wakeup::Wakeup(asio::any_io_executor executor) : state_(std::make_shared<WakeupState>(std::move(executor))) {}
Wakeup::~Wakeup() = default;

void Wakeup::Notify() {
  NotifyState(state_);
}

asio::awaitable<void> Wakeup::Wait(std::chrono::steady_clock::time_point until) {
  std::shared_ptr<WakeupState> state = state_;
  if (!state->pending) {
    state->timer.expires_at(until);
    co_await state->timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  state->pending = false;
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
