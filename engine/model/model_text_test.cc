#include "engine/model/model_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/format/gguf_header.h"
#include "engine/model/gguf_tokens.h"
#include "engine/text/tokenizer.h"

namespace gantry::engine {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kRoot = GANTRY_SOURCE_DIR;

// A tokenizer.json's content as GGUF keys.
struct TokenKeys {
  std::string model = "gpt2", pre = "qwen35";
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  std::function<void(GgufHeader*)> more = [](GgufHeader*) {};

  static TokenKeys Demo() {
    const json root = json::parse(std::ifstream(kRoot + "/models/demo/tokenizer.json"));
    TokenKeys keys;
    keys.tokens.resize(4100, "[PAD]");  // rows beyond the tokenizer
    keys.types.resize(keys.tokens.size(), 5);
    for (const auto& [text, id] : root["model"]["vocab"].items()) {
      keys.tokens[id] = text;
      keys.types[id] = 1;
    }
    for (const json& added : root["added_tokens"]) {
      keys.tokens[added["id"]] = added["content"];
      keys.types[added["id"]] = added["special"] ? 3 : 4;
    }
    for (const json& merge : root["model"]["merges"]) {
      keys.merges.push_back(merge.is_string()
                                ? merge.get<std::string>()
                                : absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
    }
    return keys;
  }

  std::string Bytes() const {
    GgufHeader header;
    header.SetString("general.architecture", "qwen35moe");
    header.SetString("tokenizer.ggml.model", model);
    if (!pre.empty()) header.SetString("tokenizer.ggml.pre", pre);
    header.SetStrings("tokenizer.ggml.tokens", tokens);
    header.SetI32s("tokenizer.ggml.token_type", types);
    header.SetStrings("tokenizer.ggml.merges", merges);
    more(&header);
    return header.Bytes();
  }
};

absl::StatusOr<std::string> JsonOf(const TokenKeys& keys) {
  const std::string bytes = keys.Bytes();
  const auto gguf = ParseGguf(bytes, "m.gguf");
  if (!gguf.ok()) return gguf.status();
  return GgufTokenizerJson(gguf->keys);
}

TEST(ModelTextTest, TokenizerOfAGgufFileEncodesLikeTheTokenizerJsonItCameFrom) {
  const auto text = JsonOf(TokenKeys::Demo());
  ASSERT_TRUE(text.ok()) << text.status();
  const auto tokenizer = text::Tokenizer::FromJson(*text, "m.gguf").value();
  const auto original = text::Tokenizer::FromFile(kRoot + "/models/demo/tokenizer.json").value();
  EXPECT_EQ(tokenizer->size(), original->size()) << "unused rows stand for nothing";
  for (TokenId id = 0; id < original->size(); ++id) {
    ASSERT_EQ(tokenizer->TokenBytes(id), original->TokenBytes(id)) << id;
    ASSERT_EQ(tokenizer->IsSpecial(id), original->IsSpecial(id)) << id;
  }
  int compared = 0;
  for (const json& row : json::parse(std::ifstream(kRoot + "/tests/data/oracles/tok_demo_oracle.json"))) {
    const auto words = row["text"].get<std::string>();
    const auto expected = row["special_ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer->Encode(words, /*parse_special=*/true).value(), expected) << words;
    ++compared;
  }
  EXPECT_EQ(compared, 238);
}

TEST(ModelTextTest, BeginOfTextTokenIsAskedForByKeyOrByLlama3) {
  const auto prefix = [](const TokenKeys& keys) {
    return text::Tokenizer::FromJson(JsonOf(keys).value(), "m.gguf").value()->prefix();
  };
  TokenKeys keys = TokenKeys::Demo();
  EXPECT_THAT(prefix(keys), ElementsAre());
  keys.more = [](GgufHeader* header) { header->SetU32("tokenizer.ggml.bos_token_id", 4087); };
  EXPECT_THAT(prefix(keys), ElementsAre());
  keys.pre = "llama-bpe";
  EXPECT_THAT(prefix(keys), ElementsAre(4087));
  keys.pre = "qwen35";
  keys.more = [](GgufHeader* header) {
    header->SetU32("tokenizer.ggml.bos_token_id", 4087);
    header->SetBool("tokenizer.ggml.add_bos_token", true);
  };
  EXPECT_THAT(prefix(keys), ElementsAre(4087));
}

TEST(ModelTextTest, StopIdsAreTheNamedOnesAndControlTokensThatEndATurn) {
  TokenKeys keys = TokenKeys::Demo();
  keys.more = [](GgufHeader* header) { header->SetU32("tokenizer.ggml.eos_token_id", 4089); };
  const std::string bytes = keys.Bytes();
  const Gguf gguf = ParseGguf(bytes, "m.gguf").value();
  EXPECT_THAT(GgufStopIds(gguf.keys, 4096).value(), ElementsAre(4089, 4087));  // <|im_end|>, <|endoftext|>
  EXPECT_THAT(std::string(GgufStopIds(gguf.keys, 4000).status().message()),
              HasSubstr("`tokenizer.ggml.eos_token_id`: expected an integer in [0, 3999], found 4089"));
}

TEST(ModelTextTest, UnusableTokenizersAreRefusedNamingTheKey) {
  const struct {
    const char* what;
    std::function<void(TokenKeys&)> change;
    const char* message;
  } rows[] = {
      {"another model", [](TokenKeys& k) { k.model = "llama"; },
       "`tokenizer.ggml.model`: expected gpt2 (byte-level BPE), found llama"},
      {"unknown pre-tokeniser", [](TokenKeys& k) { k.pre = "klingon"; },
       "`tokenizer.ggml.pre`: pre-tokeniser `klingon` is not supported; supported are: deepseek-llm"},
      {"types of another length", [](TokenKeys& k) { k.types.pop_back(); },
       "`tokenizer.ggml.token_type`: expected 4100 entries (tokenizer.ggml.tokens), found 4099"},
      {"unknown type", [](TokenKeys& k) { k.types[3] = 7; },
       "`tokenizer.ggml.token_type`: expected integers in [0, 6]"},
      {"token twice", [](TokenKeys& k) { k.tokens[300] = k.tokens[301]; },
       "`tokenizer.ggml.tokens`: [301]: expected each text once"},
      {"broken UTF-8", [](TokenKeys& k) { k.tokens[300] = "\xff"; },
       "`tokenizer.ggml.tokens`: [300]: expected valid UTF-8"},
      {"broken UTF-8 in a merge", [](TokenKeys& k) { k.merges[5] = "\xff a"; },
       "`tokenizer.ggml.merges`: [5]: expected valid UTF-8"},
      {"begin of text that is not there",
       [](TokenKeys& k) { k.more = [](GgufHeader* header) { header->SetBool("tokenizer.ggml.add_bos_token", true); }; },
       "key `tokenizer.ggml.bos_token_id` is missing"},
  };
  for (const auto& row : rows) {
    TokenKeys keys = TokenKeys::Demo();
    row.change(keys);
    const absl::Status status = JsonOf(keys).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("m.gguf: ", row.message))) << row.what;
  }
}

TEST(ModelTextTest, DirectoriesAndFilesGiveTheSameKindOfText) {
  const ModelText demo = ReadModelText(kRoot + "/models/demo").value();
  EXPECT_EQ(demo.tokenizer_json, ReadSmallFile(kRoot + "/models/demo/tokenizer.json", 1 << 24).value());
  EXPECT_THAT(demo.chat_template, HasSubstr("<|im_start|>"));
  EXPECT_EQ(demo.sampling.temperature, 0.7);
  EXPECT_EQ(demo.sampling.top_k, 20);

  TokenKeys keys = TokenKeys::Demo();
  keys.more = [&](GgufHeader* header) {
    header->SetString("tokenizer.chat_template", demo.chat_template);
    header->SetF32("general.sampling.temp", 0.5f);
    header->SetU32("general.sampling.top_k", 40);
  };
  const std::string path = absl::StrCat(testing::TempDir(), "/gantry_model_text_test_", getpid(), ".gguf");
  std::ofstream(path, std::ios::binary) << keys.Bytes();
  const auto text = ReadModelText(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->chat_template, demo.chat_template);
  EXPECT_EQ(text->sampling.temperature, 0.5);
  EXPECT_EQ(text->sampling.top_k, 40);
  EXPECT_FALSE(text->sampling.top_p.has_value());
}

TEST(ModelTextTest, MissingFilesAreNamed) {
  EXPECT_THAT(std::string(ReadModelText("/nonexistent").status().message()), HasSubstr("/nonexistent/tokenizer.json"));
  EXPECT_THAT(std::string(ReadModelText("/nonexistent.gguf").status().message()), HasSubstr("/nonexistent.gguf"));
}

}  // namespace
}  // namespace gantry::engine
