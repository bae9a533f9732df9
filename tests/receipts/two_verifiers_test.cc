// Receipts made here are checked by Gantry's verifier and by an independent one in Python, which must agree: accept the
// same files and refuse the others at the same step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "billing/receipt/receipt_test_util.h"
#include "billing/receipt/verify.h"
#include "engine/base/check.h"
#include "engine/base/long_test_util.h"

extern char** environ;

namespace gantry::billing {
namespace {

using ::testing::StartsWith;

// tests/receipts/verify_receipt.py --batch as a process: one question, one answer.
class PythonVerifier {
 public:
  PythonVerifier() {
    int to[2], from[2];
    GANTRY_CHECK(pipe(to) == 0 && pipe(from) == 0, "pipes can be had");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    for (const int fd : {to[0], to[1], from[0], from[1]}) posix_spawn_file_actions_addclose(&actions, fd);
    const char* argv[] = {"python3", GANTRY_SOURCE_DIR "/tests/receipts/verify_receipt.py", "--batch", nullptr};
    const int error = posix_spawnp(&pid_, "python3", &actions, nullptr, const_cast<char**>(argv), environ);
    GANTRY_CHECK(error == 0, "python3 is installed (./dev deps)");
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    in_ = fdopen(to[1], "w");
    out_ = fdopen(from[0], "r");
  }
  ~PythonVerifier() {
    std::fclose(in_);
    std::fclose(out_);
    waitpid(pid_, nullptr, 0);
  }

  std::string Ask(const std::string& file, const std::string& keys) {
    std::fprintf(in_, "%s %s\n", absl::Base64Escape(file).c_str(), absl::Base64Escape(keys).c_str());
    std::fflush(in_);
    std::string answer;
    for (int c = 0; (c = std::fgetc(out_)) != EOF && c != '\n';) answer.push_back(static_cast<char>(c));
    return answer;
  }

 private:
  pid_t pid_ = 0;
  FILE* in_ = nullptr;
  FILE* out_ = nullptr;
};

std::string Ours(const std::string& file, const std::string& keys_file) {
  const absl::StatusOr<ReceiptKeys> keys = ReceiptKeys::Parse(keys_file);
  if (!keys.ok()) return std::string(keys.status().message());
  const absl::StatusOr<std::vector<VerifiedLine>> lines = VerifyReceipts(file, *keys);
  return lines.ok() ? absl::StrCat("ok ", lines->size()) : std::string(lines.status().message());
}

// "line 3: receipt.model: …" -> "line 3: receipt.model".
std::string StepOf(const std::string& answer) {
  const std::vector<std::string> parts = absl::StrSplit(answer, ": ");
  if (parts.size() < 2) return answer;
  return absl::StartsWith(parts[0], "line ") ? absl::StrCat(parts[0], ": ", parts[1]) : parts[0];
}

TEST(TwoVerifiers, AcceptWhateverTheHouseSigns) {
  PythonVerifier python;
  const int rounds = engine::LongTests() ? 40 : 2, receipts = 60;
  for (int round = 0; round < rounds; ++round) {
    ReceiptMaker maker(100 + static_cast<uint64_t>(round));
    std::string file;
    int made = 0;
    for (const ReceiptFacts& facts : maker.EdgeFacts())
      absl::StrAppend(&file, maker.Next(facts, made++ % 4 == 0), "\n");
    for (; made < receipts; ++made) absl::StrAppend(&file, maker.Next(maker.RandomFacts(), made % 4 == 0), "\n");
    const std::string expected = absl::StrCat("ok ", receipts);
    EXPECT_EQ(Ours(file, maker.KeysFile()), expected);
    EXPECT_EQ(python.Ask(file, maker.KeysFile()), expected);
  }
}

// One bit of every third byte here, all bits of all bytes in a long run.
TEST(TwoVerifiers, RefuseEveryFlippedBitAtTheSameStep) {
  PythonVerifier python;
  ReceiptMaker maker(200);
  const std::string keys = maker.KeysFile();
  std::string file = maker.Next(maker.EdgeFacts()[8], true) + "\n";  // a model whose name has escapes
  ASSERT_EQ(python.Ask(file, keys), "ok 1");
  const size_t step = engine::LongTests() ? 1 : 25;
  for (size_t at = 0; at < 8 * file.size(); at += step) {
    file[at / 8] = static_cast<char>(file[at / 8] ^ (1 << at % 8));
    const std::string ours = Ours(file, keys), theirs = python.Ask(file, keys);
    EXPECT_THAT(ours, StartsWith("line ")) << "byte " << at / 8 << " bit " << at % 8;
    EXPECT_EQ(StepOf(theirs), StepOf(ours)) << "byte " << at / 8 << " bit " << at % 8 << "\n" << ours << "\n" << theirs;
    file[at / 8] = static_cast<char>(file[at / 8] ^ (1 << at % 8));
  }
}

TEST(TwoVerifiers, RefuseEveryFlippedBitOfAKeysFileOrLeaveItsKeysAsTheyWere) {
  PythonVerifier python;
  ReceiptMaker maker(300);
  const std::string file = maker.Next(maker.RandomFacts(), true) + "\n";
  std::string keys = maker.KeysFile();
  int harmless = 0;
  const size_t step = engine::LongTests() ? 1 : 7;
  for (size_t at = 0; at < 8 * keys.size(); at += step) {
    keys[at / 8] = static_cast<char>(keys[at / 8] ^ (1 << at % 8));
    const std::string ours = Ours(file, keys), theirs = python.Ask(file, keys);
    EXPECT_EQ(StepOf(theirs), StepOf(ours)) << "byte " << at / 8 << " bit " << at % 8 << "\n" << ours << "\n" << theirs;
    // Blanks between its members are not signed: one that becomes another changes nothing.
    if (ours == "ok 1") ++harmless;
    keys[at / 8] = static_cast<char>(keys[at / 8] ^ (1 << at % 8));
  }
  EXPECT_LT(harmless * static_cast<int>(step), 100) << "of " << keys.size() * 8;
}

TEST(TwoVerifiers, AgreeOnWhatIsWrongInManyWays) {
  PythonVerifier python;
  ReceiptMaker maker(400), other(401);
  const std::string good = maker.Next(maker.EdgeFacts()[0], true), next = maker.Next(maker.RandomFacts(), false);
  const auto with = [&](absl::string_view from, absl::string_view to) {
    return absl::StrReplaceAll(good, {{from, to}});
  };
  const auto signed_again = [&](const std::function<void(nlohmann::json*)>& change) {
    nlohmann::json parsed = *ParseCanonicalObject(good);
    change(&parsed["receipt"]);
    parsed["signature"] = absl::BytesToHexString(maker.Sign(Canonical(parsed["receipt"])));
    return Canonical(parsed);
  };
  const std::vector<std::string> files = {
      "",
      "\n",
      "{}",
      "[]",
      "\xef\xbb\xbf" + good,
      good + " ",
      good + "\r\n",
      good + "\n\n",
      std::string(1, '\0') + good,
      good + std::string(1, '\0'),
      good + good,
      std::string(70'000, '{'),
      "{\"a\":" + std::string(60'000, '['),
      with("\"kind\"", "\"kind\" "),
      with("\"cached_tokens\":0", "\"cached_tokens\":0.0"),
      with("\"cached_tokens\":0", "\"cached_tokens\":-0"),
      with("\"cached_tokens\":0", "\"cached_tokens\":1e999"),
      with("\"cached_tokens\":0", "\"cached_tokens\":null"),
      with("\"cached_tokens\":0", "\"cached_tokens\":false"),
      with("\"cached_tokens\":0", "\"cached_tokens\":NaN"),
      with("\"cached_tokens\":0", "\"cached_tokens\":9007199254740992"),
      with("\"cached_tokens\":0", absl::StrCat("\"cached_tokens\":", std::string(5000, '9'))),
      with("\"cached_tokens\":0", "\"cached_tokens\":\"0\""),
      with("\"cached_tokens\":0", "\"cached_tokens\":0,\"cached_tokens\":0"),
      with("\"model\":\"", "\"model\":\"\\ud800"),
      with("\"model\":\"", "\"model\":\"\\u0041"),
      with("\"model\":\"", "\"model\":\"\xc0\x80"),
      with("\"cached_tokens\"", "\"Cached_tokens\""),
      with("\"type\":\"gantry.receipt\"", "\"type\":1"),
      with(maker.key().key_id, other.key().key_id),
      with("\"proof\":{", "\"proof\":1,\"x\":{"),
      signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "-0"; }),
      signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "+1"; }),
      signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "1\n"; }),
      signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "9223372036854775808"; }),
      signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "-9223372036854775809"; }),
      signed_again([](nlohmann::json* r) { (*r)["currency"] = "EUR\n"; }),
      signed_again([](nlohmann::json* r) { (*r)["currency"] = "ÉU"; }),
      signed_again([](nlohmann::json* r) { (*r)["number"] = "0"; }),
      signed_again([](nlohmann::json* r) { (*r)["number"] = "2"; }),
      signed_again([](nlohmann::json* r) { (*r)["model"] = std::string(1025, 'm'); }),
      signed_again([](nlohmann::json* r) { (*r)["model"] = ""; }),
      signed_again([](nlohmann::json* r) { (*r)["model"] = nlohmann::json::array(); }),
      signed_again([](nlohmann::json* r) { (*r)["requests"] = -1; }),
      signed_again([](nlohmann::json* r) { (*r)["buyer"] = std::string(32, 'F'); }),
      signed_again([](nlohmann::json* r) { (*r)["ended_us"] = 7; }),
      signed_again([](nlohmann::json* r) { r->erase("tenant"); }),
      // Two of a number, and one that does not follow.
      good + "\n" + signed_again([](nlohmann::json* r) { (*r)["cost_pico"] = "5"; }),
      next + "\n" + signed_again([](nlohmann::json* r) {
        (*r)["number"] = "3";
        (*r)["previous"] = std::string(64, '1');
      }),
      other.Next(other.EdgeFacts()[1], false) + "\n" + good,
  };
  for (const std::string& file : files) {
    const std::string ours = Ours(file, maker.KeysFile()), theirs = python.Ask(file, maker.KeysFile());
    EXPECT_THAT(ours, StartsWith("line ")) << file.substr(0, 3000);
    EXPECT_EQ(StepOf(theirs), StepOf(ours)) << file.substr(0, 3000) << "\n" << ours << "\n" << theirs;
  }
}

}  // namespace
}  // namespace gantry::billing
