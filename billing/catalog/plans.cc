#include "billing/catalog/plans.h"

#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kLineLimit = 1000;

std::optional<TokenClass> ClassOf(int64_t proto) {
  switch (proto) {
    case v1::TOKEN_CLASS_INPUT:
      return TokenClass::kInput;
    case v1::TOKEN_CLASS_CACHED_INPUT:
      return TokenClass::kCachedInput;
    case v1::TOKEN_CLASS_OUTPUT:
      return TokenClass::kOutput;
    case v1::TOKEN_CLASS_REQUEST:
      return TokenClass::kRequest;
    default:
      return std::nullopt;
  }
}

void ReadLines(Database& db, const Id16& id, google::protobuf::RepeatedPtrField<v1::PriceLine>* lines) {
  Rows rows = db.Query(
      "SELECT model_glob, token_class, price_micro_per_m FROM plan_line WHERE plan_version_id = ? ORDER BY position",
      id);
  while (rows.Next()) {
    v1::PriceLine* line = lines->Add();
    line->set_model_glob(rows.Text(0));
    line->set_token_class(static_cast<v1::TokenClass>(rows.Int(1)));
    line->set_price_micro_per_m(rows.Int(2));
  }
}

}  // namespace

std::string HashOfLines(const std::string& plan, const std::string& currency,
                        const google::protobuf::RepeatedPtrField<v1::PriceLine>& lines) {
  ChainHash hash("");
  hash.Add(plan).Add(currency);
  for (const v1::PriceLine& line : lines) {
    hash.Add(line.model_glob()).Add(static_cast<int64_t>(line.token_class())).Add(line.price_micro_per_m());
  }
  return hash.Finish();
}

absl::StatusOr<v1::PlanVersion> PublishPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request,
                                                   int64_t now_us) {
  if (request.plan().empty() || request.plan().size() > 64) {
    return absl::InvalidArgumentError("plan: expected a name of 1..64 bytes");
  }
  if (request.currency().size() != 3) return absl::InvalidArgumentError("currency: expected an ISO 4217 code");
  if (request.lines_size() > kLineLimit) {
    return absl::InvalidArgumentError(absl::StrCat("lines: expected at most ", kLineLimit));
  }
  std::vector<PriceLine> lines;
  for (const v1::PriceLine& line : request.lines()) {
    std::optional<TokenClass> token_class = ClassOf(line.token_class());
    if (!token_class) return absl::InvalidArgumentError("lines: token_class is not specified");
    lines.push_back({line.model_glob(), *token_class, line.price_micro_per_m()});
  }
  GANTRY_RETURN_IF_ERROR(ValidatePriceLines(lines));
  int64_t number = 1;
  {
    Rows rows = db.Query("SELECT number, currency FROM plan_version WHERE plan = ? ORDER BY number DESC LIMIT 1",
                         request.plan());
    if (rows.Next()) {
      number = rows.Int(0) + 1;
      if (rows.Text(1) != request.currency()) {
        return absl::FailedPreconditionError(
            absl::StrCat("plan `", request.plan(), "` is in ", rows.Text(1), " and stays so; use another plan"));
      }
    }
  }
  v1::PlanVersion version;
  const Id16 id = NewTimeOrderedId();
  version.set_plan_version_id(id.ToBytes());
  version.set_plan(request.plan());
  version.set_number(static_cast<uint32_t>(number));
  version.set_currency(request.currency());
  *version.mutable_lines() = request.lines();
  version.set_valid_from_us(now_us);
  version.set_published_us(now_us);
  version.set_hash(HashOfLines(request.plan(), request.currency(), request.lines()));
  db.Execute(
      "INSERT INTO plan_version (plan_version_id, plan, number, currency, valid_from_us, published_us, hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?)",
      id, version.plan(), number, version.currency(), now_us, now_us, Blob{version.hash()});
  int64_t position = 0;
  for (const v1::PriceLine& line : request.lines()) {
    db.Execute(
        "INSERT INTO plan_line (plan_version_id, position, model_glob, token_class, price_micro_per_m) "
        "VALUES (?, ?, ?, ?, ?)",
        id, position++, line.model_glob(), static_cast<int64_t>(line.token_class()), line.price_micro_per_m());
  }
  return version;
}

absl::StatusOr<v1::ListPlanVersionsResponse> ListPlanVersions(Database& db, const std::string& plan) {
  v1::ListPlanVersionsResponse response;
  Rows rows = db.Query(
      "SELECT plan_version_id, plan, number, currency, valid_from_us, published_us, hash FROM plan_version "
      "WHERE ?1 = '' OR plan = ?1 ORDER BY plan, number",
      plan);
  while (rows.Next()) {
    v1::PlanVersion* version = response.add_versions();
    version->set_plan_version_id(rows.Text(0));
    version->set_plan(rows.Text(1));
    version->set_number(static_cast<uint32_t>(rows.Int(2)));
    version->set_currency(rows.Text(3));
    version->set_valid_from_us(rows.Int(4));
    version->set_published_us(rows.Int(5));
    version->set_hash(rows.Text(6));
    ReadLines(db, rows.Id(0), version->mutable_lines());
  }
  return response;
}

absl::StatusOr<std::vector<PriceLine>> LinesOf(Database& db, const Id16& plan_version_id) {
  google::protobuf::RepeatedPtrField<v1::PriceLine> stored;
  ReadLines(db, plan_version_id, &stored);
  if (stored.empty()) return absl::NotFoundError(absl::StrCat("no plan version ", plan_version_id.ToHex()));
  std::vector<PriceLine> lines;
  for (const v1::PriceLine& line : stored) {
    lines.push_back({line.model_glob(), *ClassOf(line.token_class()), line.price_micro_per_m()});
  }
  return lines;
}

absl::StatusOr<std::vector<v1::TenantPrices>> CurrentPrices(Database& db, const std::string& plan, int64_t now_us) {
  std::map<std::string, v1::TenantPrices> by_plan;
  {
    Rows rows = db.Query(
        "SELECT plan, plan_version_id, currency, max(number) FROM plan_version "
        "WHERE valid_from_us <= ?1 AND (?2 = '' OR plan = ?2) GROUP BY plan",
        now_us, plan);
    while (rows.Next()) {
      v1::TenantPrices& prices = by_plan[rows.Text(0)];
      prices.set_plan_version_id(rows.Text(1));
      prices.set_currency(rows.Text(2));
      ReadLines(db, rows.Id(1), prices.mutable_lines());
    }
  }
  std::vector<v1::TenantPrices> tenants;
  Rows rows = db.Query("SELECT party_id, plan FROM party WHERE plan <> '' AND (?1 = '' OR plan = ?1)", plan);
  while (rows.Next()) {
    auto found = by_plan.find(rows.Text(1));
    if (found == by_plan.end()) continue;
    tenants.push_back(found->second);
    tenants.back().set_party_id(rows.Text(0));
  }
  return tenants;
}

}  // namespace gantry::billing
