#include "billing/outbox/test_servers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"

namespace gantry::billing {

// ---- TestCertificate ----

TestCertificate::TestCertificate(const std::string& names) {
  char name[] = "/tmp/gantry-certificate-XXXXXX";
  dir_ = mkdtemp(name);
  const std::string command = absl::StrCat(
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test -keyout ", dir_,
      "/key.pem -out ", file(), " -addext subjectAltName=", names, " >/dev/null 2>&1");
  GANTRY_CHECK(std::system(command.c_str()) == 0, "openssl(1) makes a certificate");
  context_ = SSL_CTX_new(TLS_server_method());
  GANTRY_CHECK(SSL_CTX_use_certificate_file(context_, file().c_str(), SSL_FILETYPE_PEM) == 1, "it can be read");
  GANTRY_CHECK(SSL_CTX_use_PrivateKey_file(context_, (dir_ + "/key.pem").c_str(), SSL_FILETYPE_PEM) == 1,
               "its key too");
}

TestCertificate::~TestCertificate() {
  SSL_CTX_free(context_);
  std::filesystem::remove_all(dir_);
}

// ---- TestSocket ----

TestSocket::~TestSocket() {
  if (tls_ != nullptr) {
    SSL_shutdown(tls_);
    SSL_free(tls_);
  }
}

bool TestSocket::StartTls(const TestCertificate& certificate) {
  unread_.clear();
  tls_ = SSL_new(certificate.context());
  SSL_set_fd(tls_, fd_);
  return SSL_accept(tls_) == 1;
}

bool TestSocket::Fill() {
  char piece[4096];
  const ssize_t got = tls_ != nullptr ? SSL_read(tls_, piece, sizeof piece) : recv(fd_, piece, sizeof piece, 0);
  if (got <= 0) return false;
  unread_.append(piece, static_cast<size_t>(got));
  return true;
}

bool TestSocket::ReadLine(std::string* line) {
  size_t end = 0;
  while ((end = unread_.find('\n')) == std::string::npos) {
    if (!Fill()) return false;
  }
  *line = unread_.substr(0, end);
  unread_.erase(0, end + 1);
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return true;
}

bool TestSocket::Read(size_t bytes, std::string* out) {
  while (unread_.size() < bytes) {
    if (!Fill()) return false;
  }
  *out = unread_.substr(0, bytes);
  unread_.erase(0, bytes);
  return true;
}

bool TestSocket::Write(const std::string& bytes) {
  if (tls_ != nullptr) return SSL_write(tls_, bytes.data(), static_cast<int>(bytes.size())) > 0;
  return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

void TestSocket::Hang() {
  while (Fill()) unread_.clear();
}

// ---- TestServer ----

TestServer::TestServer(Handler handler) : handler_(std::move(handler)) {
  signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  listen_fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  GANTRY_CHECK(bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "a port can be had");
  GANTRY_CHECK(listen(listen_fd_, 64) == 0, "and listened on");
  socklen_t size = sizeof address;
  getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  accept_thread_ = std::thread([this] { Loop(); });
}

TestServer::~TestServer() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    shutdown(listen_fd_, SHUT_RDWR);
    for (const int fd : fds_) shutdown(fd, SHUT_RDWR);
    threads.swap(threads_);
  }
  accept_thread_.join();
  for (std::thread& thread : threads) thread.join();
  for (std::thread& thread : threads_) thread.join();
  for (const int fd : fds_) close(fd);
  close(listen_fd_);
}

int TestServer::connections() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(fds_.size());
}

void TestServer::Loop() {
  for (;;) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      close(fd);
      return;
    }
    fds_.push_back(fd);  // closed when the server ends, so that its number is not given to another meanwhile
    threads_.emplace_back([this, fd] {
      {
        TestSocket connection(fd);
        handler_(connection);
      }
      shutdown(fd, SHUT_RDWR);
    });
  }
}

// ---- TestHttpServer ----

TestHttpServer::TestHttpServer(Answer answer, const TestCertificate* certificate)
    : answer_(std::move(answer)), certificate_(certificate) {
  server_ = std::make_unique<TestServer>([this](TestSocket& socket) { Serve(socket); });
}

std::string TestHttpServer::url(const std::string& host) const {
  return absl::StrCat(certificate_ != nullptr ? "https://" : "http://", host, ":", server_->port(),
                      "/hooks/gantry?a=1");
}

std::vector<TestHttpRequest> TestHttpServer::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

void TestHttpServer::Serve(TestSocket& socket) {
  if (certificate_ != nullptr && !socket.StartTls(*certificate_)) return;
  TestHttpRequest request;
  if (!socket.ReadLine(&request.line)) return;
  for (std::string line; socket.ReadLine(&line) && !line.empty();) {
    const std::pair<std::string, std::string> header = absl::StrSplit(line, absl::MaxSplits(": ", 1));
    request.headers[absl::AsciiStrToLower(header.first)] = header.second;
  }
  size_t size = 0;
  if (!absl::SimpleAtoi(request.headers["content-length"], &size) || !socket.Read(size, &request.body)) return;
  {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(request);
  }
  const std::string response = answer_ ? answer_(request, socket) : "HTTP/1.1 204 No Content\r\n\r\n";
  if (!response.empty()) socket.Write(response);
}

// ---- TestSmtpServer ----

TestSmtpServer::TestSmtpServer(Script script) : script_(std::move(script)) {
  server_ = std::make_unique<TestServer>([this](TestSocket& socket) { Serve(socket); });
}

std::string TestSmtpServer::address(const std::string& host) const {
  return absl::StrCat(host, ":", server_->port());
}

std::vector<TestMail> TestSmtpServer::mails() const {
  absl::MutexLock lock(&mutex_);
  return mails_;
}

std::vector<std::string> TestSmtpServer::heard() const {
  absl::MutexLock lock(&mutex_);
  return heard_;
}

void TestSmtpServer::Serve(TestSocket& socket) {
  if (script_.tls_first && !socket.StartTls(*script_.certificate)) return;
  TestMail mail;
  // False: the connection is over.
  const auto reply = [&](const std::string& verb, const std::string& usual) {
    if (script_.hang_at == verb) {
      socket.Hang();
      return false;
    }
    if (script_.close_at == verb) return false;
    const auto said = script_.say.find(verb);
    return socket.Write((said != script_.say.end() ? said->second : usual) + "\r\n");
  };
  const auto hear = [&](std::string* line) {
    if (!socket.ReadLine(line)) return false;
    absl::MutexLock lock(&mutex_);
    heard_.push_back(absl::StrCat(socket.is_tls() ? "tls " : "", *line));
    return true;
  };
  const auto decoded = [](absl::string_view text) {
    std::string out;
    absl::Base64Unescape(text, &out);
    return out;
  };
  if (!reply("greeting", "220-test.example greets\r\n220 in two lines")) return;
  for (std::string line; hear(&line);) {
    const std::string verb = absl::AsciiStrToUpper(line.substr(0, line.find_first_of(" :")));
    bool going = true;
    if (verb == "EHLO") {
      std::string text = "250-test.example";
      for (const std::string& extension : script_.extensions) absl::StrAppend(&text, "\r\n250-", extension);
      if (script_.certificate != nullptr && !socket.is_tls()) text += "\r\n250-STARTTLS";
      going = reply(verb, text + "\r\n250 8BITMIME");
    } else if (verb == "STARTTLS") {
      going = reply(verb, script_.talk_before_tls ? "220 go on\r\n250 and this too" : "220 go on") &&
              socket.StartTls(*script_.certificate);
    } else if (absl::StartsWithIgnoreCase(line, "AUTH PLAIN ")) {
      const std::vector<std::string> parts = absl::StrSplit(decoded(line.substr(11)), '\0');
      if (parts.size() == 3) {
        mail.user = parts[1];
        mail.password = parts[2];
      }
      going = reply("AUTH", "235 welcome");
    } else if (absl::EqualsIgnoreCase(line, "AUTH LOGIN")) {
      std::string word;
      going = socket.Write("334 VXNlcm5hbWU6\r\n") && hear(&word);
      mail.user = decoded(word);
      going = going && socket.Write("334 UGFzc3dvcmQ6\r\n") && hear(&word);
      mail.password = decoded(word);
      going = going && reply("AUTH", "235 welcome");
    } else if (verb == "MAIL") {
      mail.from = line.substr(10);
      going = reply(verb, "250 ok");
    } else if (verb == "RCPT") {
      mail.to = line.substr(8);
      going = reply(verb, "250 ok");
    } else if (verb == "DATA") {
      going = reply(verb, "354 go on");
      if (script_.say.contains(verb)) continue;
      for (std::string text; going && (going = socket.ReadLine(&text)) && text != ".";) {
        absl::StrAppend(&mail.data, absl::StartsWith(text, ".") ? text.substr(1) : text, "\r\n");
      }
      if (!going) return;
      mail.tls = socket.is_tls();
      const bool refused = script_.say.contains(".") && !absl::StartsWith(script_.say.at("."), "250");
      if (!refused && script_.hang_at != "." && script_.close_at != ".") {
        absl::MutexLock lock(&mutex_);
        mails_.push_back(mail);
      }
      going = reply(".", "250 taken");
    } else if (verb == "QUIT") {
      reply(verb, "221 bye");
      return;
    } else {
      going = socket.Write("500 what?\r\n");
    }
    if (!going) return;
  }
}

}  // namespace gantry::billing
