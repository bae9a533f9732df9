// From tokens to what the tenant reads: stop strings, reasoning and tool calls, and that none of it depends on how the
// text was cut into pieces.
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"
#include "gateway/api/choice_decoder.h"
#include "gateway/api/output_parser.h"
#include "gateway/api/stop_matcher.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::gateway {
namespace {

// ---- stop strings ----

struct StopRow {
  std::vector<std::string> stops;
  std::string text;
  std::string shown;
  bool matched;
};

std::string RunMatcher(const StopRow& row, size_t piece, bool* matched) {
  StopMatcher matcher(row.stops);
  std::string out;
  for (size_t at = 0; at < row.text.size(); at += piece) out += matcher.Push(row.text.substr(at, piece));
  out += matcher.Flush();
  *matched = matcher.matched();
  return out;
}

TEST(StopMatcherTest, TheResultDoesNotDependOnThePieces) {
  const std::vector<StopRow> rows = {
      {{}, "anything", "anything", false},
      {{"END"}, "to the END of it", "to the ", true},
      {{"END"}, "to the EN", "to the EN", false},
      {{"END"}, "ENEND", "EN", true},
      {{"aab"}, "aaab", "a", true},
      {{"abc", "b"}, "xabc", "xa", true},  // the one that is complete first
      {{"bc", "abc"}, "xabc", "x", true},  // of two that end together the longer
      {{"\n\n"}, "a\nb\n\nc", "a\nb", true},
      {{"é"}, "caf\xc3\xa9 au lait", "caf", true},
      {{"xyz"}, "xyxyxyz", "xyxy", true},
  };
  for (const StopRow& row : rows) {
    for (size_t piece = 1; piece <= row.text.size(); ++piece) {
      bool matched = false;
      EXPECT_EQ(RunMatcher(row, piece, &matched), row.shown) << row.text << " in pieces of " << piece;
      EXPECT_EQ(matched, row.matched);
    }
  }
}

TEST(StopMatcherTest, NothingThatMayBecomeAMatchIsLetOut) {
  StopMatcher matcher({"</end>"});
  EXPECT_EQ(matcher.Push("text </e"), "text ");
  EXPECT_EQ(matcher.pending(), 3U);
  EXPECT_EQ(matcher.Push("nd"), "");
  EXPECT_EQ(matcher.Push("less"), "</endless");
}

// ---- reasoning and tool calls ----

std::string Show(const ParsedOutput& out) {
  std::string text = absl::StrCat("[", out.reasoning, "][", out.content, "]");
  for (const ToolCall& call : out.tool_calls) absl::StrAppend(&text, call.name, call.arguments);
  return text;
}

struct ParserRow {
  OutputParser::Options options;
  std::string text;
  std::string shown;
};

TEST(OutputParserTest, TheResultDoesNotDependOnThePieces) {
  static const Json schemas = Json::parse(
      R"([{"function":{"name":"f","parameters":{"properties":{"zip":{"type":"string"},"n":{"type":"integer"}}}}}])");
  const OutputParser::Options plain{}, thinks{.reasoning = true},
      thinking{.reasoning = true, .starts_in_reasoning = true}, tools{.tools = true},
      typed{.tools = true, .schemas = &schemas}, both{.reasoning = true, .tools = true};
  const std::vector<ParserRow> rows = {
      {plain, "<think>a</think>b<tool_call>", "[][<think>a</think>b<tool_call>]"},
      {thinks, "<think>\nwhy\n</think>\n\nbecause", "[why][because]"},
      {thinks, "no thoughts <think>", "[][no thoughts <think>]"},
      {thinking, "still at it</think> done", "[still at it][done]"},
      {thinking, "never ends </thi", "[never ends </thi][]"},
      {tools, "a  <tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>\n", "[][a]f{\"x\":1}"},
      {tools, "<tool_call>{\"name\":\"f\"}</tool_call><tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
       "[][]f{}g{}"},
      {tools, "<tool_call>not json</tool_call>", "[][<tool_call>not json</tool_call>]"},
      {tools, "<tool_call>{\"name\":7}</tool_call> x", "[][<tool_call>{\"name\":7}</tool_call> x]"},
      {tools, "<tool_call>{\"name\":\"f\",\"arguments\":{", "[][<tool_call>{\"name\":\"f\",\"arguments\":{]"},
      {tools, "ends with space \n", "[][ends with space \n]"},
      {typed,
       "<tool_call><function=f><parameter=zip>\n52062\n</parameter><parameter=n>\n7\n</parameter></function></"
       "tool_call>",
       "[][]f{\"zip\":\"52062\",\"n\":7}"},
      {both, "<think>hm</think>\n<tool_call>{\"name\":\"f\"}</tool_call>", "[hm][]f{}"},
  };
  for (const ParserRow& row : rows) {
    for (size_t piece = 1; piece <= row.text.size(); ++piece) {
      OutputParser parser(row.options);
      ParsedOutput out;
      for (size_t at = 0; at < row.text.size(); at += piece) parser.Push(row.text.substr(at, piece), &out);
      parser.Flush(&out);
      EXPECT_EQ(Show(out), row.shown) << row.text << " in pieces of " << piece;
    }
  }
}

// ---- the whole decoder on a real tokenizer ----

class ChoiceDecoderTest : public ::testing::Test {
 protected:
  ChoiceDecoderTest() {
    auto tokenizer = engine::text::Tokenizer::FromFile(GANTRY_SOURCE_DIR "/models/demo/tokenizer.json");
    EXPECT_TRUE(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
  }
  std::vector<uint32_t> Ids(const std::string& text) const {
    auto ids = tokenizer_->Encode(text, /*parse_special=*/true);
    return std::vector<uint32_t>(ids->begin(), ids->end());
  }
  std::unique_ptr<engine::text::Tokenizer> tokenizer_;
};

TEST_F(ChoiceDecoderTest, TokensWhoseTextIsOutAreCompleteAndNoOthers) {
  ChoiceDecoder decoder(tokenizer_.get(), {});
  uint64_t pushed = 0;
  std::string shown;
  // The emoji's bytes are several tokens: none is complete before the last.
  for (const uint32_t id : Ids("ab 😀 c")) {
    ChoiceDelta delta;
    decoder.Push(id, nullptr, &delta);
    ++pushed;
    shown += delta.text.content;
    std::string of_complete;
    for (const uint32_t one : Ids("ab 😀 c")) {
      if (of_complete.size() >= shown.size()) break;
      of_complete += std::string(tokenizer_->TokenBytes(static_cast<int>(one)));
    }
    EXPECT_EQ(decoder.tokens(), pushed);
    EXPECT_LE(decoder.complete(), pushed);
    if (decoder.complete() == pushed) {
      EXPECT_EQ(of_complete, shown);
    }
  }
  EXPECT_EQ(decoder.complete(), pushed);
  EXPECT_EQ(shown, "ab 😀 c");
}

TEST_F(ChoiceDecoderTest, AStopStringAcrossTokensHoldsBackWhatMayBelongToIt) {
  for (const std::string& text : {std::string("The quick brown fox"), std::string("naïve 😀 brown bear")}) {
    ChoiceDecoder decoder(tokenizer_.get(), {.stops = {"brown"}});
    ChoiceDelta all;
    uint64_t tokens = 0;
    for (const uint32_t id : Ids(text)) {
      decoder.Push(id, nullptr, &all);
      if (decoder.stopped()) break;
      ++tokens;
    }
    ASSERT_TRUE(decoder.stopped());
    EXPECT_EQ(decoder.tokens(), tokens + 1) << "the token that completed it counts, those after do not";
    ChoiceDelta after;
    decoder.Push(Ids("more")[0], nullptr, &after);
    decoder.Flush(&after);
    EXPECT_TRUE(after.empty());
    EXPECT_EQ(all.text.content, text.substr(0, text.find("brown")));
  }
}

TEST_F(ChoiceDecoderTest, StopIdsAreHiddenAndCounted) {
  const auto end = static_cast<uint32_t>(*tokenizer_->Find("<|im_end|>"));
  ChoiceDecoder decoder(tokenizer_.get(), {.stop_ids = {end}});
  ChoiceDelta all;
  for (const uint32_t id : Ids("Hi")) decoder.Push(id, nullptr, &all);
  TokenLogprobs logprobs;
  decoder.Push(end, &logprobs, &all);
  decoder.Flush(&all);
  EXPECT_EQ(all.text.content, "Hi");
  EXPECT_TRUE(all.logprobs.empty());
  EXPECT_EQ(decoder.tokens(), Ids("Hi").size() + 1);
  EXPECT_EQ(decoder.complete(), decoder.tokens());
}

// Whatever ids a model samples: pieces put together are the whole, and every token is complete in the end.
TEST_F(ChoiceDecoderTest, RandomIdsDecodeTheSameInOneDeltaOrMany) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    ChoiceDecoder::Options options;
    options.parser = {.reasoning = round % 2 == 0, .tools = round % 3 == 0};
    if (round % 5 == 0) options.stops = {"e ", "\n\n"};
    ChoiceDecoder at_once(tokenizer_.get(), options), stepwise(tokenizer_.get(), options);
    ChoiceDelta whole;
    std::string content, reasoning;
    std::vector<uint32_t> ids(60);
    for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % static_cast<uint32_t>(tokenizer_->size()));
    uint64_t complete = 0;
    for (const uint32_t id : ids) {
      at_once.Push(id, nullptr, &whole);
      ChoiceDelta delta;
      stepwise.Push(id, nullptr, &delta);
      content += delta.text.content;
      reasoning += delta.text.reasoning;
      EXPECT_GE(stepwise.complete(), complete);
      complete = stepwise.complete();
    }
    ChoiceDelta last;
    at_once.Flush(&whole);
    stepwise.Flush(&last);
    EXPECT_EQ(content + last.text.content, whole.text.content);
    EXPECT_EQ(reasoning + last.text.reasoning, whole.text.reasoning);
    EXPECT_EQ(stepwise.tokens(), at_once.tokens());
    EXPECT_EQ(stepwise.complete(), stepwise.tokens());
  }
}

}  // namespace
}  // namespace gantry::gateway
