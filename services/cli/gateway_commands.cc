// gantry gateway …: the gateways that billing knows.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"
#include "services/common/ids.h"

namespace gantry::cli {
namespace {

using Gateways = v1::GatewayAdmin::Stub;

struct GatewayOptions {
  std::string id, idempotency_key;
  bool json = false;
};

std::string IdOf(const v1::GatewayStatus& gateway) {
  const absl::StatusOr<Id16> id = Id16::FromBytes(gateway.gateway_id());
  return id.ok() ? id->ToHex() : "?";
}

std::string StateOf(const v1::GatewayStatus& gateway) {
  if (gateway.attached()) return gateway.alone() ? "attached, alone" : "attached";
  if (gateway.forgotten_us() != 0) return "forgotten";
  return gateway.left_us() != 0 ? "left" : "away";
}

// "12.50 EUR (2.00 of it fenced)".
std::string SetAside(const v1::GatewayStatus& gateway) {
  std::vector<std::string> sums;
  for (const v1::GatewayMoney& money : gateway.money()) {
    const std::string fenced =
        money.fenced_micro() == 0 ? "" : absl::StrCat(" (", FormatMicro(money.fenced_micro()), " of it fenced)");
    sums.push_back(absl::StrCat(FormatMicro(money.set_aside_micro()), " ", money.currency(), fenced));
  }
  return sums.empty() ? "-" : absl::StrJoin(sums, ", ");
}

nlohmann::ordered_json JsonOf(const v1::GatewayStatus& gateway) {
  nlohmann::ordered_json money = nlohmann::ordered_json::array();
  for (const v1::GatewayMoney& sum : gateway.money()) {
    money.push_back({{"currency", sum.currency()},
                     {"set_aside_micro", sum.set_aside_micro()},
                     {"fenced_micro", sum.fenced_micro()}});
  }
  return {{"id", IdOf(gateway)},
          {"state", StateOf(gateway)},
          {"attached", gateway.attached()},
          {"alone", gateway.alone()},
          {"epoch", gateway.epoch()},
          {"since", FormatTimeJson(gateway.since_us())},
          {"left", FormatTimeJson(gateway.left_us())},
          {"forgotten", FormatTimeJson(gateway.forgotten_us())},
          {"open_slices", gateway.open_slices()},
          {"open_holds", gateway.open_holds()},
          {"money", std::move(money)},
          {"freed", FormatTimeJson(gateway.freed_us())}};
}

absl::StatusOr<int> ListGateways(const GatewayOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::ListGatewaysResponse response,
                          client.Call(&Gateways::ListGateways, v1::ListGatewaysRequest()));
  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::GatewayStatus& gateway : response.gateways()) list.push_back(JsonOf(gateway));
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table({"ID", "STATE", "SINCE (UTC)", ">SLICES", ">HOLDS", "SET ASIDE", "FREED BY (UTC)"});
  for (const v1::GatewayStatus& gateway : response.gateways()) {
    table.Add({IdOf(gateway), StateOf(gateway), FormatTime(gateway.since_us()), absl::StrCat(gateway.open_slices()),
               absl::StrCat(gateway.open_holds()), SetAside(gateway), FormatTime(gateway.freed_us())});
  }
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> ForgetGateway(const GatewayOptions& options, const Invocation& invocation) {
  const absl::StatusOr<Id16> id = Id16::FromHex(options.id);
  if (!id.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "gateway id `", options.id, "` is not valid: expected 32 hex digits, as `gantry gateway list` ", "shows them"));
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::ForgetGatewayRequest request;
  request.set_gateway_id(id->ToBytes());
  GANTRY_ASSIGN_OR_RETURN(const v1::GatewayStatus gateway,
                          client.CallOnce(&Gateways::ForgetGateway, request, options.idempotency_key));
  if (options.json) {
    *invocation.out << JsonOf(gateway).dump(2) << "\n";
    return 0;
  }
  *invocation.out << "gateway " << IdOf(gateway) << " is forgotten";
  if (gateway.freed_us() != 0) {
    *invocation.out << "; what it had set aside, " << SetAside(gateway) << ", is freed by "
                    << FormatTime(gateway.freed_us()) << " UTC";
  }
  *invocation.out << "\n";
  return 0;
}

}  // namespace

void AddGatewayCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<GatewayOptions>();
  CLI::App* group = AddGroup(app, "gateway", "gateways and what is lent to them");

  CLI::App* list = AddCommand(*group, invocation, "list", "gateways, and the money that each has set aside",
                              "gantry gateway list\ngantry gateway list --json",
                              [=, &invocation] { return ListGateways(*options, invocation); });
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* forget = AddCommand(*group, invocation, "forget", "give up a gateway that is lost for good",
                                "gantry gateway forget 01a219434fa8460cbe9ac287eb9a61b9",
                                [=, &invocation] { return ForgetGateway(*options, invocation); });
  forget->add_option("ID", options->id, "as `gantry gateway list` shows it; it must not be attached")->required();
  forget->add_flag("--json", options->json, "as JSON");
  AddIdempotencyKey(*forget, &options->idempotency_key);
}

}  // namespace gantry::cli
