#include "billing/outbox/target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

TEST(Target, UrlsAreTakenApart) {
  const struct {
    const char* url;
    bool tls;
    const char* host;
    int port;
    const char *authority, *path;
  } cases[] = {
      {"https://acme.example/hooks/gantry", true, "acme.example", 443, "acme.example", "/hooks/gantry"},
      {"https://Acme.Example", true, "acme.example", 443, "Acme.Example", "/"},
      {"https://acme.example?a=1&b=%20", true, "acme.example", 443, "acme.example", "/?a=1&b=%20"},
      {"https://acme.example:8443/x", true, "acme.example", 8443, "acme.example:8443", "/x"},
      {"http://10.0.0.7:8080/x", false, "10.0.0.7", 8080, "10.0.0.7:8080", "/x"},
      {"http://[fd00::7]:8080/x", false, "fd00::7", 8080, "[fd00::7]:8080", "/x"},
      {"https://[2001:DB8::1]/", true, "2001:db8::1", 443, "[2001:DB8::1]", "/"},
      {"https://xn--bcher-kva.example/", true, "xn--bcher-kva.example", 443, "xn--bcher-kva.example", "/"},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<Target> target = ParseTarget(c.url);
    ASSERT_TRUE(target.ok()) << c.url << " " << target.status();
    const auto& webhook = std::get<WebhookTarget>(*target);
    EXPECT_EQ(webhook.tls, c.tls) << c.url;
    EXPECT_EQ(webhook.host, c.host) << c.url;
    EXPECT_EQ(webhook.port, c.port) << c.url;
    EXPECT_EQ(webhook.authority, c.authority) << c.url;
    EXPECT_EQ(webhook.path, c.path) << c.url;
  }
}

TEST(Target, WhatCouldBeReadInTwoWaysIsRefused) {
  const struct {
    std::string url;
    const char* says;
  } cases[] = {
      {"", "neither https:// nor mailto:"},
      {"ftp://acme.example/", "neither https:// nor mailto:"},
      {"file:///etc/passwd", "neither https:// nor mailto:"},
      {"HTTPS://acme.example/", "neither https:// nor mailto:"},
      {"https://user:pass@acme.example/", "user names and passwords"},
      {"https://acme.example#@10.0.0.1/", "no fragment"},
      {"https://acme.example/#x", "no fragment"},
      {"https://acme.example\\@10.0.0.1/", "must be written as %XX"},
      {"https://acme.example/a b", "must be written as %XX"},
      {"https://acme.example/\r\nX: y", "must be written as %XX"},
      {"https://bücher.example/", "must be written as %XX"},
      {"https:///x", "`` is no host name"},
      {"https://acme..example/", "is no host name"},
      {"https://-acme.example/", "is no host name"},
      {"https://acme_x.example/", "is no host name"},
      {"https://acme.example./", "is no host name"},
      {"https://[::1/", "[ without ]"},
      {"https://[::1]x/", "after ] comes a port"},
      {"https://[acme]/", "an IPv6 address"},
      {"https://[fe80::1%25eth0]/", "an IPv6 address"},
      {"https://acme.example:/", "is no port"},
      {"https://acme.example:0/", "is no port"},
      {"https://acme.example:65536/", "is no port"},
      {"https://acme.example:+443/", "is no port"},
      {"https://acme.example:0443/", "is no port"},
      {"https://::1/", "is no host name"},
      {absl::StrCat("https://acme.example/", std::string(2000, 'x')), "longer than 2000 bytes"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(std::string(ParseTarget(c.url).status().message()), HasSubstr(c.says)) << c.url;
  }
}

TEST(Target, MailAddressesCannotEndALine) {
  for (const char* good : {"ops@acme.example", "a.b+c@mail.acme.example", "o'neil_99@x-y.example", "x@127.example"}) {
    EXPECT_TRUE(ParseTarget(absl::StrCat("mailto:", good)).ok()) << good;
  }
  for (const std::string& bad : {std::string(),
                                 std::string("ops"),
                                 std::string("@acme.example"),
                                 std::string("ops@"),
                                 std::string("ops@localhost"),
                                 std::string("a@b@acme.example"),
                                 std::string("ops@acme.example\r\nBcc: x@y.example"),
                                 std::string("ops@acme.example>"),
                                 std::string("<ops@acme.example"),
                                 std::string("a b@acme.example"),
                                 std::string("\"a\"@acme.example"),
                                 std::string("a,b@acme.example"),
                                 std::string(".a@acme.example"),
                                 std::string("a..b@acme.example"),
                                 std::string("ops@[127.0.0.1]"),
                                 std::string("ü@acme.example"),
                                 std::string("ops@äcme.example"),
                                 std::string("ops@acme.example?subject=x"),
                                 std::string("a\0@acme.example", 16),
                                 absl::StrCat(std::string(65, 'a'), "@acme.example")}) {
    EXPECT_FALSE(ParseTarget(absl::StrCat("mailto:", bad)).ok()) << bad;
  }
}

}  // namespace
}  // namespace gantry::billing
