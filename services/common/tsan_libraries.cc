// Only in builds with the thread sanitizer: tells it what the distribution's Abseil and gRPC order.
//
// Both come without instrumentation, so the sanitizer sees neither absl::Mutex nor gRPC's completion queues, and
// reports every use of them as a race. A definition in the executable comes before a shared library's, also for calls
// between libraries: the ones here mark what the call orders (a release before a lock is let go or an operation is
// started, an acquire after the lock is had or the operation's tag came back) and hand over to the real one.
#include <dlfcn.h>
#include <grpc/grpc.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

// The sanitizer gives these their names. NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
// What stays unseen: the inside of these libraries, ordered by atomics. Our code is not suppressed.
const char* __tsan_default_options() {
  return "ignore_noninstrumented_modules=1";
}
const char* __tsan_default_suppressions() {
  return "race:libgrpc.so\nrace:libgpr.so\nrace:libupb.so\nrace:libprotobuf.so\nrace:libabsl_\n"
         // The end of a call, which an atomic in libgrpc++ puts after its last callback: of gRPC's side, and of what a
         // reactor of ours inherits from it (not of the reactor's own members).
         "race:Impl::~ServerCallback\nrace:>::~ClientCallback\nrace_top:grpc::Server*Reactor\n";
}
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
// NOLINTEND(bugprone-reserved-identifier)

// The real function behind a definition of ours, looked up once. Names are as the Debian and Ubuntu builds mangle them.
#define GANTRY_REAL(type, name)                         \
  ([] {                                                 \
    static std::atomic<void*> found{nullptr};           \
    void* real = found.load(std::memory_order_relaxed); \
    if (real == nullptr) {                              \
      real = gantry_tsan::Find(name);                   \
      found.store(real, std::memory_order_relaxed);     \
    }                                                   \
    return reinterpret_cast<type>(real);                \
  }())

namespace gantry_tsan {

// `name` has the inline namespace of Debian's build; other builds have another or none.
void* Find(const char* name) {
  void* real = dlsym(RTLD_NEXT, name);
  if (real == nullptr) {
    std::fprintf(stderr, "thread sanitizer build: %s not found in the shared Abseil\n", name);
    std::abort();
  }
  return real;
}

}  // namespace gantry_tsan

#define GANTRY_MUTEX "_ZN4absl7debian35Mutex"

namespace absl {

void Mutex::Lock() {
  GANTRY_REAL(void (*)(Mutex*), GANTRY_MUTEX "4LockEv")(this);
  __tsan_acquire(this);
}
void Mutex::Unlock() {
  __tsan_release(this);
  GANTRY_REAL(void (*)(Mutex*), GANTRY_MUTEX "6UnlockEv")(this);
}
bool Mutex::TryLock() {
  bool got = GANTRY_REAL(bool (*)(Mutex*), GANTRY_MUTEX "7TryLockEv")(this);
  if (got) __tsan_acquire(this);
  return got;
}
void Mutex::ReaderLock() {
  GANTRY_REAL(void (*)(Mutex*), GANTRY_MUTEX "10ReaderLockEv")(this);
  __tsan_acquire(this);
}
void Mutex::ReaderUnlock() {
  __tsan_release(this);
  GANTRY_REAL(void (*)(Mutex*), GANTRY_MUTEX "12ReaderUnlockEv")(this);
}
void Mutex::Await(const Condition& condition) {
  __tsan_release(this);
  GANTRY_REAL(void (*)(Mutex*, const Condition&), GANTRY_MUTEX "5AwaitERKNS0_9ConditionE")(this, condition);
  __tsan_acquire(this);
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  __tsan_release(this);
  bool is_true = GANTRY_REAL(bool (*)(Mutex*, const Condition&, Duration), GANTRY_MUTEX
                             "16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE")(this, condition, timeout);
  __tsan_acquire(this);
  return is_true;
}
bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  __tsan_release(this);
  bool is_true = GANTRY_REAL(bool (*)(Mutex*, const Condition&, Time),
                             GANTRY_MUTEX "17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE")(this, condition, deadline);
  __tsan_acquire(this);
  return is_true;
}
void Mutex::LockWhen(const Condition& condition) {
  GANTRY_REAL(void (*)(Mutex*, const Condition&), GANTRY_MUTEX "8LockWhenERKNS0_9ConditionE")(this, condition);
  __tsan_acquire(this);
}

#define GANTRY_CONDVAR "_ZN4absl7debian37CondVar"

void CondVar::Wait(Mutex* mutex) {
  __tsan_release(mutex);
  GANTRY_REAL(void (*)(CondVar*, Mutex*), GANTRY_CONDVAR "4WaitEPNS0_5MutexE")(this, mutex);
  __tsan_acquire(mutex);
}
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  __tsan_release(mutex);
  bool timed_out = GANTRY_REAL(bool (*)(CondVar*, Mutex*, Duration),
                               GANTRY_CONDVAR "15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE")(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}
bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  __tsan_release(mutex);
  bool timed_out = GANTRY_REAL(bool (*)(CondVar*, Mutex*, Time),
                               GANTRY_CONDVAR "16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE")(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

#define GANTRY_NOTIFICATION "absl7debian312Notification"

void Notification::Notify() {
  __tsan_release(this);
  GANTRY_REAL(void (*)(Notification*), "_ZN4" GANTRY_NOTIFICATION "6NotifyEv")(this);
}
void Notification::WaitForNotification() const {
  GANTRY_REAL(void (*)(const Notification*), "_ZNK4" GANTRY_NOTIFICATION "19WaitForNotificationEv")(this);
  __tsan_acquire(const_cast<Notification*>(this));
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  bool notified =
      GANTRY_REAL(bool (*)(const Notification*, Duration),
                  "_ZNK4" GANTRY_NOTIFICATION "30WaitForNotificationWithTimeoutENS0_8DurationE")(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

}  // namespace absl

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t count, void* tag, void* reserved) {
  __tsan_release(tag);
  return GANTRY_REAL(decltype(&grpc_call_start_batch), "grpc_call_start_batch")(call, ops, count, tag, reserved);
}

grpc_call_error grpc_server_request_call(grpc_server* server, grpc_call** call, grpc_call_details* details,
                                         grpc_metadata_array* metadata, grpc_completion_queue* bound,
                                         grpc_completion_queue* notify, void* tag) {
  __tsan_release(tag);
  return GANTRY_REAL(decltype(&grpc_server_request_call), "grpc_server_request_call")(server, call, details, metadata,
                                                                                      bound, notify, tag);
}

grpc_call_error grpc_server_request_registered_call(grpc_server* server, void* method, grpc_call** call,
                                                    gpr_timespec* deadline, grpc_metadata_array* metadata,
                                                    grpc_byte_buffer** payload, grpc_completion_queue* bound,
                                                    grpc_completion_queue* notify, void* tag) {
  __tsan_release(tag);
  return GANTRY_REAL(decltype(&grpc_server_request_registered_call), "grpc_server_request_registered_call")(
      server, method, call, deadline, metadata, payload, bound, notify, tag);
}

void grpc_server_shutdown_and_notify(grpc_server* server, grpc_completion_queue* queue, void* tag) {
  __tsan_release(tag);
  GANTRY_REAL(decltype(&grpc_server_shutdown_and_notify), "grpc_server_shutdown_and_notify")(server, queue, tag);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  grpc_event event =
      GANTRY_REAL(decltype(&grpc_completion_queue_next), "grpc_completion_queue_next")(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag, gpr_timespec deadline, void* reserved) {
  grpc_event event = GANTRY_REAL(decltype(&grpc_completion_queue_pluck), "grpc_completion_queue_pluck")(
      queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

}  // extern "C"
