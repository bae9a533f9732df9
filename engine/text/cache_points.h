// Where in a prompt the engine should keep what it computed, for the prompts to come.
//
// The next turn of a conversation repeats the last one up to the end of its last message. Behind that stands the prompt
// for the model's own words, and there templates go different ways: one that drops old reasoning writes the answer
// without what the model saw before it. And conversations of one application share their system message and tools. So
// the points are: the end of system and tools (with what the template writes before any first question), and the end of
// the last message.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "engine/base/token_id.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace gantry::engine::text {

// Numbers of leading tokens, ascending, each in (0, ids.size()); at most two. `segments` is what the template made of
// `input`, `ids` what the tokenizer made of `segments`. A hint: a template that cannot be asked (it refuses the shorter
// conversation) or text whose tokens do not part at the point costs a point, nothing else. Takes about as long as
// Render and less than Encode.
std::vector<int> CachePoints(const ChatTemplate& chat_template, const ChatTemplate::Input& input,
                             const Tokenizer& tokenizer, absl::Span<const Segment> segments,
                             absl::Span<const TokenId> ids);

}  // namespace gantry::engine::text
