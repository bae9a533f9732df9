// libFuzzer target for what reads bodies from outside. Nothing may crash, hang or leak; what is accepted keeps its
// bounds.
#include <cstddef>
#include <cstdint>

#include "engine/base/check.h"
#include "gateway/api/openai_request.h"
#include "gateway/api/output_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using gantry::gateway::CompletionRequest;
  const absl::string_view body(reinterpret_cast<const char*>(data), size);
  for (const auto& parsed : {gantry::gateway::ParseChatRequest(body), gantry::gateway::ParseCompletionsRequest(body)}) {
    if (const auto* request = std::get_if<CompletionRequest>(&parsed)) {
      GANTRY_CHECK(request->n >= 1 && request->n <= gantry::gateway::kMaxChoices, "n is bounded");
      GANTRY_CHECK(request->max_tokens.value_or(1) >= 1, "max_tokens is positive");
      GANTRY_CHECK(request->stop.size() <= gantry::gateway::kMaxStops, "stop strings are bounded");
    } else {
      // The error object must be JSON whatever it quotes.
      const auto& error = std::get<gantry::gateway::ApiError>(parsed);
      GANTRY_CHECK(gantry::gateway::Json::accept(gantry::gateway::ErrorJson(error)), "errors are JSON");
    }
  }
  // The same bytes as a model's output, in two pieces and in one.
  const gantry::gateway::OutputParser::Options options{.reasoning = true, .tools = true};
  gantry::gateway::OutputParser whole(options), pieces(options);
  gantry::gateway::ParsedOutput a, b;
  whole.Push(body, &a);
  whole.Flush(&a);
  pieces.Push(body.substr(0, size / 2), &b);
  pieces.Push(body.substr(size / 2), &b);
  pieces.Flush(&b);
  GANTRY_CHECK(a.content == b.content && a.reasoning == b.reasoning && a.tool_calls.size() == b.tool_calls.size(),
               "the result does not depend on the pieces");
  return 0;
}
