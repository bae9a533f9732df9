// Python's string operations on text with provenance. Positions are code points where Python's are.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"

namespace gantry::engine::text::jinja {

size_t CodePointCount(const std::string& utf8);
// Byte offset of every code point, and the length at the end.
std::vector<size_t> CodePointOffsets(const std::string& utf8);

// `characters` null: whitespace.
Text Strip(const Text& text, const std::string* characters, bool left, bool right);
// `separator` null: runs of whitespace. most < 0: all.
std::vector<Text> Split(const Text& text, const std::string* separator, int64_t most, bool from_right);
std::vector<Text> SplitLines(const Text& text, bool keep_ends);
// count < 0: all. RESOURCE_EXHAUSTED when the result would exceed bytes_max.
absl::StatusOr<Text> Replace(const Text& text, const Text& from, const Text& to, int64_t count, size_t bytes_max);

enum class Case { kUpper, kLower, kTitle, kCapitalize };
Text ChangeCase(const Text& text, Case to);

}  // namespace gantry::engine::text::jinja
