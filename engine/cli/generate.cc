#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cli/collector.h"
#include "engine/cli/commands.h"
#include "engine/cli/json_input.h"
#include "engine/model/model_text.h"
#include "engine/text/chat_template.h"
#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

absl::StatusOr<std::vector<TokenId>> ChatIds(const std::string& model, const std::string& source,
                                             const std::string& path, const text::Tokenizer& tokenizer) {
  GANTRY_ASSIGN_OR_RETURN(const ordered_json root, ReadJson(path));
  const ordered_json* messages = root.is_array()                                 ? &root
                                 : root.is_object() && root.contains("messages") ? &root["messages"]
                                                                                 : nullptr;
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a non-empty array of messages, or an object with `messages`"));
  }
  if (source.empty()) return absl::NotFoundError(absl::StrCat(model, ": the model has no chat template"));
  GANTRY_ASSIGN_OR_RETURN(const auto chat_template, text::ChatTemplate::Parse(source));
  text::ChatTemplate::Input input;
  input.messages = messages;
  input.bos_token = tokenizer.Decode(tokenizer.prefix(), /*skip_special=*/false);
  if (root.is_object() && root.contains("tools") && root["tools"].is_array()) input.tools = &root["tools"];
  GANTRY_ASSIGN_OR_RETURN(const std::vector<text::Segment> segments, chat_template->Render(input));
  return tokenizer.Encode(segments);
}

}  // namespace

absl::Status RunGenerate(const CommonOptions& common, const GenerateOptions& options) {
  std::unique_ptr<text::Tokenizer> tokenizer;
  const absl::StatusOr<ModelText> model_text = ReadModelText(common.model);
  // Ids alone need no tokenizer; then there is no text either.
  if (model_text.ok()) {
    GANTRY_ASSIGN_OR_RETURN(tokenizer, text::Tokenizer::FromJson(model_text->tokenizer_json, common.model));
  } else if (options.ids.empty()) {
    return model_text.status();
  }
  Request request;
  if (!options.ids.empty()) {
    GANTRY_ASSIGN_OR_RETURN(request.ids, ReadIds(options.ids));
  } else if (!options.chat.empty()) {
    GANTRY_ASSIGN_OR_RETURN(request.ids, ChatIds(common.model, model_text->chat_template, options.chat, *tokenizer));
  } else {
    request.ids = tokenizer->prefix();
    GANTRY_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer->Encode(options.prompt, /*parse_special=*/true));
    request.ids.insert(request.ids.end(), ids.begin(), ids.end());
  }
  EngineOptions engine_options;
  engine_options.model_path = common.model;
  engine_options.backend = common.backend;
  engine_options.kv_type = common.kv_type;
  engine_options.threads = common.threads;
  engine_options.max_sequences = 1;
  engine_options.spec.mode = options.spec;
  engine_options.vocab_used = tokenizer == nullptr ? 0 : tokenizer->size();
  GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(engine_options));

  request.generated_from = static_cast<int>(request.ids.size());
  request.max_tokens = options.max_tokens;
  request.sampling = options.sampling;
  if (!options.ignore_stop) request.sampling.stop_ids = engine->card().spec.stop_ids;

  std::unique_ptr<text::Detokenizer> detokenizer;
  if (tokenizer != nullptr) detokenizer = std::make_unique<text::Detokenizer>(tokenizer.get(), /*skip_special=*/true);
  std::string text;
  const auto collector = std::make_shared<Collector>([&](TokenId id) {
    const std::string piece = detokenizer == nullptr ? absl::StrCat(id, " ") : detokenizer->Push(id);
    text += piece;
    if (options.json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  });
  GANTRY_RETURN_IF_ERROR(engine->Submit(std::move(request), collector).status());
  const FinishEvent& finish = collector->Wait();
  const std::string rest = detokenizer == nullptr ? "" : detokenizer->Flush();
  text += rest;
  if (!finish.status.ok()) return finish.status;
  if (!options.json) {
    std::printf("%s\n", rest.c_str());
    return absl::OkStatus();
  }
  const char* reason = finish.reason == FinishReason::kStop ? "stop" : "length";
  const double decode_s = finish.decode_ms / 1e3;
  const auto generated = static_cast<double>(finish.counts.generated);
  const ordered_json result = {{"tokens", collector->ids()},
                               {"text", tokenizer == nullptr ? ordered_json() : ordered_json(text)},
                               {"stats",
                                {{"finish_reason", reason},
                                 {"prompt_tokens", finish.counts.prompt},
                                 {"generated_tokens", finish.counts.generated},
                                 {"drafted_tokens", finish.counts.drafted},
                                 {"accepted_tokens", finish.counts.accepted},
                                 {"queue_ms", finish.queue_ms},
                                 {"prefill_ms", finish.prefill_ms},
                                 {"decode_ms", finish.decode_ms},
                                 {"device_ms", finish.device_ms},
                                 {"decode_tokens_per_s", decode_s > 0 ? (generated - 1) / decode_s : 0},
                                 {"numerics_id", engine->card().numerics_id}}}};
  std::printf("%s\n", result.dump(-1, ' ', false, ordered_json::error_handler_t::replace).c_str());
  return absl::OkStatus();
}

}  // namespace gantry::engine::cli
