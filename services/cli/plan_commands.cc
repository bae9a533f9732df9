// gantry plan …: what tokens cost. A version never changes once published; requests keep the prices that held when they
// were admitted.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

struct PlanOptions {
  std::string plan, currency = "EUR", input, cached_input, output, request, idempotency_key;
  bool json = false;
};

const char* ClassName(v1::TokenClass token_class) {
  switch (token_class) {
    case v1::TOKEN_CLASS_INPUT:
      return "input";
    case v1::TOKEN_CLASS_CACHED_INPUT:
      return "cached_input";
    case v1::TOKEN_CLASS_OUTPUT:
      return "output";
    case v1::TOKEN_CLASS_REQUEST:
      return "request";
    default:
      return "unknown";
  }
}

// A price may be zero, which an amount may not.
absl::StatusOr<int64_t> ParsePrice(const std::string& text) {
  return text == "0" ? 0 : ParseMicro(text);
}

absl::StatusOr<int> PublishPlan(const PlanOptions& options, const Invocation& invocation) {
  v1::PublishPlanVersionRequest request;
  request.set_plan(options.plan);
  request.set_currency(options.currency);
  const struct {
    v1::TokenClass token_class;
    std::string price;
  } lines[] = {{v1::TOKEN_CLASS_INPUT, options.input},
               {v1::TOKEN_CLASS_CACHED_INPUT, options.cached_input.empty() ? options.input : options.cached_input},
               {v1::TOKEN_CLASS_OUTPUT, options.output},
               {v1::TOKEN_CLASS_REQUEST, options.request.empty() ? "0" : options.request}};
  for (const auto& line : lines) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t price, ParsePrice(line.price));
    v1::PriceLine* added = request.add_lines();
    added->set_model_glob("*");
    added->set_token_class(line.token_class);
    added->set_price_micro_per_m(price);
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion version,
                          client.CallOnce(&Admin::PublishPlanVersion, request, options.idempotency_key));
  *invocation.out << "plan " << version.plan() << " version " << version.number()
                  << " holds for requests from now on\n";
  return 0;
}

absl::StatusOr<int> ListPlans(const PlanOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::ListPlanVersionsResponse response,
                          client.Call(&Admin::ListPlanVersions, v1::ListPlanVersionsRequest()));
  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::PlanVersion& version : response.versions()) {
      nlohmann::ordered_json lines = nlohmann::ordered_json::array();
      for (const v1::PriceLine& line : version.lines()) {
        lines.push_back({{"models", line.model_glob()},
                         {"class", ClassName(line.token_class())},
                         {"price_micro_per_m", line.price_micro_per_m()}});
      }
      list.push_back({{"plan", version.plan()},
                      {"version", version.number()},
                      {"currency", version.currency()},
                      {"valid_from", FormatTimeJson(version.valid_from_us())},
                      {"lines", std::move(lines)}});
    }
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table({"PLAN", ">VERSION", "FROM (UTC)", "MODELS", "CLASS", ">PRICE PER MILLION", "CURRENCY"});
  for (const v1::PlanVersion& version : response.versions()) {
    for (const v1::PriceLine& line : version.lines()) {
      table.Add({version.plan(), absl::StrCat(version.number()), FormatTime(version.valid_from_us()), line.model_glob(),
                 ClassName(line.token_class()), FormatMicro(line.price_micro_per_m()), version.currency()});
    }
  }
  *invocation.out << table.Render();
  return 0;
}

}  // namespace

void AddPlanCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* group = AddGroup(app, "plan", "what tokens cost");

  CLI::App* publish = AddCommand(*group, invocation, "publish", "set prices by a new version of a plan",
                                 "gantry plan publish standard --input 0.30 --cached-input 0.05 --output 1.20\n"
                                 "gantry plan publish partners --currency USD --input 0.10 --output 0.40",
                                 [=, &invocation] { return PublishPlan(*options, invocation); });
  publish->add_option("PLAN", options->plan, "its name; created at its first version")->required();
  publish->add_option("--input", options->input, "price of a million input tokens")->required()->type_name("AMOUNT");
  publish->add_option("--output", options->output, "price of a million output tokens")->required()->type_name("AMOUNT");
  publish->add_option("--cached-input", options->cached_input, "input found in a cache; default: as --input")
      ->type_name("AMOUNT");
  publish->add_option("--request", options->request, "price of a million requests; default: 0")->type_name("AMOUNT");
  publish->add_option("--currency", options->currency, "ISO 4217; default: EUR")->type_name("CODE");
  AddIdempotencyKey(*publish, &options->idempotency_key);

  CLI::App* list = AddCommand(*group, invocation, "list", "all versions of all plans", "gantry plan list",
                              [=, &invocation] { return ListPlans(*options, invocation); });
  list->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
