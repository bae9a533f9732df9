#include "gateway/testing/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace gantry::gateway {
namespace {

constexpr int kPatienceMs = 30'000;

// A chunked body from `at`; false when more bytes are needed.
bool ParseChunks(const std::string& bytes, size_t at, std::string* body, size_t* end) {
  for (;;) {
    const size_t line = bytes.find("\r\n", at);
    if (line == std::string::npos) return false;
    const size_t size = std::strtoul(bytes.c_str() + at, nullptr, 16);
    if (bytes.size() < line + 2 + size + 2) {
      if (line + 2 < bytes.size()) body->append(bytes, line + 2, size);
      return false;
    }
    body->append(bytes, line + 2, size);
    at = line + 2 + size + 2;
    if (size == 0) {
      *end = at;
      return true;
    }
  }
}

std::string Shown(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "null" : value.dump();
}

}  // namespace

std::string HttpAnswer::Header(const std::string& name) const {
  auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

Json HttpAnswer::json() const {
  return Json::parse(body, nullptr, /*allow_exceptions=*/false);
}

std::string HttpAnswer::Error() const {
  const Json parsed = json();
  if (!parsed.is_object() || !parsed.contains("error")) return absl::StrCat(status, " without an error object");
  const Json& error = parsed["error"];
  for (const char* field : {"message", "type", "param", "code"}) {
    if (!error.contains(field)) return absl::StrCat(status, " error without ", field);
  }
  return absl::StrCat(status, " ", Shown(error["type"]), " ", Shown(error["param"]), " ", Shown(error["code"]));
}

std::vector<std::string> HttpAnswer::Events() const {
  std::vector<std::string> events;
  for (absl::string_view event : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&event, "data: ")) events.emplace_back(event);
  }
  return events;
}

HttpClient::HttpClient(int port) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Close();
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

HttpClient::~HttpClient() {
  Close();
}

void HttpClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void HttpClient::Send(absl::string_view bytes) {
  while (!bytes.empty() && fd_ >= 0) {
    const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void HttpClient::Request(const std::string& method, const std::string& path, const std::string& key,
                         const std::string& body, const std::string& more_headers) {
  std::string request = absl::StrCat(method, " ", path, " HTTP/1.1\r\nhost: test\r\n", more_headers);
  if (!key.empty()) absl::StrAppend(&request, "authorization: Bearer ", key, "\r\n");
  if (!body.empty()) {
    absl::StrAppend(&request, "content-type: application/json\r\ncontent-length: ", body.size(), "\r\n");
  }
  Send(absl::StrCat(request, "\r\n", body));
}

bool HttpClient::Fill() {
  if (fd_ < 0 || ended_) return false;
  pollfd wait{fd_, POLLIN, 0};
  char buffer[65536];
  const ssize_t n = poll(&wait, 1, kPatienceMs) > 0 ? recv(fd_, buffer, sizeof(buffer), 0) : 0;
  if (n <= 0) {
    ended_ = true;
    return false;
  }
  received_.append(buffer, static_cast<size_t>(n));
  return true;
}

bool HttpClient::Parse(HttpAnswer* answer, size_t* used) const {
  *answer = {};
  const size_t head_end = received_.find("\r\n\r\n");
  if (head_end == std::string::npos) return false;
  const std::vector<std::string> lines = absl::StrSplit(received_.substr(0, head_end), "\r\n");
  answer->status = std::atoi(lines[0].c_str() + sizeof("HTTP/1.1"));
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<std::string, std::string> field = absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    answer->headers[absl::AsciiStrToLower(field.first)] = std::string(absl::StripAsciiWhitespace(field.second));
  }
  const size_t at = head_end + 4;
  if (answer->Header("transfer-encoding") == "chunked") {
    answer->complete = ParseChunks(received_, at, &answer->body, used);
  } else {
    const size_t length = std::strtoul(answer->Header("content-length").c_str(), nullptr, 10);
    answer->body = received_.substr(at, length);
    answer->complete = answer->body.size() == length;
    *used = at + length;
  }
  return answer->complete;
}

HttpAnswer HttpClient::Read() {
  HttpAnswer answer;
  size_t used = 0;
  while (!Parse(&answer, &used)) {
    if (!Fill()) return answer;
  }
  received_.erase(0, used);
  return answer;
}

bool HttpClient::ReadUntil(const std::string& text) {
  while (received_.find(text) == std::string::npos) {
    if (!Fill()) return false;
  }
  return true;
}

bool HttpClient::ClosedByServer(absl::Duration limit) {
  pollfd wait{fd_, POLLIN, 0};
  char byte = 0;
  return poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) > 0 && recv(fd_, &byte, 1, MSG_PEEK) <= 0;
}

HttpAnswer Ask(int port, const std::string& method, const std::string& path, const std::string& key,
               const std::string& body) {
  HttpClient client(port);
  client.Request(method, path, key, body);
  return client.Read();
}

}  // namespace gantry::gateway
