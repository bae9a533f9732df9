#include "billing/outbox/mail.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

Mail Example() {
  return {.from = "billing@house.example",
          .to = "ops@acme.example",
          .subject = "80 % of the balance is used",
          .body = "Dear ops,\n.\nthe balance is low.",
          .message_id = "019a",
          .time_us = 1'794'312'000'000'000};
}

// What a reader makes of a header: unfolded, encoded words decoded and joined.
std::string Decoded(const std::string& header) {
  std::string out;
  for (absl::string_view word : absl::StrSplit(absl::StrReplaceAll(header, {{"\r\n ", " "}}), ' ')) {
    std::string bytes;
    if (absl::ConsumePrefix(&word, "=?utf-8?B?") && absl::ConsumeSuffix(&word, "?=") &&
        absl::Base64Unescape(word, &bytes)) {
      out += bytes;
    } else {
      absl::StrAppend(&out, out.empty() ? "" : " ", word);
    }
  }
  return out;
}

TEST(Mail, HasTheHeadersOfAMail) {
  EXPECT_EQ(ComposeMail(Example()),
            "From: Gantry <billing@house.example>\r\n"
            "To: <ops@acme.example>\r\n"
            "Subject: 80 % of the balance is used\r\n"
            "Date: Tue, 10 Nov 2026 12:00:00 +0000\r\n"
            "Message-ID: <019a@house.example>\r\n"
            "Auto-Submitted: auto-generated\r\n"
            "MIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            "Content-Transfer-Encoding: base64\r\n"
            "\r\n"
            "RGVhciBvcHMsCi4KdGhlIGJhbGFuY2UgaXMgbG93Lg==\r\n");
}

TEST(Mail, SubjectsOfAnyLanguageComeBack) {
  for (const char* subject :
       {"Guthaben für Müller läuft ab", "余额不足：仅剩 12.50 欧元", "🚨 balance",
        "=?utf-8?B?aGk=?=", "Баланс почти исчерпан, пополните счёт, чтобы запросы не останавливались"}) {
    const std::string header = EncodedHeader(subject);
    EXPECT_EQ(Decoded(header), subject);
    for (const absl::string_view line : absl::StrSplit(header, "\r\n")) EXPECT_LE(line.size(), 76u) << line;
  }
}

TEST(Mail, LongSubjectsAreCutBetweenCharacters) {
  const std::string header =
      EncodedHeader(absl::StrCat("a", std::string(30, ' '), absl::StrReplaceAll(std::string(100, 'x'), {{"x", "余"}})));
  const std::string decoded = Decoded(header);
  EXPECT_LE(decoded.size(), 200u);
  EXPECT_TRUE(absl::EndsWith(decoded, "余"));
}

// Whatever is put into a subject or a body, the mail has the same headers.
TEST(Mail, NoHeaderCanBeInjected) {
  std::mt19937_64 random(5);
  const auto headers = [](const std::string& mail) {
    std::string names;
    for (const absl::string_view line : absl::StrSplit(mail.substr(0, mail.find("\r\n\r\n")), "\r\n")) {
      if (!absl::StartsWith(line, " ")) absl::StrAppend(&names, line.substr(0, line.find(':')), " ");
    }
    return names;
  };
  const std::string expected = headers(ComposeMail(Example()));
  std::vector<std::string> nasty = {
      "a\r\nBcc: x@y.example", "a\nBcc: x", "a\rBcc: x",    "\r\n\r\nbody", "\r\n.\r\n",
      std::string("a\0b", 3),  "\xff\xfe",  "\u2028Bcc: x", "a\x0b\x0c",    "\r\n \r\nX: y"};
  for (int i = 0; i < 500; ++i) {
    static constexpr const char* kPieces[] = {"\r", "\n", ":", " ", "a", "é", "\t", "=?", "?=", "\x85", "."};
    std::string text;
    for (size_t n = random() % 120; n > 0; --n) text += kPieces[random() % std::size(kPieces)];
    nasty.push_back(text);
  }
  for (const std::string& text : nasty) {
    Mail mail = Example();
    mail.subject = text;
    mail.body = text;
    const std::string composed = ComposeMail(mail);
    EXPECT_EQ(headers(composed), expected) << absl::CEscape(text);
    for (const absl::string_view line : absl::StrSplit(composed, "\r\n")) {
      EXPECT_LE(line.size(), 998u);
      EXPECT_EQ(line.find_first_of("\r\n"), absl::string_view::npos);
      for (const char c : line) EXPECT_TRUE(c >= ' ' && c <= '~') << absl::CEscape(line);
    }
  }
}

}  // namespace
}  // namespace gantry::billing
