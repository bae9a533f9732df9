// Load on a running gateway: streams that keep the engine busy, and small requests at a steady rate whose answers are
// timed. One thread each, so that reading streams does not delay the clock of the small ones.
//
//   gateway_load --port P --key KEY [--streams N] [--probe models|refused] [--probes N] [--rate R] [--warmup-ms N]
//
// A probe is sent when its time has come, whether or not the last one is answered, and is timed from that moment on: a
// gateway that stops for 10 ms is late for every request of those 10 ms. Prints one line of JSON: latencies in
// microseconds, ascending.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "gateway/testing/http_client.h"
#include "services/common/latency.h"

namespace {

using Clock = std::chrono::steady_clock;
using gantry::gateway::HttpClient;

struct Options {
  int port = 0;
  std::string key;
  std::string model = "gantry-demo";
  int streams = 0;
  std::string probe = "models";
  int probes = 1000;
  double rate = 50;
  int warmup_ms = 1000;
};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "gateway_load: %s\n", what.c_str());
  std::exit(1);
}

void CheckConnected(const HttpClient& client, int port) {
  if (!client.connected()) Die(absl::StrCat("nothing listens on port ", port));
}

// ---- the streams ----

// Each stream asks again as soon as its answer has ended. They look for nothing else.
void RunStreams(const Options& options, const std::atomic<bool>& stop) {
  const std::string body = nlohmann::json{
      {"model", options.model},
      {"prompt", "The quick brown fox jumps over the lazy dog and then"},
      {"max_tokens", 2000},
      {"ignore_eos", true},
      {"stream", true}}.dump();
  std::deque<HttpClient> clients;
  std::vector<pollfd> sockets;
  std::vector<std::string> tails(static_cast<size_t>(options.streams));  // the end may come in two pieces
  for (int i = 0; i < options.streams; ++i) {
    HttpClient& client = clients.emplace_back(options.port);
    CheckConnected(client, options.port);
    client.Request("POST", "/v1/completions", options.key, body);
    sockets.push_back({.fd = client.fd(), .events = POLLIN, .revents = 0});
  }
  std::vector<char> buffer(1 << 16);
  constexpr std::string_view kEnd = "0\r\n\r\n", kHead = "HTTP/1.1 ", kOk = "200";
  while (!stop.load(std::memory_order_relaxed)) {
    if (poll(sockets.data(), sockets.size(), 100) <= 0) continue;
    for (size_t i = 0; i < sockets.size(); ++i) {
      if (sockets[i].revents == 0) continue;
      const ssize_t n = recv(sockets[i].fd, buffer.data(), buffer.size(), 0);
      if (n <= 0) Die("the gateway closed a stream");
      const std::string_view got(buffer.data(), static_cast<size_t>(n));
      if (got.starts_with(kHead) && got.substr(kHead.size(), kOk.size()) != kOk) {
        Die("a stream was refused: " + std::string(got));
      }
      std::string& tail = tails[i];
      tail.append(got.substr(got.size() - std::min(got.size(), kEnd.size())));
      if (tail.ends_with(kEnd)) {
        tail.clear();
        clients[i].Request("POST", "/v1/completions", options.key, body);
      } else if (tail.size() > kEnd.size()) {
        tail.erase(0, tail.size() - kEnd.size());
      }
    }
  }
}

// ---- the probes ----

std::vector<int64_t> RunProbes(const Options& options) {
  const bool refused = options.probe == "refused";
  // Refused after the key, the body and the model's tokenizer have been looked at: what a gateway does by itself.
  const std::string method = refused ? "POST" : "GET", path = refused ? "/v1/chat/completions" : "/v1/models";
  const std::string body = refused
                               ? nlohmann::json{{"model", options.model},
                                                {"max_tokens", 100'000'000},
                                                {"messages", {{{"role", "user"}, {"content", "How are you today?"}}}}}
                                     .dump()
                               : "";
  const int expected = refused ? 400 : 200;
  HttpClient client(options.port);
  CheckConnected(client, options.port);
  const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / options.rate));
  std::vector<int64_t> latencies_us;
  auto due = Clock::now();
  for (int i = 0; i < options.probes; ++i, due += period) {
    std::this_thread::sleep_until(due);
    client.Request(method, path, options.key, body);
    const int status = client.Read().status;
    if (status != expected) Die(absl::StrCat("a probe was answered with status ", status, ", expected ", expected));
    latencies_us.push_back(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - due).count());
  }
  std::sort(latencies_us.begin(), latencies_us.end());
  return latencies_us;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Streams and timed small requests on a running gateway"};
  app.add_option("--port", options.port, "the gateway's port on 127.0.0.1")->required();
  app.add_option("--key", options.key, "API key")->required();
  app.add_option("--model", options.model, "served model")->capture_default_str();
  app.add_option("--streams", options.streams, "completions that run all the time")
      ->check(CLI::Range(0, 512))
      ->capture_default_str();
  app.add_option("--probe", options.probe, "what is timed: GET /v1/models, or a completion that is refused")
      ->check(CLI::IsMember({"models", "refused"}))
      ->capture_default_str();
  app.add_option("--probes", options.probes, "how many")->check(CLI::Range(1, 1'000'000))->capture_default_str();
  app.add_option("--rate", options.rate, "probes per second")->check(CLI::Range(0.1, 10'000.0))->capture_default_str();
  app.add_option("--warmup-ms", options.warmup_ms, "streams alone before the first probe")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  // Clients are elsewhere: what they wait for a core is not the gateway's time.
  gantry::AskForShortTurns();
  std::atomic<bool> stop{false};
  std::thread streams;
  if (options.streams > 0) {
    streams = std::thread([&] { RunStreams(options, stop); });
    std::this_thread::sleep_for(std::chrono::milliseconds(options.warmup_ms));
  }
  const std::vector<int64_t> latencies_us = RunProbes(options);
  stop.store(true);
  if (streams.joinable()) streams.join();
  std::printf("%s\n", nlohmann::json{{"latencies_us", latencies_us}}.dump().c_str());
  return 0;
}
