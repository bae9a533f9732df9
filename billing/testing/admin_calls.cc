#include "billing/testing/admin_calls.h"

#include "absl/strings/str_cat.h"

namespace gantry::billing {

v1::Party AddParty(AdminStub& admin, v1::PartyKind kind, const std::string& name, const std::string& parent,
                   int64_t credit_limit_micro) {
  auto request = Keyed<v1::CreatePartyRequest>(absl::StrCat("party ", name));
  request.set_kind(kind);
  request.set_name(name);
  request.set_parent_name(parent);
  request.set_credit_limit_micro(credit_limit_micro);
  if (kind == v1::PARTY_KIND_HOUSE) request.set_currency("EUR");
  return Done(admin, &AdminStub::CreateParty, request);
}

v1::PlanVersion AddPlan(AdminStub& admin, const std::array<int64_t, 4>& prices_micro_per_m, int64_t commitment_micro) {
  auto request = Keyed<v1::PublishPlanVersionRequest>("plan");
  request.set_plan("standard");
  request.set_currency("EUR");
  request.set_commitment_micro(commitment_micro);
  for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
    v1::PriceLine* line = request.add_lines();
    line->set_model_glob("*");
    line->set_token_class(static_cast<v1::TokenClass>(c));
    line->set_price_micro_per_m(prices_micro_per_m[static_cast<size_t>(c - v1::TOKEN_CLASS_INPUT)]);
  }
  return Done(admin, &AdminStub::PublishPlanVersion, request);
}

v1::Balance AddMoney(AdminStub& admin, const std::string& party, int64_t micro) {
  auto request = Keyed<v1::TopUpRequest>(absl::StrCat("money ", party, " ", micro));
  request.set_party_name(party);
  request.set_amount_micro(micro);
  return Done(admin, &AdminStub::TopUp, request);
}

v1::CreateKeyResponse AddKey(AdminStub& admin, const std::string& party, const std::string& idempotency_key) {
  auto request = Keyed<v1::CreateKeyRequest>(idempotency_key);
  request.set_party_name(party);
  return Done(admin, &AdminStub::CreateKey, request);
}

}  // namespace gantry::billing
