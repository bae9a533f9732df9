// Real servers for tests on 127.0.0.1, plain and TLS, that misbehave when told to. They share no code with what they
// test: sockets and OpenSSL alone.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;

namespace gantry::billing {

// A certificate that signs itself, for the names given ("DNS:localhost,IP:127.0.0.1"); its file serves as authority.
class TestCertificate {
 public:
  explicit TestCertificate(const std::string& names);
  ~TestCertificate();
  std::string file() const { return dir_ + "/certificate.pem"; }
  SSL_CTX* context() const { return context_; }

 private:
  std::string dir_;
  SSL_CTX* context_ = nullptr;
};

// One accepted connection; blocks, at most until its server stops.
class TestSocket {
 public:
  explicit TestSocket(int fd) : fd_(fd) {}
  ~TestSocket();
  bool StartTls(const TestCertificate& certificate);
  bool is_tls() const { return tls_ != nullptr; }
  // Without its line end. False: nothing more comes.
  bool ReadLine(std::string* line);
  bool Read(size_t bytes, std::string* out);
  bool Write(const std::string& bytes);
  // Until the other side has gone, or the server stops.
  void Hang();

 private:
  bool Fill();
  const int fd_;
  SSL* tls_ = nullptr;
  std::string unread_;
};

class TestServer {
 public:
  using Handler = std::function<void(TestSocket&)>;
  explicit TestServer(Handler handler);
  ~TestServer();
  int port() const { return port_; }
  int connections() const;

 private:
  void Loop();
  const Handler handler_;
  int listen_fd_ = -1, port_ = 0;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<int> fds_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  std::thread accept_thread_;
};

struct TestHttpRequest {
  std::string line;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// Answers every POST with what `answer` gives: raw bytes of a response, or nothing to hang up. Null: 204.
class TestHttpServer {
 public:
  using Answer = std::function<std::string(const TestHttpRequest&, TestSocket&)>;
  explicit TestHttpServer(Answer answer = nullptr, const TestCertificate* certificate = nullptr);
  std::string url(const std::string& host = "127.0.0.1") const;
  std::vector<TestHttpRequest> requests() const;
  int connections() const { return server_->connections(); }

 private:
  void Serve(TestSocket& socket);
  const Answer answer_;
  const TestCertificate* const certificate_;
  mutable absl::Mutex mutex_;
  std::vector<TestHttpRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<TestServer> server_;  // last: ends first
};

struct TestMail {
  std::string from, to, data;  // dots unstuffed
  std::string user, password;  // as authenticated
  bool tls = false;
};

class TestSmtpServer {
 public:
  struct Script {
    const TestCertificate* certificate = nullptr;
    bool tls_first = false;                  // no STARTTLS: TLS from the first byte
    std::vector<std::string> extensions;     // of EHLO, beside STARTTLS when there is a certificate
    std::map<std::string, std::string> say;  // verb ("EHLO", "MAIL", ".", "greeting") -> reply instead of the usual one
    bool talk_before_tls = false;            // puts a reply of its own behind that to STARTTLS
    std::string hang_at;                     // verb
    std::string close_at;                    // verb
  };
  explicit TestSmtpServer(Script script);
  std::string address(const std::string& host = "127.0.0.1") const;
  std::vector<TestMail> mails() const;
  // What clients said before and after TLS began, one line each; contents of mails left out.
  std::vector<std::string> heard() const;

 private:
  void Serve(TestSocket& socket);
  const Script script_;
  mutable absl::Mutex mutex_;
  std::vector<TestMail> mails_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> heard_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<TestServer> server_;  // last: ends first
};

}  // namespace gantry::billing
