#include "gateway/api/choice_decoder.h"

#include <algorithm>
#include <utility>

namespace gantry::gateway {

ChoiceDecoder::ChoiceDecoder(const engine::text::Tokenizer* tokenizer, Options options)
    : detokenizer_(tokenizer, /*skip_special=*/true),
      stops_(std::move(options.stops)),
      parser_(options.parser),
      stop_ids_(std::move(options.stop_ids)),
      ids_(options.ids) {}

void ChoiceDecoder::Push(uint32_t id, TokenLogprobs* logprobs, ChoiceDelta* out) {
  if (stopped()) return;
  ++tokens_;
  if (parser_.in_reasoning()) ++reasoning_tokens_;
  const bool hidden = std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
  std::string text = hidden ? "" : detokenizer_.Push(static_cast<engine::TokenId>(id));
  text_bytes_ += text.size();
  Waiting waiting;
  waiting.end = text_bytes_ + detokenizer_.pending();
  waiting.id = id;
  if (logprobs != nullptr && !hidden) {
    waiting.has_logprobs = true;
    waiting.logprobs = std::move(*logprobs);
  }
  waiting_.push_back(std::move(waiting));
  Parse(stops_.Push(text), out);
  if (stopped()) {
    // Text that is shown ends before the stop string; the parser keeps nothing back for what will not come.
    const size_t before = out->text.tool_calls.size();
    parser_.Flush(&out->text);
    tool_calls_ += out->text.tool_calls.size() - before;
  }
  Release(/*all=*/stopped(), out);
}

void ChoiceDecoder::Flush(ChoiceDelta* out) {
  if (!stopped()) {
    Parse(stops_.Push(detokenizer_.Flush()), out);
    if (!stopped()) Parse(stops_.Flush(), out);
    const size_t before = out->text.tool_calls.size();
    parser_.Flush(&out->text);
    tool_calls_ += out->text.tool_calls.size() - before;
  }
  Release(/*all=*/true, out);
}

void ChoiceDecoder::Parse(const std::string& text, ChoiceDelta* out) {
  if (text.empty()) return;
  parsed_bytes_ += text.size();
  const size_t before = out->text.tool_calls.size();
  parser_.Push(text, &out->text);
  tool_calls_ += out->text.tool_calls.size() - before;
}

void ChoiceDecoder::Release(bool all, ChoiceDelta* out) {
  const size_t shown = parsed_bytes_ - std::min(parsed_bytes_, parser_.pending());
  while (!waiting_.empty() && (all || waiting_.front().end <= shown)) {
    Waiting& token = waiting_.front();
    // Logprobs are of text that is shown: not of stop strings.
    if (token.has_logprobs && token.end <= shown) out->logprobs.push_back(std::move(token.logprobs));
    if (ids_) out->ids.push_back(token.id);
    waiting_.pop_front();
  }
}

}  // namespace gantry::gateway
