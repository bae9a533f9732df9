#include "billing/receipt/receipt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "billing/receipt/receipt_test_util.h"
#include "billing/receipt/verify.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Problem(absl::string_view file, const ReceiptKeys& keys) {
  return std::string(VerifyReceipts(file, keys).status().message());
}

TEST(Ed25519, AnswersTheExamplesOfRfc8032) {
  const struct {
    const char *seed, *public_key, *message, *signature;
  } cases[] = {{"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5"
                "f0595bbe246551"
                "41438e7a100b"},
               {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15"
                "e9716ed28dc027"
                "beceea1ec40a"}};
  for (const auto& c : cases) {
    const Secret seed(absl::HexStringToBytes(c.seed));
    const std::string message = absl::HexStringToBytes(c.message);
    EXPECT_EQ(absl::BytesToHexString(Ed25519PublicKey(seed)), c.public_key);
    EXPECT_EQ(absl::BytesToHexString(Ed25519Sign(seed, message)), c.signature);
    EXPECT_TRUE(Ed25519Verify(absl::HexStringToBytes(c.public_key), message, absl::HexStringToBytes(c.signature)));
    EXPECT_FALSE(
        Ed25519Verify(absl::HexStringToBytes(c.public_key), message + "x", absl::HexStringToBytes(c.signature)));
  }
  EXPECT_FALSE(Ed25519Verify("short", "", std::string(64, 'x')));
}

TEST(Receipt, SaysWhatTheRequestCost) {
  ReceiptMaker maker(1);
  ReceiptFacts facts = maker.RandomFacts();
  facts.correction = false;
  facts.model = "gantry-demo";
  facts.output_tokens = 120;
  facts.cost_pico = 1'234'500'000;
  facts.output_digest = TokenDigest(std::string(32, 'n'), {1, 2, 3});
  const std::string document = maker.Next(facts, true);
  absl::StatusOr<std::vector<VerifiedLine>> lines = VerifyReceipts(document + "\n", maker.Keys());
  ASSERT_TRUE(lines.ok()) << lines.status();
  ASSERT_EQ(lines->size(), 1u);
  const nlohmann::json& receipt = lines->front().receipt;
  EXPECT_EQ(receipt["model"], "gantry-demo");
  EXPECT_EQ(receipt["output_tokens"], 120);
  EXPECT_EQ(receipt["cost_pico"], "1234500000");
  EXPECT_EQ(receipt["request_id"], facts.request_id.ToHex());
  EXPECT_EQ(receipt["number"], "1");
  EXPECT_EQ(lines->front().root["day"], "2026-11-10");
}

TEST(Receipt, DigestsAreOfTheNonceAndLittleEndianIds) {
  const std::string nonce(32, '\x11');
  EXPECT_EQ(TokenDigest(nonce, {1, 0x01020304}), Sha256(nonce + std::string("\1\0\0\0\4\3\2\1", 8)));
  EXPECT_EQ(TokenDigest(nonce, {}), Sha256(nonce));
}

TEST(Receipt, RandomAndEdgeValuesAreVerified) {
  ReceiptMaker maker(2);
  std::string file;
  int made = 0;
  for (const ReceiptFacts& facts : maker.EdgeFacts()) absl::StrAppend(&file, maker.Next(facts, made++ % 3 == 0), "\n");
  for (; made < 300; ++made) absl::StrAppend(&file, maker.Next(maker.RandomFacts(), made % 3 == 0), "\n");
  absl::StatusOr<std::vector<VerifiedLine>> lines = VerifyReceipts(file, maker.Keys());
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_EQ(lines->size(), 300u);
}

TEST(Receipt, FactsThatCannotBeTrueGetNone) {
  ReceiptMaker maker(3);
  const struct {
    const char* says;
    std::function<void(ReceiptFacts*)> change;
  } cases[] = {
      {"output_tokens is -1", [](ReceiptFacts* f) { f->output_tokens = -1; }},
      {"input_tokens is 9007199254740992", [](ReceiptFacts* f) { f->input_tokens = kCanonicalIntegerMax + 1; }},
      {"ended_us is -1", [](ReceiptFacts* f) { f->ended_us = -1; }},
      {"model is not UTF-8", [](ReceiptFacts* f) { f->model = "\xff"; }},
      {"model is not UTF-8", [](ReceiptFacts* f) { f->model = ""; }},
      {"plan_version_hash", [](ReceiptFacts* f) { f->plan_version_hash = "x"; }},
      {"digest", [](ReceiptFacts* f) { f->prompt_digest = "x"; }},
      {"currency", [](ReceiptFacts* f) { f->currency = "EURO"; }}};
  for (const auto& c : cases) {
    ReceiptFacts facts = maker.EdgeFacts()[0];
    c.change(&facts);
    ReceiptChain chain;
    const absl::StatusOr<std::string> body = NextReceiptBody(facts, "k", &chain);
    EXPECT_TRUE(absl::IsDataLoss(body.status()));
    EXPECT_THAT(std::string(body.status().message()), HasSubstr(c.says));
    EXPECT_EQ(chain.number, 0) << "the chain stays where it was";
  }
}

// Whatever bit of a receipt file changes, the file is refused. Every byte loses one bit here, all eight in a long run.
TEST(Receipt, NoBitCanBeFlipped) {
  ReceiptMaker maker(4);
  const ReceiptKeys keys = maker.Keys();
  std::string file = maker.Next(maker.EdgeFacts()[12], true) + "\n";
  file += maker.Next(maker.RandomFacts(), false) + "\n";
  ASSERT_EQ(Problem(file, keys), "");
  const size_t step = engine::LongTests() ? 1 : 7;  // of bits: another one of each byte
  for (size_t at = 0; at < 8 * file.size(); at += step) {
    file[at / 8] = static_cast<char>(file[at / 8] ^ (1 << at % 8));
    EXPECT_THAT(Problem(file, keys), StartsWith("line ")) << "byte " << at / 8 << " bit " << at % 8;
    file[at / 8] = static_cast<char>(file[at / 8] ^ (1 << at % 8));
  }
}

TEST(Receipt, ErrorsNameTheStepThatFails) {
  ReceiptMaker maker(5), other(6);
  const std::string document = maker.Next(maker.EdgeFacts()[0], true);
  const auto replaced = [&](absl::string_view from, absl::string_view to) {
    const std::string changed = absl::StrReplaceAll(document, {{from, to}});
    EXPECT_NE(changed, document) << from;
    return changed;
  };
  // Signed by the house, and still not what the format allows.
  const auto signed_again = [&](const std::function<void(nlohmann::json*)>& change) {
    nlohmann::json parsed = *ParseCanonicalObject(document);
    change(&parsed);
    if (parsed.contains("receipt")) {
      parsed["signature"] = absl::BytesToHexString(maker.Sign(Canonical(parsed["receipt"])));
    }
    return Canonical(parsed);
  };
  const struct {
    std::string file;
    const char* says;
  } cases[] = {
      {"", "line 1: json: expected an object"},
      {document + "\n\n", "line 2: json: expected an object"},
      {document + "\r\n", "line 1: canonical: byte"},
      {replaced("\"currency\":\"EUR\"", "\"currency\":\"USD\""), "line 1: signature: does not fit the receipt"},
      {replaced("\"currency\":\"EUR\"", "\"currency\":\"eur\""), "line 1: receipt.currency: expected an ISO 4217 code"},
      {replaced("\"version\":1}", "\"version\":2}"), "line 1: receipt.version: expected 1"},
      {replaced("\"type\":\"gantry.receipt\"", "\"type\":\"gantry.invoice\""),
       "line 1: receipt.type: expected gantry."},
      {replaced("\"signature\":", "\"stamp\":"), "line 1: stamp: is not a member"},
      {replaced("\"kind\":\"usage\"", "\"kind\":\"gift\""), "line 1: receipt.kind: expected usage or correction"},
      {replaced(maker.key().key_id, other.key().key_id), "line 1: receipt.key_id: no key "},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["note"] = "x"; }),
       "line 1: receipt.note: is not a member of this format"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"].erase("model"); }), "line 1: receipt.model: is missing"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["output_tokens"] = -1; }),
       "line 1: receipt.output_tokens: below zero"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["number"] = "2"; }), "line 1: receipt.previous: zeros"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["cost_pico"] = "01"; }), "line 1: receipt.cost_pico: exp"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["cost_pico"] = "9223372036854775808"; }),
       "line 1: receipt.cost_pico: exp"},
      {signed_again([](nlohmann::json* d) { (*d)["receipt"]["model"] = "another"; }),
       "line 1: proof.path: does not lead"},
      {signed_again([](nlohmann::json* d) { (*d)["proof"]["index"] = 1 << 20; }), "line 1: proof.index: lies beyond"},
      {signed_again([](nlohmann::json* d) { (*d)["proof"]["path"].erase(0); }), "line 1: proof.path: its length"},
      {signed_again([](nlohmann::json* d) { (*d)["proof"]["root"]["day"] = "2026-11-11"; }),
       "line 1: proof.root_signature: does not fit the proof.root"},
  };
  for (const auto& c : cases) EXPECT_THAT(Problem(c.file, maker.Keys()), StartsWith(c.says));
  EXPECT_THAT(Problem(document, other.Keys()), StartsWith("line 1: receipt.key_id: no key "));
}

TEST(Receipt, LinesOfAFileMustFollowEachOther) {
  ReceiptMaker maker(7), fork(7);
  std::vector<std::string> lines;
  for (int i = 0; i < 4; ++i) lines.push_back(maker.Next(maker.RandomFacts(), true));
  // The same house signs another second receipt: two histories for one buyer.
  fork.Next(fork.RandomFacts(), true);
  ReceiptFacts other = fork.RandomFacts();
  other.cost_pico = 1;
  const std::string second = fork.Next(other, false), third = fork.Next(fork.RandomFacts(), false);
  const ReceiptKeys keys = maker.Keys();
  const auto problem = [&](const std::vector<std::string>& file) {
    std::string text;
    for (const std::string& line : file) absl::StrAppend(&text, line, "\n");
    return Problem(text, keys);
  };
  EXPECT_EQ(problem(lines), "");
  EXPECT_EQ(problem({lines[3], lines[1], lines[0], lines[1]}), "") << "any order, gaps, repeats";
  EXPECT_EQ(problem({lines[0], second, third}), "");
  EXPECT_EQ(problem({lines[0], lines[1], second}), "line 3: receipt.number: 2 is also that of another in line 2");
  EXPECT_EQ(problem({lines[1], third}), "line 2: receipt.previous: is not the hash of number 2 in line 1");
  EXPECT_EQ(problem({third, lines[1]}), "line 2: receipt.previous: of number 3 in line 1 is not the hash of this");
}

TEST(Receipt, PublishedRootsAreLinesToo) {
  ReceiptMaker maker(8);
  const std::string receipt = maker.Next(maker.RandomFacts(), true);
  const std::string root = maker.last_root_body();
  const std::string line = RootDocument(root, maker.Sign(root));
  EXPECT_EQ(Problem(absl::StrCat(line, "\n", receipt, "\n"), maker.Keys()), "");
  // The proof of a second root of the same number, made by the same key.
  ReceiptMaker twin(8);
  twin.RandomFacts();
  const std::string contradiction = twin.Next(twin.RandomFacts(), true);
  EXPECT_THAT(Problem(absl::StrCat(line, "\n", contradiction), maker.Keys()),
              StartsWith("line 2: proof.root.number: 1 is also that of another in line 1"));
}

TEST(ReceiptKeys, AreEndorsedByTheKeyBefore) {
  const Secret first(std::string(32, '1')), second(std::string(32, '2')), stranger(std::string(32, '3'));
  const auto entry = [](const Secret& seed, const Secret& endorser) {
    const std::string key = Ed25519PublicKey(seed), by = ReceiptKeyId(Ed25519PublicKey(endorser));
    return PublicReceiptKey{ReceiptKeyId(key), key, 5, by, Ed25519Sign(endorser, ReceiptKeyBody(key, 5, by))};
  };
  const auto problem = [](std::vector<PublicReceiptKey> keys) {
    return std::string(ReceiptKeys::Parse(ReceiptKeysFile(keys)).status().message());
  };
  const PublicReceiptKey one = entry(first, first), two = entry(second, first);
  EXPECT_EQ(problem({one, two}), "");
  EXPECT_EQ(problem({one, entry(second, second)}), "") << "the key before was lost";
  EXPECT_EQ(problem({}), "keys: the file holds none");
  EXPECT_EQ(problem({two}), "keys[0].endorsed_by: names neither an earlier key nor itself");
  PublicReceiptKey forged = two;
  forged.endorsement = Ed25519Sign(stranger, "x");
  EXPECT_THAT(problem({one, forged}), StartsWith("keys[1].endorsement: was not made by key "));
  forged = two;
  forged.created_us = 6;
  EXPECT_THAT(problem({one, forged}), StartsWith("keys[1].endorsement: was not made by key "));
  forged = two;
  forged.public_key = one.public_key;
  EXPECT_EQ(problem({one, forged}), "keys[1].key_id: is not the hash of the public key");
  const std::string file = ReceiptKeysFile({one});
  for (const char* created : {"-1", "9007199254740992", "18446744073709551615", "1e99", "\"5\"", "true"}) {
    const std::string changed =
        absl::StrReplaceAll(file, {{"\"created_us\": 5", absl::StrCat("\"created_us\": ", created)}});
    EXPECT_THAT(std::string(ReceiptKeys::Parse(changed).status().message()),
                StartsWith("keys[0].created_us: expected"));
  }
  EXPECT_THAT(std::string(ReceiptKeys::Parse("{}").status().message()), HasSubstr("gantry receipt keys"));
  EXPECT_THAT(std::string(ReceiptKeys::Parse("nonsense").status().message()), HasSubstr("gantry receipt keys"));
}

}  // namespace
}  // namespace gantry::billing
