// gantry plan …: what tokens cost. A version never changes once published; requests keep the prices that held when they
// were admitted.
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "billing/rating/price_names.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/plan_file.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

struct PlanOptions {
  std::string plan, currency, input, cached_input, output, request, idempotency_key;
  std::string file, seller, markup, model, version, other;
  uint64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0, requests = 1;
  bool json = false, example = false;
};

// A price may be zero, which an amount may not.
absl::StatusOr<int64_t> ParsePrice(const std::string& text) {
  return text == "0" ? 0 : ParseMicro(text);
}

absl::StatusOr<v1::PublishPlanVersionRequest> FromFlags(const PlanOptions& options) {
  v1::PublishPlanVersionRequest request;
  request.set_plan(options.plan);
  request.set_currency(options.currency.empty() ? "EUR" : options.currency);
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
  return request;
}

// "standard", "standard:3" -> that version, else the last one; of `seller` when it is named.
absl::StatusOr<v1::PlanVersion> FindVersion(const AdminClient& client, const std::string& name,
                                            const std::string& seller) {
  const std::vector<std::string> parts = absl::StrSplit(name, absl::MaxSplits(':', 1));
  v1::ListPlanVersionsRequest request;
  request.set_plan(parts[0]);
  GANTRY_ASSIGN_OR_RETURN(const v1::ListPlanVersionsResponse all, client.Call(&Admin::ListPlanVersions, request));
  const v1::PlanVersion* found = nullptr;
  for (const v1::PlanVersion& version : all.versions()) {
    if (!seller.empty() && version.seller_name() != seller) continue;
    if (parts.size() == 1 || parts[1] == absl::StrCat(version.number())) found = &version;
  }
  if (found != nullptr) return *found;
  return absl::NotFoundError(absl::StrCat("there is no version `", name, "`", seller.empty() ? "" : " of ", seller,
                                          "; `gantry plan list` shows those there are"));
}

// What a reseller buys at, with a markup on every price.
absl::StatusOr<int> PublishPlan(const PlanOptions& options, const Invocation& invocation) {
  if (options.example) {
    *invocation.out << ExamplePlanFile();
    return 0;
  }
  const int ways =
      !options.file.empty() + !options.markup.empty() + (!options.input.empty() || !options.output.empty());
  if (ways != 1 || (!options.markup.empty() && options.seller.empty()) ||
      (options.file.empty() && options.plan.empty()) ||
      (options.file.empty() && options.markup.empty() && (options.input.empty() || options.output.empty()))) {
    return absl::InvalidArgumentError(
        "expected PLAN with --input and --output, or PLAN with --seller and --markup, or --file FILE");
  }
  v1::PublishPlanVersionRequest request;
  if (!options.file.empty()) {
    std::ifstream file(options.file);
    if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot read ", options.file));
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    GANTRY_ASSIGN_OR_RETURN(request, ParsePlanFile(text, options.file));
  } else if (options.markup.empty()) {
    GANTRY_ASSIGN_OR_RETURN(request, FromFlags(options));
  } else {
    // On what the seller pays now.
    request.set_plan(options.plan);
    request.set_currency(options.currency);
    GANTRY_ASSIGN_OR_RETURN(const int64_t ppm, ParsePercentPpm(options.markup));
    request.set_markup_ppm(ppm);
  }
  if (!options.seller.empty()) request.set_seller_name(options.seller);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion version,
                          client.CallOnce(&Admin::PublishPlanVersion, request, options.idempotency_key));
  *invocation.out << "plan " << version.plan() << " version " << version.number() << " holds for requests from "
                  << (request.valid_from_us() == 0 ? "now" : FormatTime(version.valid_from_us()) + " UTC") << " on\n";
  return 0;
}

absl::StatusOr<int> PreviewPlan(const PlanOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion version, FindVersion(client, options.plan, options.seller));
  v1::PreviewPriceRequest request;
  request.set_plan_version_id(version.plan_version_id());
  request.set_model(options.model);
  request.set_prompt_tokens(options.prompt_tokens);
  request.set_cached_tokens(options.cached_tokens);
  request.set_output_tokens(options.output_tokens);
  request.set_requests(options.requests);
  GANTRY_ASSIGN_OR_RETURN(const v1::PreviewPriceResponse preview, client.Call(&Admin::PreviewPrice, request));
  Table table({"CLASS", "MODELS", ">QUANTITY", absl::StrCat(">AMOUNT ", version.currency())});
  for (const v1::PreviewCharge& charge : preview.charges()) {
    table.Add({billing::TokenClassName(charge.line().token_class()), charge.line().model_glob(),
               WithSeparators(static_cast<int64_t>(charge.quantity())), FormatPico(charge.amount_pico())});
  }
  table.Add({"total", "", "", FormatPico(preview.amount_pico())});
  *invocation.out << table.Render();
  return 0;
}

absl::StatusOr<int> DiffPlans(const PlanOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion from, FindVersion(client, options.version, options.seller));
  GANTRY_ASSIGN_OR_RETURN(const v1::PlanVersion to, FindVersion(client, options.other, options.seller));
  v1::DiffPlanVersionsRequest request;
  request.set_from_version_id(from.plan_version_id());
  request.set_to_version_id(to.plan_version_id());
  GANTRY_ASSIGN_OR_RETURN(const v1::DiffPlanVersionsResponse diff, client.Call(&Admin::DiffPlanVersions, request));
  if (diff.changes_size() == 0) {
    *invocation.out << "the prices are the same\n";
    return 0;
  }
  Table table({"WHAT", ">FROM", ">TO", ""});
  const auto price = [](int64_t micro) { return micro < 0 ? std::string("-") : FormatMicro(micro); };
  for (const v1::PriceChange& change : diff.changes()) {
    table.Add({change.what(), price(change.from_micro_per_m()), price(change.to_micro_per_m()),
               change.dearer() ? "dearer" : ""});
  }
  *invocation.out << table.Render();
  return 0;
}

// "0.26", "2.08 up to 100,000,000, then 1.60", "0.20 per 1,000 whole".
std::string PriceText(const v1::PriceLine& line) {
  if (line.mode() == v1::TIER_MODE_PACKAGE) {
    return absl::StrCat(FormatMicro(line.price_micro_per_m()), " in packages of ",
                        WithSeparators(static_cast<int64_t>(line.package_size())));
  }
  if (line.tiers_size() == 0) return FormatMicro(line.price_micro_per_m());
  std::string text;
  for (int i = 0; i < line.tiers_size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", FormatMicro(line.tiers(i).price_micro_per_m()), " beyond ",
                    WithSeparators(static_cast<int64_t>(line.tiers(i).from())));
  }
  return absl::StrCat(text, line.mode() == v1::TIER_MODE_VOLUME ? " (for all)" : "");
}

std::string ContextText(const v1::PriceLine& line) {
  if (line.context_from() == 0 && line.context_to() == 0) return "any";
  return absl::StrCat(WithSeparators(static_cast<int64_t>(line.context_from())), "…",
                      line.context_to() == 0 ? "" : WithSeparators(static_cast<int64_t>(line.context_to())));
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
                         {"class", billing::TokenClassName(line.token_class())},
                         {"context_from", line.context_from()},
                         {"context_to", line.context_to()},
                         {"mode", billing::TierModeName(line.mode())},
                         {"package_size", line.package_size()},
                         {"price_micro_per_m", line.price_micro_per_m()}});
        for (const v1::PriceTier& tier : line.tiers()) {
          lines.back()["tiers"].push_back({{"from", tier.from()}, {"price_micro_per_m", tier.price_micro_per_m()}});
        }
      }
      list.push_back({{"seller", version.seller_name()},
                      {"plan", version.plan()},
                      {"version", version.number()},
                      {"currency", version.currency()},
                      {"valid_from", FormatTimeJson(version.valid_from_us())},
                      {"promise_until", FormatTimeJson(version.promise_until_us())},
                      {"commitment_micro", version.commitment_micro()},
                      {"allowance_micro", version.allowance_micro()},
                      {"lines", std::move(lines)}});
    }
    *invocation.out << list.dump(2) << "\n";
    return 0;
  }
  Table table(
      {"SELLER", "PLAN", ">VERSION", "FROM (UTC)", "MODELS", "CLASS", "CONTEXT", ">PRICE PER MILLION", "CURRENCY"});
  for (const v1::PlanVersion& version : response.versions()) {
    for (const v1::PriceLine& line : version.lines()) {
      table.Add({version.seller_name(), version.plan(), absl::StrCat(version.number()),
                 FormatTime(version.valid_from_us()), line.model_glob(), billing::TokenClassName(line.token_class()),
                 ContextText(line), PriceText(line), version.currency()});
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
                                 "gantry plan publish --example > partners.toml\n"
                                 "gantry plan publish --file partners.toml\n"
                                 "gantry plan publish standard --seller reseller-1 --markup 20",
                                 [=, &invocation] { return PublishPlan(*options, invocation); });
  publish->add_option("PLAN", options->plan, "its name; created at its first version");
  publish->add_option("--input", options->input, "price of a million input tokens")->type_name("AMOUNT");
  publish->add_option("--output", options->output, "price of a million output tokens")->type_name("AMOUNT");
  publish->add_option("--cached-input", options->cached_input, "input found in a cache; default: as --input")
      ->type_name("AMOUNT");
  publish->add_option("--request", options->request, "price of a million requests; default: 0")->type_name("AMOUNT");
  publish->add_option("--currency", options->currency, "ISO 4217; default: EUR")->type_name("CODE");
  publish->add_option("--file", options->file, "a TOML file: contexts, tiers, promise, commitment, allowance")
      ->type_name("FILE");
  publish->add_flag("--example", options->example, "print such a file");
  publish->add_option("--seller", options->seller, "the reseller whose plan it is; default: the house")
      ->type_name("NAME");
  publish->add_option("--markup", options->markup, "what the seller pays now, and so many percent more")
      ->type_name("PERCENT");
  AddIdempotencyKey(*publish, &options->idempotency_key);

  CLI::App* preview =
      AddCommand(*group, invocation, "preview", "what requests would cost, without booking anything",
                 "gantry plan preview standard --model demo --prompt 1000 --output 300 --requests 100000",
                 [=, &invocation] { return PreviewPlan(*options, invocation); });
  preview->add_option("PLAN", options->plan, "a plan, or PLAN:VERSION")->required();
  preview->add_option("--seller", options->seller, "whose plan; default: any")->type_name("NAME");
  preview->add_option("--model", options->model, "the model asked for")->required()->type_name("NAME");
  preview->add_option("--prompt", options->prompt_tokens, "prompt tokens of each, cached ones counted")->type_name("N");
  preview->add_option("--cached", options->cached_tokens, "of them cached")->type_name("N");
  preview->add_option("--output", options->output_tokens, "output tokens of each")->type_name("N");
  preview->add_option("--requests", options->requests, "of a month; default: 1")->type_name("N");

  CLI::App* diff = AddCommand(*group, invocation, "diff", "what changes from one version to another",
                              "gantry plan diff standard:1 standard:2",
                              [=, &invocation] { return DiffPlans(*options, invocation); });
  diff->add_option("FROM", options->version, "PLAN:VERSION")->required();
  diff->add_option("TO", options->other, "PLAN:VERSION")->required();
  diff->add_option("--seller", options->seller, "whose plans; default: any")->type_name("NAME");

  CLI::App* list = AddCommand(*group, invocation, "list", "all versions of all plans", "gantry plan list",
                              [=, &invocation] { return ListPlans(*options, invocation); });
  list->add_flag("--json", options->json, "as JSON");
}

}  // namespace gantry::cli
