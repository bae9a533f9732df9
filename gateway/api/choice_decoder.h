// Tokens of one choice -> what the tenant reads. Both renderings, streamed and whole, are made of the same deltas.
//
// Detokeniser, then stop strings, then reasoning and tool calls. The decoder knows of every token whether all of its
// text has come out: that is what "delivered" counts (R2). Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/text/detokenizer.h"
#include "gateway/api/output_parser.h"
#include "gateway/api/stop_matcher.h"

namespace gantry::gateway {

struct TokenLogprobs {
  std::string bytes;
  double logprob = 0;
  struct Top {
    std::string bytes;
    double logprob;
  };
  std::vector<Top> top;
};

struct ChoiceDelta {
  ParsedOutput text;
  std::vector<TokenLogprobs> logprobs;
  std::vector<uint32_t> ids;  // of the tokens that are complete with this delta; only when they are asked for
  bool empty() const { return text.empty() && logprobs.empty() && ids.empty(); }
};

class ChoiceDecoder {
 public:
  struct Options {
    std::vector<std::string> stops;
    std::vector<uint32_t> stop_ids;  // their text is not shown
    bool ids = false;                // deltas have the ids too
    OutputParser::Options parser;
  };
  // `tokenizer` outlives the decoder.
  ChoiceDecoder(const engine::text::Tokenizer* tokenizer, Options options);

  // One token and, when asked for, its logprobs. Adds to `out`. Nothing comes out after a stop string has matched.
  void Push(uint32_t id, TokenLogprobs* logprobs, ChoiceDelta* out);
  // The end of the choice: what was held back. `Push` may not follow.
  void Flush(ChoiceDelta* out);

  bool stopped() const { return stops_.matched(); }
  // Tokens pushed; after a stop string matched, tokens up to the one that completed it.
  uint64_t tokens() const { return tokens_; }
  // Of these, tokens whose whole text is in deltas given so far, or will never be shown.
  uint64_t complete() const { return tokens_ - waiting_.size(); }
  uint64_t reasoning_tokens() const { return reasoning_tokens_; }
  size_t tool_calls() const { return tool_calls_; }

 private:
  struct Waiting {
    size_t end;  // offset of the token's last byte in the text that entered the parser and what is before it
    uint32_t id = 0;
    bool has_logprobs = false;
    TokenLogprobs logprobs;
  };
  void Parse(const std::string& text, ChoiceDelta* out);
  void Release(bool all, ChoiceDelta* out);

  engine::text::Detokenizer detokenizer_;
  StopMatcher stops_;
  OutputParser parser_;
  const std::vector<uint32_t> stop_ids_;
  const bool ids_;
  std::deque<Waiting> waiting_;
  size_t text_bytes_ = 0;    // out of the detokeniser
  size_t parsed_bytes_ = 0;  // into the parser
  uint64_t tokens_ = 0;
  uint64_t reasoning_tokens_ = 0;
  size_t tool_calls_ = 0;
};

}  // namespace gantry::gateway
