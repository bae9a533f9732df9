// gantry chat: asks the model as any tenant would, over HTTP with a key.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/bootstrap.h"
#include "services/cli/chat_stream.h"
#include "services/cli/command.h"
#include "services/cli/http_call.h"
#include "services/cli/running_state.h"
#include "services/common/secret.h"

namespace gantry::cli {
namespace {

struct ChatOptions {
  std::string text, model, key_file;
  uint32_t max_tokens = 0;
  double temperature = -1;  // below zero: the model's own
};

absl::StatusOr<int> Chat(const ChatOptions& options, const Invocation& invocation) {
  const DataDir data_dir = invocation.data_dir();
  GANTRY_ASSIGN_OR_RETURN(const RunningState state, ReadRunningState(data_dir));
  GANTRY_ASSIGN_OR_RETURN(const Secret key,
                          ReadSecretFile(options.key_file.empty() ? DemoKeyFile(data_dir) : options.key_file));
  nlohmann::json body = {{"model", options.model.empty() ? state.model : options.model},
                         {"stream", true},
                         {"messages", {{{"role", "user"}, {"content", options.text}}}}};
  if (options.max_tokens > 0) body["max_tokens"] = options.max_tokens;
  if (options.temperature >= 0) body["temperature"] = options.temperature;

  HttpCallOptions call;
  call.endpoint = state.endpoint;
  call.path = "/v1/chat/completions";
  call.key = std::string(key.Reveal());  // it goes into the request's header
  call.body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  call.timeout = absl::Minutes(10);  // a long queue is no error
  std::string refusal;
  ChatStream stream([&](absl::string_view text) {
    invocation.out->write(text.data(), static_cast<std::streamsize>(text.size()));
    invocation.out->flush();
  });
  GANTRY_ASSIGN_OR_RETURN(const int status, HttpCall(call, [&](int code, absl::string_view piece) {
                            if (code == 200) {
                              stream.Feed(piece);
                            } else {
                              refusal.append(piece.data(), piece.size());
                            }
                          }));
  if (status != 200)
    return absl::UnknownError(absl::StrCat("the gateway answers ", status, ": ", ErrorMessage(refusal)));
  *invocation.out << "\n";
  GANTRY_RETURN_IF_ERROR(stream.Finish());
  return 0;
}

}  // namespace

void AddChatCommand(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* chat =
      AddCommand(app, invocation, "chat", "ask the model over the real endpoint; the answer streams to stdout",
                 "gantry chat \"What does the word river mean?\"\n"
                 "gantry chat --max-tokens 30 --key-file acme.key \"Hello\"",
                 [=, &invocation] { return Chat(*options, invocation); });
  chat->add_option("TEXT", options->text, "what to say")->required();
  chat->add_option("--model", options->model, "default: the one that runs")->type_name("NAME");
  chat->add_option("--key-file", options->key_file, "API key to use; default: DIR/demo.key")->type_name("FILE");
  chat->add_option("--max-tokens", options->max_tokens, "longest answer in tokens; default: the gateway's")
      ->type_name("N");
  chat->add_option("--temperature", options->temperature, "0 to 2; default: the model's")
      ->type_name("X")
      ->check(CLI::Range(0.0, 2.0));
}

}  // namespace gantry::cli
