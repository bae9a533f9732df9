// How late is the first call after a pause? Measures unary calls over a unix socket with each of gRPC's server and
// client APIs after the process has been idle, because the callback threads of gRPC 1.51 sleep 100 ms at a time then.
//
//   rpc_benchmark [--rounds N] [--idle-ms N]        (defaults 20 and 1000; tests run it with 1 and 10)
//
// The numbers and what follows from them: docs/decisions/0001-grpc-api.md.
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "gantry/v1/admin.grpc.pb.h"
#include "services/common/rpc.h"

namespace {

using Clock = std::chrono::steady_clock;
using gantry::v1::Process;
using gantry::v1::StatusRequest;
using gantry::v1::StatusResponse;

enum class Api { kSync, kAsync, kCallback, kCallbackAwake };

struct SyncService final : Process::Service {
  grpc::Status Status(grpc::ServerContext*, const StatusRequest*, StatusResponse*) override { return grpc::Status::OK; }
};

struct CallbackService final : Process::CallbackService {
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const StatusRequest*,
                                   StatusResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

void ServeAsync(Process::AsyncService* service, grpc::ServerCompletionQueue* queue) {
  struct Call {
    grpc::ServerContext context;
    StatusRequest request;
    StatusResponse response;
    grpc::ServerAsyncResponseWriter<StatusResponse> writer{&context};
    bool answered = false;
  };
  auto listen = [&] {
    auto* call = new Call;
    service->RequestStatus(&call->context, &call->request, &call->writer, queue, queue, call);
  };
  listen();
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
    auto* call = static_cast<Call*>(tag);
    if (!ok || call->answered) {
      delete call;
      continue;
    }
    listen();
    call->answered = true;
    call->writer.Finish(call->response, grpc::Status::OK, call);
  }
}

// The server is a process of its own, as in the cluster: a client's threads must not keep it awake.
[[noreturn]] void RunServer(Api api, const std::string& address, int ready_fd) {
  SyncService sync;
  CallbackService callback;
  Process::AsyncService async;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::experimental::LocalServerCredentials(UDS));
  if (api == Api::kSync) builder.RegisterService(&sync);
  if (api == Api::kCallback || api == Api::kCallbackAwake) builder.RegisterService(&callback);
  if (api == Api::kAsync) {
    builder.RegisterService(&async);
    queue = builder.AddCompletionQueue();
  }
  auto server = builder.BuildAndStart();
  if (api == Api::kCallbackAwake) gantry::KeepCallbackThreadsAwake();
  [[maybe_unused]] ssize_t written = write(ready_fd, "r", 1);
  if (api == Api::kAsync) ServeAsync(&async, queue.get());
  server->Wait();
  _exit(0);
}

double CallUs(Process::Stub* stub, grpc::CompletionQueue* queue, Api api) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  StatusRequest request;
  StatusResponse response;
  auto start = Clock::now();
  if (api == Api::kSync) {
    stub->Status(&context, request, &response);
  } else if (api == Api::kAsync) {
    grpc::Status status;
    auto call = stub->AsyncStatus(&context, request, queue);
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue->Next(&tag, &ok);
  } else {
    std::promise<void> done;
    stub->async()->Status(&context, &request, &response, [&done](const grpc::Status&) { done.set_value(); });
    done.get_future().wait();
  }
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double CpuMs() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto ms = [](const timeval& t) {
    return 1e3 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_usec);
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

// In a child, because a client's callback threads, once made, live on.
void RunClient(Api api, const std::string& address, int rounds, int idle_ms, const char* name) {
  auto channel = grpc::CreateChannel(address, grpc::experimental::LocalCredentials(UDS));
  auto stub = Process::NewStub(channel);
  grpc::CompletionQueue queue;
  if (api == Api::kCallbackAwake) gantry::KeepCallbackThreadsAwake();
  for (int i = 0; i < 20; ++i) CallUs(stub.get(), &queue, api);
  auto report = [&](const char* what, std::vector<double> us) {
    std::sort(us.begin(), us.end());
    std::printf("%-36s %-12s p50 %9.0f us   p90 %9.0f us   max %9.0f us\n", name, what, us[us.size() / 2],
                us[us.size() * 9 / 10], us.back());
  };
  std::vector<double> busy, idle;
  for (int i = 0; i < rounds * 50; ++i) busy.push_back(CallUs(stub.get(), &queue, api));
  double cpu_before = CpuMs();
  auto start = Clock::now();
  for (int i = 0; i < rounds; ++i) {
    // A thread naps from 1.0 s to 1.1 s after its last event: calls are spread over that time and a little beyond.
    std::this_thread::sleep_for(std::chrono::milliseconds(idle_ms + 13 * i % 130));
    idle.push_back(CallUs(stub.get(), &queue, api));
  }
  double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  report("back to back", busy);
  report("after idling", idle);
  std::printf("%-36s %-12s %.3f %% of one core\n", name, "client idle", (CpuMs() - cpu_before) / (10 * seconds));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 20, idle_ms = 1000;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--idle-ms") == 0) idle_ms = std::max(0, std::atoi(argv[i + 1]));
  }
  char dir[] = "/tmp/gantry-bench-XXXXXX";
  if (mkdtemp(dir) == nullptr) return 1;
  struct Case {
    const char* name;
    Api server, client;
  };
  bool good = true;
  for (const Case& c : {Case{"sync server, sync client", Api::kSync, Api::kSync},
                        Case{"async server, async client", Api::kAsync, Api::kAsync},
                        Case{"callback server, sync client", Api::kCallback, Api::kSync},
                        Case{"sync server, callback client", Api::kSync, Api::kCallback},
                        Case{"callback both", Api::kCallback, Api::kCallback},
                        Case{"callback both, kept awake", Api::kCallbackAwake, Api::kCallbackAwake}}) {
    std::string path = std::string(dir) + "/bench.sock";
    int ready[2];
    if (pipe(ready) != 0) return 1;
    // gRPC does not survive fork: both sides are forked before either has touched it.
    pid_t server = fork();
    if (server == 0) RunServer(c.server, "unix:" + path, ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) return 1;
    pid_t client = fork();
    if (client == 0) {
      RunClient(c.client, "unix:" + path, rounds, idle_ms, c.name);
      _exit(0);
    }
    int result = 0;
    waitpid(client, &result, 0);
    good = good && WIFEXITED(result) && WEXITSTATUS(result) == 0;
    kill(server, SIGKILL);
    waitpid(server, nullptr, 0);
    unlink(path.c_str());
    close(ready[0]);
    close(ready[1]);
  }
  rmdir(dir);
  return good ? 0 : 1;
}
