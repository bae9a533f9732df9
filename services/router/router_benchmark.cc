// What the router adds: start to first frame of one-token streams, straight to a worker and through the router, back to
// back and after an idle time in which unattended callback threads would nap.
//
//   router_benchmark [--requests N] [--idle-rounds N]      (defaults 2000 and 8)
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "services/router/fake_worker.h"
#include "services/router/router.h"

namespace {

using Clock = std::chrono::steady_clock;

double FirstFrameUs(gantry::v1::Inference::Stub* stub) {
  gantry::v1::GenerateClientMessage message;
  gantry::v1::GenerateStart* start = message.mutable_start();
  start->set_request_id(std::string(16, 'r'));
  start->set_attempt(1);
  start->set_model("demo");
  start->set_prompt_ids(std::string(4096, '\1'));
  start->add_sequences();
  start->set_max_tokens(1);
  start->set_deadline_ms(10'000);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  auto begin = Clock::now();
  auto stream = stub->Generate(&context);
  stream->Write(message);
  gantry::v1::GenerateServerMessage frame;
  stream->Read(&frame);
  double us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  while (stream->Read(&frame)) {
  }
  if (!stream->Finish().ok()) std::abort();
  return us;
}

void Report(const char* what, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  std::printf("%-32s p50 %7.0f us   p99 %7.0f us   max %7.0f us\n", what, us[us.size() / 2], us[us.size() * 99 / 100],
              us.back());
}

}  // namespace

int main(int argc, char** argv) {
  int requests = 2000, idle_rounds = 8;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--requests") == 0) requests = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--idle-rounds") == 0) idle_rounds = std::max(0, std::atoi(argv[i + 1]));
  }
  gantry::TestIdentities identities;
  gantry::router::RouterOptions options;
  options.rpc = identities.ServerOptions("router");
  options.identity = identities.Get("router");
  auto router = gantry::router::Router::Start(std::move(options), nullptr);
  if (!router.ok()) return 1;
  gantry::router::FakeWorker worker(identities, (*router)->address(), {.max_sequences = 1024, .tokens = 1});
  worker.WaitAttached();
  auto direct =
      gantry::v1::Inference::NewStub(gantry::MakeChannel(identities.Socket("worker"), identities.Get("router")));
  auto routed = gantry::v1::Inference::NewStub(gantry::MakeChannel((*router)->address(), identities.Get("gateway")));
  for (int i = 0; i < 50; ++i) {
    FirstFrameUs(direct.get());
    FirstFrameUs(routed.get());
  }
  std::vector<double> direct_us, routed_us, idle_us;
  for (int i = 0; i < requests; ++i) {
    direct_us.push_back(FirstFrameUs(direct.get()));
    routed_us.push_back(FirstFrameUs(routed.get()));
  }
  for (int i = 0; i < idle_rounds; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1000 + 13 * i % 130));
    idle_us.push_back(FirstFrameUs(routed.get()));
  }
  Report("straight to the worker", direct_us);
  Report("through the router", routed_us);
  if (!idle_us.empty()) Report("through the router, after 1 s idle", idle_us);
  return 0;
}
