// Server-sent events of a chat completion, as they come, turned into text.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace gantry::cli {

class ChatStream {
 public:
  // `on_text` gets each piece of the reply.
  explicit ChatStream(std::function<void(absl::string_view)> on_text) : on_text_(std::move(on_text)) {}

  // Bytes of the body, cut anywhere.
  void Feed(absl::string_view bytes);
  // Call after the last byte. DATA_LOSS: no end came. INTERNAL: the error event's message.
  absl::Status Finish() const;

 private:
  void Line(absl::string_view line);

  std::function<void(absl::string_view)> on_text_;
  std::string pending_;  // begin of a line whose end has not come
  std::string error_;
  bool done_ = false;
};

// The message of an OpenAI error object, or the beginning of the body when it is none.
std::string ErrorMessage(const std::string& body);

}  // namespace gantry::cli
