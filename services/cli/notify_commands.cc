// gantry notify … and gantry outbox …: what parties are told by themselves, and where to.
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Notifications = v1::NotificationAdmin::Stub;

struct NotifyOptions {
  std::string party, target, state, idempotency_key;
  std::vector<std::string> topics;
  int64_t overlap_hours = 24, message = 0;
  uint32_t limit = 20;
  bool all = false, json = false;
};

std::string StateName(v1::OutboxState state) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::OutboxState_Name(state), "OUTBOX_STATE_"));
}

absl::StatusOr<v1::Endpoint> FindEndpoint(const AdminClient& client, const NotifyOptions& options) {
  v1::ListEndpointsRequest request;
  request.set_party_name(options.party);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListEndpointsResponse list, client.Call(&Notifications::ListEndpoints, request));
  for (const v1::Endpoint& endpoint : list.endpoints()) {
    if (endpoint.target() == options.target) return endpoint;
  }
  return absl::NotFoundError(absl::StrCat("`", options.party, "` has no endpoint ", options.target,
                                          "; `gantry notify list --party ", options.party, "` shows those it has"));
}

void ShowSecret(const v1::EndpointSecret& made, const Invocation& invocation) {
  if (made.secret().empty()) return;
  *invocation.out << "what it gets is signed with\n" << made.secret() << "\n";
}

absl::StatusOr<int> Add(const NotifyOptions& options, const Invocation& invocation) {
  v1::AddEndpointRequest request;
  request.set_party_name(options.party);
  request.set_target(options.target);
  for (const std::string& topic : options.topics) request.add_topics(topic);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::EndpointSecret made,
                          client.CallOnce(&Notifications::AddEndpoint, request, options.idempotency_key));
  *invocation.out << "messages to " << options.party << " go to " << made.endpoint().target() << "\n";
  ShowSecret(made, invocation);
  return 0;
}

absl::StatusOr<int> List(const NotifyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::ListEndpointsRequest request;
  request.set_party_name(options.party);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListEndpointsResponse list, client.Call(&Notifications::ListEndpoints, request));
  if (options.json) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const v1::Endpoint& endpoint : list.endpoints()) {
      json.push_back({{"id", absl::BytesToHexString(endpoint.endpoint_id())},
                      {"target", endpoint.target()},
                      {"topics", std::vector<std::string>(endpoint.topics().begin(), endpoint.topics().end())},
                      {"created", FormatTimeJson(endpoint.created_us())}});
    }
    *invocation.out << json.dump(2) << "\n";
    return 0;
  }
  Table table({"TARGET", "TOPICS", "SINCE (UTC)"});
  for (const v1::Endpoint& endpoint : list.endpoints()) {
    table.Add({endpoint.target(), endpoint.topics().empty() ? "all" : absl::StrJoin(endpoint.topics(), " "),
               FormatTime(endpoint.created_us())});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> Remove(const NotifyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Endpoint endpoint, FindEndpoint(client, options));
  v1::RemoveEndpointRequest request;
  request.set_endpoint_id(endpoint.endpoint_id());
  GANTRY_RETURN_IF_ERROR(client.CallOnce(&Notifications::RemoveEndpoint, request, options.idempotency_key).status());
  *invocation.out << "nothing more goes to " << endpoint.target() << "; what waited for it is parked\n";
  return 0;
}

absl::StatusOr<int> Rotate(const NotifyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Endpoint endpoint, FindEndpoint(client, options));
  v1::RotateEndpointSecretRequest request;
  request.set_endpoint_id(endpoint.endpoint_id());
  request.set_overlap_ms(static_cast<uint64_t>(options.overlap_hours) * 3'600'000);
  GANTRY_ASSIGN_OR_RETURN(const v1::EndpointSecret made,
                          client.CallOnce(&Notifications::RotateEndpointSecret, request, options.idempotency_key));
  ShowSecret(made, invocation);
  *invocation.out << "the one before signs too for " << options.overlap_hours << " hours\n";
  return 0;
}

absl::StatusOr<int> Test(const NotifyOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Endpoint endpoint, FindEndpoint(client, options));
  v1::TestEndpointRequest request;
  request.set_endpoint_id(endpoint.endpoint_id());
  GANTRY_ASSIGN_OR_RETURN(const v1::OutboxItem item,
                          client.CallOnce(&Notifications::TestEndpoint, request, options.idempotency_key));
  *invocation.out << "message " << item.seq() << " is on its way; `gantry outbox list` shows what becomes of it\n";
  return 0;
}

absl::StatusOr<int> ListOutbox(const NotifyOptions& options, const Invocation& invocation) {
  v1::ListOutboxRequest request;
  if (!options.state.empty()) {
    v1::OutboxState state = v1::OUTBOX_STATE_UNSPECIFIED;
    v1::OutboxState_Parse(absl::StrCat("OUTBOX_STATE_", absl::AsciiStrToUpper(options.state)), &state);
    request.set_state(state);
  }
  request.set_page_size(options.limit);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::ListOutboxResponse list, client.Call(&Notifications::ListOutbox, request));
  if (options.json) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const v1::OutboxItem& item : list.items()) {
      json.push_back({{"seq", item.seq()},
                      {"id", absl::BytesToHexString(item.message_id())},
                      {"topic", item.topic()},
                      {"party", item.party_name()},
                      {"target", item.target()},
                      {"state", StateName(item.state())},
                      {"attempts", item.attempts()},
                      {"created", FormatTimeJson(item.created_us())},
                      {"next_try", FormatTimeJson(item.next_us())},
                      {"ended", FormatTimeJson(item.ended_us())},
                      {"last_error", item.last_error()},
                      {"payload", nlohmann::ordered_json::parse(item.payload(), nullptr, false)}});
    }
    *invocation.out << json.dump(2) << "\n";
    return 0;
  }
  Table table({">SEQ", "WRITTEN (UTC)", "PARTY", "TOPIC", "TO", "STATE", ">TRIES", "LAST ERROR"});
  for (const v1::OutboxItem& item : list.items()) {
    table.Add({absl::StrCat(item.seq()), FormatTime(item.created_us()), item.party_name(), item.topic(),
               item.target().empty() ? "-" : item.target(), StateName(item.state()), absl::StrCat(item.attempts()),
               item.last_error().empty() ? "-" : item.last_error()});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> Retry(const NotifyOptions& options, const Invocation& invocation) {
  if (options.all == (options.message != 0)) {
    return absl::InvalidArgumentError("expected SEQ, as `gantry outbox list` shows it, or --all");
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::RetryOutboxRequest request;
  request.set_seq(options.message);
  GANTRY_ASSIGN_OR_RETURN(const v1::RetryOutboxResponse response,
                          client.CallOnce(&Notifications::RetryOutbox, request, options.idempotency_key));
  *invocation.out << response.messages() << (response.messages() == 1 ? " message waits" : " messages wait")
                  << " again\n";
  return 0;
}

}  // namespace

void AddNotifyCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<NotifyOptions>();
  CLI::App* notify = AddGroup(app, "notify", "where a party's messages go: mail and signed webhooks");
  const auto add = [&](CLI::App* group, const char* name, const char* summary, const char* examples, auto run) {
    return AddCommand(*group, invocation, name, summary, examples,
                      [=, &invocation] { return run(*options, invocation); });
  };
  const auto add_endpoint = [&](CLI::App* command) {
    command->add_option("TARGET", options->target, "https://… or mailto:…")->required();
    command->add_option("--party", options->party, "whose messages")->required()->type_name("P");
    AddIdempotencyKey(*command, &options->idempotency_key);
  };

  CLI::App* to = add(notify, "add", "send a party's messages somewhere",
                     "gantry notify add mailto:ops@acme.example --party acme\n"
                     "gantry notify add https://acme.example/hooks/gantry --party acme --topic 'balance.*'",
                     Add);
  add_endpoint(to);
  to->add_option("--topic", options->topics,
                 "globs: budget.threshold, balance.threshold, key.expiring, credit.expiring, invoice.overdue, "
                 "party.parked, usage.quarantined; default: all")
      ->type_name("GLOB");
  CLI::App* list = add(notify, "list", "where a party's messages go", "gantry notify list --party acme", List);
  list->add_option("--party", options->party, "whose messages")->required()->type_name("P");
  list->add_flag("--json", options->json, "as JSON");
  add_endpoint(add(notify, "remove", "send nothing more there",
                   "gantry notify remove mailto:ops@acme.example --party acme", Remove));
  CLI::App* rotate =
      add(notify, "rotate", "give a webhook a new secret",
          "gantry notify rotate https://acme.example/hooks/gantry --party acme --overlap-hours 48", Rotate);
  add_endpoint(rotate);
  rotate->add_option("--overlap-hours", options->overlap_hours, "the one before signs too for so long; default: 24")
      ->type_name("N")
      ->check(CLI::Range(0, 720));
  add_endpoint(add(notify, "test", "send a message that says nothing",
                   "gantry notify test https://acme.example/hooks/gantry --party acme", Test));

  CLI::App* outbox = AddGroup(app, "outbox", "messages to parties, and what became of them");
  CLI::App* items = add(outbox, "list", "messages, newest first",
                        "gantry outbox list\ngantry outbox list --state parked --json", ListOutbox);
  items->add_option("--state", options->state, "waiting, delivered, parked or unaddressed; default: all")
      ->type_name("STATE")
      ->check(CLI::IsMember({"waiting", "delivered", "parked", "unaddressed"}));
  items->add_option("--limit", options->limit, "rows at most; default: 20")->type_name("N")->check(CLI::Range(1, 1000));
  items->add_flag("--json", options->json, "as JSON");
  CLI::App* retry =
      add(outbox, "retry", "try parked messages again", "gantry outbox retry 1207\ngantry outbox retry --all", Retry);
  retry->add_option("SEQ", options->message, "one message");
  retry->add_flag("--all", options->all, "all that are parked");
  AddIdempotencyKey(*retry, &options->idempotency_key);
}

}  // namespace gantry::cli
