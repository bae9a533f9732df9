// What a GGUF file says about tokens, in the words of the rest of the program.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/token_id.h"
#include "engine/format/gguf.h"

namespace gantry::engine {

// eos, eot and eom ids, and control tokens that end a turn in some chat format: a GGUF file has one key where a
// model may have several ids. The eos id, when there is one, comes first.
absl::StatusOr<std::vector<TokenId>> GgufStopIds(const GgufKeys& keys, int vocab_rows);

// The tokenizer of the file as the text of an equivalent tokenizer.json, so that whoever tokenises knows one format.
// INVALID_ARGUMENT names the key: other models than byte-level BPE, unknown pre-tokenisers, lists of unequal length.
absl::StatusOr<std::string> GgufTokenizerJson(const GgufKeys& keys);

}  // namespace gantry::engine
