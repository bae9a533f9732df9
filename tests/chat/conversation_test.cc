// Conversations of several turns, from messages to the engine and back: each turn computes what is new, exactly what
// the cache's rules leave to compute, and the answers are those of an engine without a prefix cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/engine_test_util.h"
#include "engine/text/cache_points.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "gateway/api/output_parser.h"

namespace gantry::engine {
namespace {

using nlohmann::ordered_json;
using text::ChatTemplate;
using text::Tokenizer;

constexpr int kAnswerTokens = 24;
const std::string kRoot = GANTRY_SOURCE_DIR;

const Tokenizer& Demo() {
  static const Tokenizer* tokenizer = Tokenizer::FromFile(kRoot + "/models/demo/tokenizer.json").value().release();
  return *tokenizer;
}

std::unique_ptr<ChatTemplate> TemplateNamed(const std::string& name) {
  std::ifstream file(absl::StrCat(kRoot, "/tests/data/oracles/templates/", name, ".jinja"), std::ios::binary);
  return ChatTemplate::Parse(std::string((std::istreambuf_iterator<char>(file)), {})).value();
}

std::unique_ptr<Engine> StartDemo(bool prefix_cache) {
  EngineOptions options;
  options.model_path = kRoot + "/models/demo";
  options.max_context = 1024;
  options.max_sequences = 2;
  options.threads = 2;
  options.cache_bytes = 64 << 20;
  options.prefix_cache = prefix_cache;
  options.vocab_used = Demo().size();
  return Engine::Create(options).value();
}

int CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  const size_t size = std::min(a.size(), b.size());
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(size), b.begin()).first -
                          a.begin());
}
std::string TextFrom(const std::vector<TokenId>& ids, int begin) {
  return Demo().Decode(absl::MakeConstSpan(ids).subspan(begin), /*skip_special=*/false);
}
int PageStart(int position) {
  return position / kKvPageTokens * kKvPageTokens;
}

struct Turn {
  std::vector<TokenId> prompt;
  std::vector<int> cache_points;
  std::vector<TokenId> begun;   // output that the request brought along
  std::vector<TokenId> output;  // `begun` and what the engine wrote
  Counts counts;
  int64_t computed = 0;  // rows of prompt (and `begun`) that the engine ran
  std::string reasoning, content;

  int end_of_last_message() const { return cache_points.back(); }
};

// The tenant, who keeps the messages, and the gateway, which renders them and reads the answers.
class Conversation {
 public:
  Conversation(const ChatTemplate* chat_template, ordered_json variables, Engine* engine)
      : template_(chat_template), variables_(std::move(variables)), engine_(engine) {
    messages_.push_back({{"role", "system"},
                         {"content",
                          "You are a patient librarian who explains the meaning of English words. Answer in one "
                          "sentence, use plain words and do not make up anything that you do not know for certain. "
                          "When a word has several meanings, give the most common one first and say that there are "
                          "others. When you are thanked, be brief."}});
  }

  // The demo model was not taught to think: its thoughts come as output of an earlier attempt, which a request may
  // bring along, and it goes on from there.
  Turn Say(const std::string& question, const std::string& thoughts) {
    Turn turn;
    messages_.push_back({{"role", "user"}, {"content", question}});
    Render(&turn);
    turn.begun = Demo().Encode(thoughts, /*parse_special=*/false).value();

    Request request = MakeRequest(turn.prompt, static_cast<int>(turn.begun.size()) + kAnswerTokens);
    request.ids.insert(request.ids.end(), turn.begun.begin(), turn.begun.end());
    request.cache_points = turn.cache_points;
    request.sampling.stop_ids = engine_->card().spec.stop_ids;
    const int64_t computed = Settled().totals.prompt;
    const auto sink = std::make_shared<CollectingSink>(static_cast<int>(turn.begun.size()));
    EXPECT_TRUE(engine_->Submit(std::move(request), sink).ok());
    ++submitted_;
    const FinishEvent finish = sink->Wait();
    EXPECT_TRUE(finish.status.ok()) << finish.status;
    turn.counts = finish.counts;
    turn.computed = Settled().totals.prompt - computed;
    turn.output = turn.begun;
    for (const TokenId id : sink->ids()) turn.output.push_back(id);

    gateway::OutputParser parser({.reasoning = true, .starts_in_reasoning = starts_in_reasoning_});
    gateway::ParsedOutput parsed;
    parser.Push(Demo().Decode(turn.output, /*skip_special=*/true), &parsed);
    parser.Flush(&parsed);
    turn.reasoning = parsed.reasoning;
    turn.content = std::string(absl::StripAsciiWhitespace(parsed.content));
    messages_.push_back({{"role", "assistant"}, {"reasoning_content", turn.reasoning}, {"content", turn.content}});
    return turn;
  }

  // As many words more as it takes for the message to end `tokens` behind the beginning of a page.
  std::string UntilItEnds(int tokens, std::string question) {
    for (;; question += " please") {
      Turn turn;
      messages_.push_back({{"role", "user"}, {"content", question}});
      Render(&turn);
      messages_.erase(messages_.size() - 1);
      if (turn.end_of_last_message() % kKvPageTokens == tokens) return question;
    }
  }

 private:
  void Render(Turn* turn) {
    const ChatTemplate::Input input{.messages = &messages_, .variables = &variables_};
    const std::vector<text::Segment> segments = template_->Render(input).value();
    turn->prompt = Demo().Encode(segments).value();
    turn->cache_points = text::CachePoints(*template_, input, Demo(), segments, turn->prompt);
    starts_in_reasoning_ = segments.back().text.ends_with("<think>\n");
  }

  // Once the engine's figures hold everything that was submitted.
  EngineStats Settled() const {
    for (;;) {
      const EngineStats stats = engine_->Stats();
      if (std::accumulate(std::begin(stats.finished), std::end(stats.finished), int64_t{0}) == submitted_) return stats;
      std::this_thread::yield();
    }
  }

  const ChatTemplate* const template_;
  const ordered_json variables_;
  Engine* const engine_;
  ordered_json messages_ = ordered_json::array();
  bool starts_in_reasoning_ = false;
  int64_t submitted_ = 0;
};

// The rules by themselves (docs/design.md, "Caches"). The demo model carries states, so a prompt goes on from a
// snapshot: the furthest within what it has in common with an earlier turn that leaves a token to compute. Snapshots
// are at the page boundary at or before each cache point, before the last token of what was submitted, and before the
// last token that was read while decoding. The turns here are too short for further ones.
class CacheRules {
 public:
  int Reusable(const Turn& turn) const {
    int best = 0;
    for (const Entry& entry : entries_) {
      const int most = std::min(CommonPrefix(entry.read, turn.prompt), static_cast<int>(turn.prompt.size()) - 1);
      for (const int snapshot : entry.snapshots) best = snapshot <= most ? std::max(best, snapshot) : best;
    }
    return best;
  }

  void Remember(const Turn& turn) {
    Entry entry{.read = turn.prompt};
    // The last token was chosen and has not been read.
    entry.read.insert(entry.read.end(), turn.output.begin(), turn.output.end() - 1);
    const int submitted = static_cast<int>(turn.prompt.size() + turn.begun.size());
    for (const int point : turn.cache_points) entry.snapshots.insert(PageStart(point));
    entry.snapshots.insert(PageStart(submitted - 1));
    entry.snapshots.insert(PageStart(static_cast<int>(entry.read.size())));
    entries_.push_back(std::move(entry));
  }

 private:
  struct Entry {
    std::vector<TokenId> read;
    std::set<int> snapshots;
  };
  std::vector<Entry> entries_;
};

struct Row {
  const char* chat_template;
  ordered_json variables;
  std::string thoughts;           // before each answer
  std::string generation_prompt;  // what the template writes behind the last message
  bool answers_stay = false;      // the next prompt repeats what the model saw and wrote
};
void PrintTo(const Row& row, std::ostream* out) {
  *out << row.chat_template << " " << row.variables;
}
const std::string kThoughts = "The librarian looks the word up.\n</think>\n\n";
// Both templates drop the reasoning of turns that are over, and with it the empty reasoning of a generation prompt.
// Where there was none, the answer stands in the next prompt as it was written.
const Row kRows[] = {
    {"demo", {{"enable_thinking", true}}, kThoughts, "<|im_start|>assistant\n<think>\n"},
    {"demo", ordered_json::object(), "", "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
    {"qwen3", ordered_json::object(), "<think>\n" + kThoughts, "<|im_start|>assistant\n"},
    {"qwen3", ordered_json::object(), "", "<|im_start|>assistant\n", /*answers_stay=*/true},
    {"qwen3", {{"enable_thinking", false}}, "", "<|im_start|>assistant\n<think>\n\n</think>\n\n"},
};
const std::string kQuestions[] = {"What does the word river mean?", "And what does the word sea mean?",
                                  "Thank you. And the word ship?"};

class ConversationTest : public testing::TestWithParam<Row> {
 protected:
  const std::unique_ptr<ChatTemplate> template_ = TemplateNamed(GetParam().chat_template);
  const std::unique_ptr<Engine> engine_ = StartDemo(/*prefix_cache=*/true);
  const std::unique_ptr<Engine> plain_ = StartDemo(/*prefix_cache=*/false);
  Conversation chat_{template_.get(), GetParam().variables, engine_.get()};
  Conversation without_cache_{template_.get(), GetParam().variables, plain_.get()};
};

TEST_P(ConversationTest, EachTurnComputesWhatTheRulesLeaveAndAnswersAsWithoutACache) {
  CacheRules rules;
  for (const std::string& question : kQuestions) {
    SCOPED_TRACE(question);
    const Turn turn = chat_.Say(question, GetParam().thoughts);
    EXPECT_EQ(turn.counts.prompt, static_cast<int64_t>(turn.prompt.size()));
    EXPECT_EQ(turn.counts.cached, rules.Reusable(turn));
    EXPECT_EQ(turn.computed, static_cast<int64_t>(turn.prompt.size() + turn.begun.size()) - turn.counts.cached);
    rules.Remember(turn);

    const Turn same = without_cache_.Say(question, GetParam().thoughts);
    EXPECT_EQ(same.counts.cached, 0);
    EXPECT_EQ(same.computed, static_cast<int64_t>(same.prompt.size() + same.begun.size()));
    EXPECT_EQ(turn.output, same.output);
    EXPECT_EQ(turn.reasoning.empty(), GetParam().thoughts.empty());
    EXPECT_FALSE(turn.content.empty());
    std::printf("%lld of %zu tokens cached\n", static_cast<long long>(turn.counts.cached), turn.prompt.size());
  }
}

// What is computed of the next turn is the answer as history has it, the new question and the generation prompt, and
// what the last message has in a page that it does not fill: to the token nothing, where it ends with a page; most of a
// page, where what the template writes for the model begins in one page and ends in the next.
TEST_P(ConversationTest, OnlyTheNewTokensAndTheRestOfAPageAreComputed) {
  for (const int rest : {0, kKvPageTokens - 4}) {
    Turn last = chat_.Say(chat_.UntilItEnds(rest, kQuestions[0]), GetParam().thoughts);
    for (int i = 1; i < 3; ++i) {
      const std::string question = chat_.UntilItEnds(rest, kQuestions[i]);
      SCOPED_TRACE(question);
      const Turn turn = chat_.Say(question, GetParam().thoughts);
      const std::string answer = "<|im_start|>assistant\n" + last.content + "<|im_end|>\n";
      const std::string asked = "<|im_start|>user\n" + question + "<|im_end|>\n" + GetParam().generation_prompt;
      EXPECT_EQ(TextFrom(turn.prompt, last.end_of_last_message()), answer + asked);
      if (GetParam().answers_stay) {
        // Of the answer too, as much as is tokenised again as the model wrote it.
        EXPECT_GE(turn.counts.cached, last.end_of_last_message() - rest);
      } else {
        EXPECT_EQ(turn.counts.cached, last.end_of_last_message() - rest);
        const size_t fresh = Demo().Encode(answer + asked, /*parse_special=*/true).value().size();
        EXPECT_EQ(turn.counts.prompt - turn.counts.cached, static_cast<int64_t>(fresh) + rest);
        EXPECT_EQ(turn.computed, static_cast<int64_t>(fresh + turn.begun.size()) + rest);
      }
      last = turn;
    }
  }
}

std::string NameOf(const testing::TestParamInfo<Row>& row) {
  return absl::StrCat(row.param.chat_template, row.param.thoughts.empty() ? "" : "_thinking",
                      row.param.variables.empty() ? "" : "_with_enable_thinking");
}
INSTANTIATE_TEST_SUITE_P(Templates, ConversationTest, testing::ValuesIn(kRows), NameOf);

}  // namespace
}  // namespace gantry::engine
