// Conversations of several turns through real templates: what a turn keeps is where the next one goes on.
#include "engine/text/cache_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"

namespace gantry::engine::text {
namespace {

using nlohmann::ordered_json;
using ::testing::SizeIs;

const std::string kRoot = GANTRY_SOURCE_DIR;

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

const Tokenizer& Demo() {
  static const Tokenizer* tokenizer = Tokenizer::FromFile(kRoot + "/models/demo/tokenizer.json").value().release();
  return *tokenizer;
}

ordered_json User(const std::string& content) {
  return {{"role", "user"}, {"content", content}};
}
ordered_json Answer(const std::string& reasoning, const std::string& content) {
  return {{"role", "assistant"}, {"reasoning_content", reasoning}, {"content", content}};
}
const ordered_json kSystem = {{"role", "system"}, {"content", "You are a patient teacher of arithmetic."}};
const ordered_json kTools = {
    {{"type", "function"}, {"function", {{"name", "add"}, {"parameters", {{"type", "object"}}}}}}};

struct Prompt {
  std::vector<TokenId> ids;
  std::vector<int> points;
};

class Chat {
 public:
  explicit Chat(const std::string& source, ordered_json tools = nullptr,
                ordered_json variables = ordered_json::object())
      : template_(ChatTemplate::Parse(source).value()), tools_(std::move(tools)), variables_(std::move(variables)) {}
  static std::string Named(const std::string& name) {
    return ReadText(kRoot + "/tests/data/oracles/templates/" + name + ".jinja");
  }

  Prompt Render(const ordered_json& messages) const {
    ChatTemplate::Input input;
    input.messages = &messages;
    if (!tools_.is_null()) input.tools = &tools_;
    input.variables = &variables_;
    const std::vector<Segment> segments = template_->Render(input).value();
    Prompt prompt;
    prompt.ids = Demo().Encode(segments).value();
    prompt.points = CachePoints(*template_, input, Demo(), segments, prompt.ids);
    return prompt;
  }

 private:
  std::unique_ptr<ChatTemplate> template_;
  ordered_json tools_, variables_;
};

size_t CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  const size_t size = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + size, b.begin()).first - a.begin();
}
std::string TextFrom(const std::vector<TokenId>& ids, size_t begin, size_t end) {
  return Demo().Decode(absl::MakeConstSpan(ids).subspan(begin, end - begin), /*skip_special=*/false);
}

// Three turns. The template of the demo model and Qwen3's both drop the reasoning of turns that are over, so the next
// prompt leaves this one's history (prompt and output) right behind its last message; up to there it repeats it, and
// what remains to be computed is the answer without its reasoning and the new question.
TEST(CachePointsTest, EachTurnGoesOnAtTheEndOfTheLastOnesLastMessage) {
  const struct {
    const char* name;
    ordered_json variables;
    std::string generation_prompt;
  } rows[] = {
      {"demo", {{"enable_thinking", true}}, "<|im_start|>assistant\n<think>\n"},
      {"demo", ordered_json::object(), "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
      {"qwen3", ordered_json::object(), "<|im_start|>assistant\n"},
      {"qwen3", {{"enable_thinking", false}}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
  };
  const std::string questions[] = {"What is 2 + 2?", "And doubled?", "Thank you. And halved?"};
  const std::string thoughts[] = {"Two and two are four.", "Twice four is eight."};
  const std::string answers[] = {"It is 4.", "That makes 8."};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name + row.variables.dump());
    const Chat chat(Chat::Named(row.name), nullptr, row.variables);
    ordered_json messages = {kSystem, User(questions[0])};
    Prompt last = chat.Render(messages);
    for (int turn = 0; turn < 2; ++turn) {
      ASSERT_THAT(last.points, SizeIs(2));
      const auto end_of_message = static_cast<size_t>(last.points[1]);
      EXPECT_EQ(TextFrom(last.ids, end_of_message, last.ids.size()), row.generation_prompt);

      messages.push_back(Answer(thoughts[turn], answers[turn]));
      messages.push_back(User(questions[turn + 1]));
      const Prompt next = chat.Render(messages);
      // All that the model has seen at the end of its turn.
      std::vector<TokenId> history = last.ids;
      std::string output = answers[turn] + "<|im_end|>";
      if (!absl::StrContains(row.generation_prompt, "</think>")) output = thoughts[turn] + "\n</think>\n\n" + output;
      if (!absl::StrContains(row.generation_prompt, "<think>")) output = "<think>\n" + output;
      const auto generated = Demo().Encode(output, /*parse_special=*/true).value();
      history.insert(history.end(), generated.begin(), generated.end());
      const size_t common = CommonPrefix(history, next.ids);
      EXPECT_GE(common, end_of_message);
      EXPECT_LE(common, last.ids.size()) << "of what was generated nothing is repeated";
      EXPECT_EQ(TextFrom(next.ids, end_of_message, next.ids.size()),
                "<|im_start|>assistant\n" + answers[turn] + "<|im_end|>\n<|im_start|>user\n" + questions[turn + 1] +
                    "<|im_end|>\n" + row.generation_prompt)
          << "only what is new has to be computed";
      std::printf("%s turn %d: %zu of %zu tokens cached, %zu new\n", row.name, turn + 2, end_of_message,
                  next.ids.size(), next.ids.size() - end_of_message);
      last = next;
    }
  }
}

// Within a turn (tool calls) Qwen3 keeps the reasoning: then all of the last prompt is repeated.
TEST(CachePointsTest, ToolResultsExtendThePromptThatAskedForThem) {
  const Chat chat(Chat::Named("qwen3"), kTools);
  ordered_json messages = {kSystem, User("What is 2 + 2?")};
  const Prompt asked = chat.Render(messages);
  ordered_json call = Answer("I add.", "");
  call["tool_calls"] = {{{"function", {{"name", "add"}, {"arguments", {{"a", 2}, {"b", 2}}}}}}};
  messages.push_back(call);
  messages.push_back({{"role", "tool"}, {"content", "4"}});
  const Prompt told = chat.Render(messages);
  EXPECT_EQ(CommonPrefix(asked.ids, told.ids), asked.ids.size());
  ASSERT_THAT(told.points, SizeIs(2));
  EXPECT_EQ(told.points[0], asked.points[0]);
  EXPECT_GT(told.points[1], asked.points[1]);
}

TEST(CachePointsTest, ConversationsOfOneApplicationShareTheEndOfSystemAndTools) {
  for (const char* name : {"demo", "qwen3", "deepseek_v3"}) {
    SCOPED_TRACE(name);
    const Chat chat(Chat::Named(name), kTools);
    const Prompt one = chat.Render({kSystem, User("apples and pears")});
    const Prompt other = chat.Render({kSystem, User("What is 2 + 2?"), Answer("", "4"), User("Are you sure?")});
    ASSERT_THAT(one.points, SizeIs(2));
    ASSERT_THAT(other.points, SizeIs(2));
    EXPECT_EQ(one.points[0], other.points[0]);
    EXPECT_GE(CommonPrefix(one.ids, other.ids), static_cast<size_t>(one.points[0]));
    EXPECT_TRUE(absl::StrContains(TextFrom(one.ids, 0, one.points[0]), "patient teacher"));
    EXPECT_FALSE(absl::StrContains(TextFrom(one.ids, 0, one.points[0]), "apples"));
  }
}

TEST(CachePointsTest, PlacesThatCannotBeToldAreLeftOut) {
  const struct {
    const char* what;
    const char* source;
    size_t points;
  } rows[] = {
      {"nothing is said about the generation prompt", "{{ messages[0].content }}", 0},
      {"no system part",
       "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}", 1},
      {"the template refuses a conversation without a prompt for the model",
       "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}>", 0},
  };
  for (const auto& row : rows) {
    EXPECT_THAT(Chat(row.source).Render(ordered_json::array({User("What is 2 + 2?")})).points, SizeIs(row.points))
        << row.what;
  }
}

// A cut in the middle of what the tokenizer takes as one piece.
TEST(CachePointsTest, TokensThatReachAcrossThePointAreNotPartOfIt) {
  const Chat chat("{{ messages[0].content }}{% if add_generation_prompt %}lo{% endif %}");
  const Prompt prompt = chat.Render(ordered_json::array({User("Say hel")}));
  for (const int point : prompt.points) {
    EXPECT_EQ(TextFrom(prompt.ids, 0, point),
              std::string("Say hello").substr(0, TextFrom(prompt.ids, 0, point).size()));
    EXPECT_LE(TextFrom(prompt.ids, 0, point).size(), std::string("Say hel").size());
  }
}

}  // namespace
}  // namespace gantry::engine::text
