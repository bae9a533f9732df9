#include "billing/bench/sample.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr char kModels[][24] = {"qwen3.5-122b-a10b", "qwen3.5-35b-a3b", "demo"};

v1::PublishPlanVersionRequest HousePlan() {
  v1::PublishPlanVersionRequest plan;
  plan.set_plan("standard");
  plan.set_currency("EUR");
  const struct {
    const char* glob;
    v1::TokenClass token_class;
    int64_t price;
  } lines[] = {{"qwen3.5-122b-*", v1::TOKEN_CLASS_INPUT, 260'000},
               {"qwen3.5-122b-*", v1::TOKEN_CLASS_OUTPUT, 2'080'000},
               {"*", v1::TOKEN_CLASS_INPUT, 140'000},
               {"*", v1::TOKEN_CLASS_CACHED_INPUT, 50'000},
               {"*", v1::TOKEN_CLASS_OUTPUT, 1'000'000},
               {"*", v1::TOKEN_CLASS_REQUEST, 0}};
  for (const auto& line : lines) {
    v1::PriceLine* added = plan.add_lines();
    added->set_model_glob(line.glob);
    added->set_token_class(line.token_class);
    added->set_price_micro_per_m(line.price);
  }
  return plan;
}

absl::StatusOr<PartyRow> AddParty(Database& db, v1::PartyKind kind, const std::string& name, const std::string& parent,
                                  int64_t credit_micro, int64_t now_us) {
  v1::CreatePartyRequest request;
  request.set_kind(kind);
  request.set_name(name);
  request.set_legal_name(absl::StrCat(name, " Ltd"));
  request.set_parent_name(parent);
  if (kind == v1::PARTY_KIND_HOUSE) request.set_currency("EUR");
  GANTRY_RETURN_IF_ERROR(CreateParty(db, request, now_us).status());
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyByName(db, name));
  if (row.depth > 0) GANTRY_RETURN_IF_ERROR(PostCredit(db, row, {.amount_micro = credit_micro}, now_us));
  return row;
}

absl::StatusOr<SampleTenant> AddTenant(Database& db, const std::string& name, const std::string& parent,
                                       int64_t credit_micro, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow row, AddParty(db, v1::PARTY_KIND_TENANT, name, parent, credit_micro, now_us));
  v1::CreateKeyRequest request;
  request.set_party_name(name);
  GANTRY_ASSIGN_OR_RETURN(const CreatedKey key, CreateKey(db, request, Secret(std::string(32, 'p')), now_us));
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const PlanTerms> terms, TermsAt(db, row.party_no, now_us));
  SampleTenant tenant{.party_id = row.party_id, .plan_version_id = terms->version_id, .party_no = row.party_no};
  GANTRY_ASSIGN_OR_RETURN(tenant.key_id, Id16::FromBytes(key.key.key_id()));
  return tenant;
}

}  // namespace

absl::StatusOr<Sample> Sample::Make(Store& store, SampleOptions options, int64_t now_us) {
  Sample sample(options);
  sample.gateway_id_ = NewTimeOrderedId();
  const absl::Status sellers = store.WriteAndWait([&](Database& db) -> absl::Status {
    absl::StatusOr<PartyRow> house = HouseOf(db);
    if (house.ok()) {
      return absl::FailedPreconditionError(absl::StrCat("there is a business already: ", house->name));
    }
    GANTRY_RETURN_IF_ERROR(AddParty(db, v1::PARTY_KIND_HOUSE, "house", "", 0, now_us).status());
    GANTRY_RETURN_IF_ERROR(PublishPlanVersion(db, HousePlan(), now_us).status());
    for (int i = 0; i < options.resellers; ++i) {
      const std::string name = absl::StrCat("reseller-", i);
      GANTRY_ASSIGN_OR_RETURN(const PartyRow reseller,
                              AddParty(db, v1::PARTY_KIND_RESELLER, name, "", options.credit_micro, now_us));
      GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const PlanTerms> base, TermsAt(db, reseller.party_no, now_us));
      v1::PublishPlanVersionRequest plan;
      plan.set_seller_name(name);
      plan.set_plan("standard");
      plan.set_currency("EUR");
      plan.set_markup_of(base->version_id.ToBytes());
      plan.set_markup_ppm(100'000 + 50'000 * (i % 5));
      GANTRY_RETURN_IF_ERROR(PublishPlanVersion(db, plan, now_us).status());
    }
    return absl::OkStatus();
  });
  if (!sellers.ok()) return sellers;
  for (int begin = 0; begin < options.tenants; begin += 100) {
    const absl::Status added = store.WriteAndWait([&](Database& db) -> absl::Status {
      for (int i = begin; i < std::min(options.tenants, begin + 100); ++i) {
        const std::string parent = options.resellers == 0 ? "" : absl::StrCat("reseller-", i % options.resellers);
        GANTRY_ASSIGN_OR_RETURN(SampleTenant tenant,
                                AddTenant(db, absl::StrCat("tenant-", i), parent, options.credit_micro / 1000, now_us));
        sample.tenants_.push_back(tenant);
      }
      return absl::OkStatus();
    });
    if (!added.ok()) return added;
  }
  return sample;
}

absl::Status Sample::GrantSlices(Store& store, int64_t micro, int64_t now_us) {
  for (SampleTenant& tenant : tenants_) tenant.slice_id = NewTimeOrderedId();
  return store.WriteAndWait([&](Database& db) -> absl::Status {
    for (const SampleTenant& tenant : tenants_) {
      v1::GrantSliceRequest request;
      request.set_slice_id(tenant.slice_id.ToBytes());
      request.set_gateway_id(gateway_id_.ToBytes());
      request.set_gateway_epoch(1);
      request.set_party_id(tenant.party_id.ToBytes());
      request.set_wanted_micro(micro);
      request.set_minimum_micro(micro);
      GANTRY_RETURN_IF_ERROR(GrantSlice(db, request, now_us).status());
    }
    return absl::OkStatus();
  });
}

SampleRequest Sample::Next() {
  const SampleTenant& tenant = tenants_[random_() % tenants_.size()];
  SampleRequest made;
  v1::UsageRecord& usage = made.usage;
  usage.set_record_id(NewTimeOrderedId().ToBytes());
  usage.set_request_id(NewTimeOrderedId().ToBytes());
  usage.set_party_id(tenant.party_id.ToBytes());
  usage.set_key_id(tenant.key_id.ToBytes());
  usage.set_slice_id(tenant.slice_id.IsZero() ? "" : tenant.slice_id.ToBytes());
  usage.set_hold_id(NewTimeOrderedId().ToBytes());
  usage.set_model(kModels[random_() % std::size(kModels)]);
  usage.set_plan_version_id(tenant.plan_version_id.ToBytes());
  usage.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
  usage.set_prompt_tokens(50 + random_() % 4000);
  usage.set_cached_tokens(random_() % 3 == 0 ? usage.prompt_tokens() / 2 : 0);
  usage.set_output_tokens(1 + random_() % 800);
  usage.set_duration_ms(usage.output_tokens() * 5);
  usage.set_first_token_ms(40 + random_() % 200);
  v1::SequenceUsage* sequence = usage.add_sequences();
  sequence->set_attempts(1);
  sequence->set_output_tokens(usage.output_tokens());
  v1::WitnessRecord& witness = made.witness;
  witness.set_record_id(NewTimeOrderedId().ToBytes());
  witness.set_request_id(usage.request_id());
  witness.set_hold_id(usage.hold_id());
  witness.set_party_id(usage.party_id());
  witness.set_attempt(1);
  witness.set_to_index(usage.output_tokens());
  witness.set_prompt_tokens(usage.prompt_tokens());
  witness.set_cached_tokens(usage.cached_tokens());
  witness.set_model(usage.model());
  return made;
}

v1::ReserveRequest Sample::HoldFor(SampleRequest* request, int64_t micro) {
  request->usage.clear_slice_id();
  v1::ReserveRequest reserve;
  reserve.set_hold_id(request->usage.hold_id());
  reserve.set_gateway_id(gateway_id_.ToBytes());
  reserve.set_gateway_epoch(1);
  reserve.set_party_id(request->usage.party_id());
  reserve.set_key_id(request->usage.key_id());
  reserve.set_request_id(request->usage.request_id());
  reserve.set_plan_version_id(request->usage.plan_version_id());
  reserve.set_amount_micro(micro);
  return reserve;
}

}  // namespace gantry::billing
