// Token ids back to text, as they come: never half a character.
//
// Bytes that may still become a character are held back (at most 3); bytes that cannot are replaced by U+FFFD, one for
// each maximal ill-formed part, as Python's errors="replace" does. So the pieces put together equal the text decoded at
// once. Threads: one per object. The tokenizer must outlive it.
#pragma once

#include <string>

#include "engine/text/tokenizer.h"

namespace gantry::engine::text {

class Detokenizer {
 public:
  Detokenizer(const Tokenizer* tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that `id` completes; may be empty.
  std::string Push(TokenId id);
  // What is left at the end.
  std::string Flush();
  // Bytes held back now.
  size_t pending() const { return held_.size(); }

 private:
  // Moves what is decided from held_ to the result.
  std::string Take(bool at_end);
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string held_;
};

}  // namespace gantry::engine::text
