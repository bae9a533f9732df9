// A small HTTP/1.1 client for tests: says exactly what it is told and shows exactly what came.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gateway/api/json_reader.h"

namespace gantry::gateway {

struct HttpAnswer {
  int status = 0;                              // 0: nothing came that was a reply
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  bool complete = false;  // ended as HTTP says; false for an unterminated body
  std::string Header(const std::string& name) const;
  Json json() const;  // of the body; discarded value when it is none
  // Of an error object: "401 invalid_request_error null invalid_api_key" (status type param code).
  std::string Error() const;
  // Payloads of a stream's `data:` events, in order.
  std::vector<std::string> Events() const;
};

class HttpClient {
 public:
  explicit HttpClient(int port);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  bool connected() const { return fd_ >= 0; }
  int fd() const { return fd_; }  // for who waits for many

  void Send(absl::string_view bytes);
  // `key` empty: no Authorization.
  void Request(const std::string& method, const std::string& path, const std::string& key, const std::string& body = "",
               const std::string& more_headers = "");
  // The next reply, whole. At most 30 s.
  HttpAnswer Read();
  // Reads until the reply so far contains `text`; false when it ended before.
  bool ReadUntil(const std::string& text);
  // Closes at once, as a client does that leaves.
  void Close();
  // Whether the server closes the connection within `limit`.
  bool ClosedByServer(absl::Duration limit);

 private:
  bool Fill();
  bool Parse(HttpAnswer* answer, size_t* used) const;
  int fd_ = -1;
  std::string received_;
  bool ended_ = false;
};

// One request on a connection of its own.
HttpAnswer Ask(int port, const std::string& method, const std::string& path, const std::string& key,
               const std::string& body = "");

}  // namespace gantry::gateway
