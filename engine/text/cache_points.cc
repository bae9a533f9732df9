#include "engine/text/cache_points.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

namespace gantry::engine::text {
namespace {

using nlohmann::ordered_json;

template <typename A, typename B>
size_t CommonPrefix(const A& a, const B& b) {
  const size_t size = std::min<size_t>(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + size, b.begin()).first - a.begin();
}

// Bytes [begin, end) of all segments put together.
std::vector<Segment> Cut(absl::Span<const Segment> segments, size_t begin, size_t end) {
  std::vector<Segment> out;
  size_t first = 0;
  for (const Segment& segment : segments) {
    const size_t from = std::max(begin, first), to = std::min(end, first + segment.text.size());
    if (from < to) out.push_back({segment.text.substr(from - first, to - from), segment.trusted});
    first += segment.text.size();
  }
  return out;
}

// How many of `ids` stand for the first `bytes` of the text. The shorter side of the cut is encoded; where the cut
// changes tokens, those before the change count.
size_t TokensBefore(const Tokenizer& tokenizer, absl::Span<const Segment> segments, size_t bytes, size_t size,
                    absl::Span<const TokenId> ids) {
  if (bytes > size / 2) {
    const auto tail = tokenizer.Encode(Cut(segments, bytes, size));
    if (tail.ok() && tail->size() <= ids.size() && std::equal(tail->rbegin(), tail->rend(), ids.rbegin())) {
      return ids.size() - tail->size();
    }
  }
  const auto head = tokenizer.Encode(Cut(segments, 0, bytes));
  return head.ok() ? CommonPrefix(*head, ids) : 0;
}

// What the template makes of other messages or without the generation prompt; empty if it refuses.
std::string Variant(const ChatTemplate& chat_template, ChatTemplate::Input input, const ordered_json& messages,
                    bool generation_prompt) {
  input.messages = &messages;
  input.add_generation_prompt = generation_prompt;
  const auto segments = chat_template.Render(input);
  return segments.ok() ? JoinSegments(*segments) : "";
}

// The bytes that any conversation with these system messages and tools begins with: what two that differ from the first
// byte of the first question on have in common with each other and with this one.
size_t SystemBytes(const ChatTemplate& chat_template, const ChatTemplate::Input& input, const std::string& text) {
  ordered_json messages = ordered_json::array();
  for (const ordered_json& message : *input.messages) {
    if (message.value("role", "") != "system") break;
    messages.push_back(message);
  }
  messages.push_back({{"role", "user"}, {"content", "a"}});
  const std::string a = Variant(chat_template, input, messages, input.add_generation_prompt);
  messages.back()["content"] = "b";
  const std::string b = Variant(chat_template, input, messages, input.add_generation_prompt);
  return std::min(CommonPrefix(a, b), CommonPrefix(a, text));
}

}  // namespace

std::vector<int> CachePoints(const ChatTemplate& chat_template, const ChatTemplate::Input& input,
                             const Tokenizer& tokenizer, absl::Span<const Segment> segments,
                             absl::Span<const TokenId> ids) {
  if (input.messages == nullptr || !input.messages->is_array()) return {};
  const std::string text = JoinSegments(std::vector<Segment>(segments.begin(), segments.end()));
  const std::string without = Variant(chat_template, input, *input.messages, /*generation_prompt=*/false);
  std::vector<int> points;
  for (const size_t bytes : {SystemBytes(chat_template, input, text), CommonPrefix(text, without)}) {
    const size_t tokens = TokensBefore(tokenizer, segments, bytes, text.size(), ids);
    if (tokens == 0 || tokens >= ids.size()) continue;
    if (points.empty() || static_cast<int>(tokens) > points.back()) points.push_back(static_cast<int>(tokens));
  }
  return points;
}

}  // namespace gantry::engine::text
