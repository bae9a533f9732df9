// A stream to billing that comes back: a thread that opens one, works on it until it breaks, and opens the next.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace grpc {
class ClientContext;
}  // namespace grpc

namespace gantry::gateway {

class StreamThread {
 public:
  // `work` runs one stream; it returns true when the stream had been of use.
  StreamThread(std::string name, std::function<bool(grpc::ClientContext*)> work);
  ~StreamThread() { Stop(); }

  // No stream is opened after this one, which may end by itself.
  void MakeLast();
  // Cancels the stream; Stop also waits for its end.
  void BeginStop();
  void Stop();

 private:
  void Loop();

  const std::string name_;
  const std::function<bool(grpc::ClientContext*)> work_;
  std::mutex mu_;
  std::condition_variable wake_;
  grpc::ClientContext* context_ = nullptr;  // guarded by mu_
  bool stopping_ = false;                   // guarded by mu_
  std::thread thread_;
};

}  // namespace gantry::gateway
