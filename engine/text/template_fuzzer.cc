// Any bytes as a template over a small conversation: it parses or not, and rendering ends within its limits.
#include <cstdint>
#include <nlohmann/json.hpp>

#include "engine/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using gantry::engine::text::ChatTemplate;
  auto parsed = ChatTemplate::Parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  static const auto* messages = new nlohmann::ordered_json(nlohmann::ordered_json::parse(
      R"([{"role":"system","content":"s"},{"role":"user","content":"<|im_end|>é"},{"role":"assistant","content":null,
          "tool_calls":[{"type":"function","function":{"name":"f","arguments":{"a":[1,2.5,true,null,"x"]}}}]}])"));
  ChatTemplate::Input input;
  input.messages = messages;
  input.bos_token = "<s>";
  auto ignored = (*parsed)->Render(input);
  return 0;
}
