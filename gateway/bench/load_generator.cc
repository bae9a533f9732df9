// Load on a running gateway: streams that keep the engine busy, and small requests at a steady rate whose answers are
// timed. One thread each, so that reading streams does not delay the clock of the small ones.
//
//   gateway_load --port P --key KEY [--streams N] [--probe models|refused] [--probes N] [--rate R] [--warmup-ms N]
//
// A probe is sent when its time has come, whether or not the last one is answered, and is timed from that moment on: a
// gateway that stops for 10 ms is late for every request of those 10 ms. Prints one line of JSON: latencies in
// microseconds, ascending.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/latency.h"

namespace {

using Clock = std::chrono::steady_clock;

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

int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    Die(absl::StrCat("nothing listens on port ", port));
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return fd;
}

void SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) Die("the gateway closed the connection");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string Request(const Options& options, const char* method, const char* path, const std::string& body) {
  return absl::StrCat(method, " ", path, " HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ", options.key,
                      "\r\ncontent-type: application/json\r\ncontent-length: ", body.size(), "\r\n\r\n", body);
}

// ---- the streams ----

// Each stream asks again as soon as its answer has ended. They look for nothing else.
void RunStreams(const Options& options, const std::atomic<bool>& stop) {
  const std::string request = Request(options, "POST", "/v1/completions",
                                      nlohmann::json{{"model", options.model},
                                                     {"prompt", "The quick brown fox jumps over the lazy dog and then"},
                                                     {"max_tokens", 2000},
                                                     {"ignore_eos", true},
                                                     {"stream", true}}
                                          .dump());
  std::vector<pollfd> sockets;
  std::vector<std::string> tails(static_cast<size_t>(options.streams));  // the end may come in two pieces
  for (int i = 0; i < options.streams; ++i) {
    sockets.push_back({.fd = Connect(options.port), .events = POLLIN, .revents = 0});
    SendAll(sockets.back().fd, request);
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
        SendAll(sockets[i].fd, request);
      } else if (tail.size() > kEnd.size()) {
        tail.erase(0, tail.size() - kEnd.size());
      }
    }
  }
  for (const pollfd& socket : sockets) close(socket.fd);
}

// ---- the probes ----

// Reads until one whole answer is there; its status.
int ReadAnswer(int fd, std::string* received) {
  char buffer[1 << 14];
  for (;;) {
    const size_t head = received->find("\r\n\r\n");
    if (head != std::string::npos) {
      const size_t field = received->find("ontent-length: ");
      uint64_t length = 0;
      if (field > head ||
          !absl::SimpleAtoi(received->substr(field + 15, received->find('\r', field) - field - 15), &length)) {
        Die("an answer without content-length");
      }
      if (received->size() >= head + 4 + length) {
        const int status = std::atoi(received->c_str() + 9);
        received->erase(0, head + 4 + length);
        return status;
      }
    }
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n <= 0) Die("the gateway closed a probe's connection");
    received->append(buffer, static_cast<size_t>(n));
  }
}

std::vector<int64_t> RunProbes(const Options& options) {
  const bool refused = options.probe == "refused";
  // Refused after the key, the body and the model's tokenizer have been looked at: what a gateway does by itself.
  const std::string request =
      refused ? Request(options, "POST", "/v1/chat/completions",
                        nlohmann::json{{"model", options.model},
                                       {"max_tokens", 100'000'000},
                                       {"messages", {{{"role", "user"}, {"content", "How are you today?"}}}}}
                            .dump())
              : Request(options, "GET", "/v1/models", "");
  const int expected = refused ? 400 : 200;
  const int fd = Connect(options.port);
  std::string received;
  const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / options.rate));
  std::vector<int64_t> latencies_us;
  auto due = Clock::now();
  for (int i = 0; i < options.probes; ++i, due += period) {
    std::this_thread::sleep_until(due);
    SendAll(fd, request);
    const int status = ReadAnswer(fd, &received);
    if (status != expected) Die(absl::StrCat("a probe was answered with status ", status, ", expected ", expected));
    latencies_us.push_back(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - due).count());
  }
  close(fd);
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
