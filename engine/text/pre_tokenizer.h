// Cuts text into the pieces inside which byte-pair merges happen.
//
// A pre-tokeniser is a list of regular expressions applied one after the other: matches become pieces and so do the
// gaps between them, and the next expression cuts each of those pieces again. Expressions run on PCRE2 with JIT,
// Unicode properties, and match and heap limits, so that hostile text costs bounded time and ends in INVALID_ARGUMENT.
// Immutable after making; Split may be called from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine::text {

class PreTokenizer {
 public:
  // INVALID_ARGUMENT when an expression does not compile. `\s` and `\S` mean Unicode White_Space, whatever PCRE2
  // thinks.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromExpressions(const std::vector<std::string>& expressions);
  // The families that GGUF files name in `tokenizer.ggml.pre`: qwen35, qwen2, llama-bpe, gpt-2, smollm, deepseek-v3,
  // deepseek-llm, default (and their usual aliases). INVALID_ARGUMENT lists them.
  static absl::StatusOr<std::vector<std::string>> FamilyExpressions(const std::string& name);
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromFamily(const std::string& name);
  ~PreTokenizer();

  // Appends the pieces of `text` (views into it, in order, without gaps) to *pieces. `text` must be valid UTF-8.
  absl::Status Split(absl::string_view text, std::vector<absl::string_view>* pieces) const;

 private:
  struct Expression;
  PreTokenizer();
  std::vector<std::unique_ptr<Expression>> expressions_;
};

// The expression that ByteLevel uses when a tokenizer.json says `use_regex`.
const std::string& Gpt2Expression();

}  // namespace gantry::engine::text
