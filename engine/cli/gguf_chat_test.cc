// A GGUF file is a whole model: weights, tokenizer and chat template. Chatting through it needs nothing beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/cli/commands.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/write_model.h"

namespace gantry::engine::cli {
namespace {

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

class GgufChatTest : public testing::Test {
 protected:
  GgufChatTest() : directory_(absl::StrCat(testing::TempDir(), "/gantry_gguf_chat_test_", getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~GgufChatTest() override { std::filesystem::remove_all(directory_); }

  // The demo model in a directory that holds nothing else.
  std::string WriteDemo(const std::string& type, bool with_template) const {
    make_model::GgufPlan plan = make_model::PlanGguf(make_model::OpenCheckpoint(kDemo).value(), type).value();
    int64_t vocab_rows = 0;
    for (const make_model::GgufTensor& tensor : plan.tensors) {
      if (tensor.name == "token_embd.weight") vocab_rows = tensor.source.rows();
    }
    EXPECT_TRUE(make_model::AddTokenizer(kDemo, vocab_rows, &plan).ok());
    if (!with_template)
      std::erase_if(plan.keys, [](const auto& key) { return key.first == "tokenizer.chat_template"; });
    const std::string path = directory_ + "/" + type + ".gguf";
    EXPECT_TRUE(make_model::WriteGguf(plan, path, 1).ok());
    return path;
  }

  struct Reply {
    absl::Status status;
    nlohmann::json json;
  };
  Reply Chat(const std::string& model) const {
    const std::string path = directory_ + "/chat.json";
    std::ofstream(path)
        << R"([{"role":"system","content":"Answer briefly."},{"role":"user","content":"What is 2 + 2?"}])";
    GenerateOptions options;
    options.chat = path;
    options.max_tokens = 24;
    options.sampling.temperature = 0;
    options.json = true;
    testing::internal::CaptureStdout();
    const absl::Status status = RunGenerate({.model = model, .threads = 1}, options);
    const std::string out = testing::internal::GetCapturedStdout();
    return {status, nlohmann::json::parse(out, nullptr, /*allow_exceptions=*/false)};
  }

  std::string directory_;
};

TEST_F(GgufChatTest, TheFileAloneAnswersAsItsDirectoryDoes) {
  const Reply expected = Chat(kDemo), reply = Chat(WriteDemo("bf16", /*with_template=*/true));
  ASSERT_TRUE(expected.status.ok()) << expected.status;
  ASSERT_TRUE(reply.status.ok()) << reply.status;
  EXPECT_EQ(reply.json["tokens"], expected.json["tokens"]);
  EXPECT_EQ(reply.json["text"], expected.json["text"]);
  EXPECT_EQ(reply.json["stats"]["prompt_tokens"], expected.json["stats"]["prompt_tokens"]);
  EXPECT_GT(reply.json["text"].get<std::string>().size(), 0u);
  std::printf("%s\n", reply.json["text"].dump().c_str());
}

TEST_F(GgufChatTest, AFileWithoutATemplateSaysSo) {
  const Reply reply = Chat(WriteDemo("bf16", /*with_template=*/false));
  EXPECT_EQ(reply.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(reply.status.message()), testing::HasSubstr("has no chat template"));
}

}  // namespace
}  // namespace gantry::engine::cli
