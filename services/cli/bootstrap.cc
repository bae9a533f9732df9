#include "services/cli/bootstrap.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/cli/output_file.h"
#include "services/common/api_key.h"
#include "services/common/secret.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;

constexpr const char* kCurrency = "EUR";
constexpr int64_t kInputMicroPerM = 200'000;       // 0.20 EUR per million tokens
constexpr int64_t kCachedInputMicroPerM = 50'000;  // 0.05
constexpr int64_t kOutputMicroPerM = 800'000;      // 0.80
constexpr int64_t kDemoCreditMicro = 10'000'000;   // 10.00 EUR

// An installation of another version may have done this step with other content, and an operator may have made a party
// of this name: both mean that the step is done.
template <typename T>
absl::Status Done(const absl::StatusOr<T>& response) {
  return absl::IsAlreadyExists(response.status()) ? absl::OkStatus() : response.status();
}

absl::Status CreateParty(const AdminClient& client, v1::PartyKind kind, const char* name, const char* legal_name,
                         const char* idempotency_key) {
  v1::CreatePartyRequest request;
  request.set_kind(kind);
  request.set_name(name);
  request.set_legal_name(legal_name);
  request.set_currency(kCurrency);
  return Done(client.CallOnce(&Admin::CreateParty, request, idempotency_key));
}

absl::Status PublishPrices(const AdminClient& client) {
  v1::PublishPlanVersionRequest request;
  request.set_plan("standard");
  request.set_currency(kCurrency);
  const struct {
    v1::TokenClass token_class;
    int64_t price;
  } lines[] = {{v1::TOKEN_CLASS_INPUT, kInputMicroPerM},
               {v1::TOKEN_CLASS_CACHED_INPUT, kCachedInputMicroPerM},
               {v1::TOKEN_CLASS_OUTPUT, kOutputMicroPerM},
               {v1::TOKEN_CLASS_REQUEST, 0}};
  for (const auto& line : lines) {
    v1::PriceLine* added = request.add_lines();
    added->set_model_glob("*");
    added->set_token_class(line.token_class);
    added->set_price_micro_per_m(line.price);
  }
  return Done(client.CallOnce(&Admin::PublishPlanVersion, request, "bootstrap-plan-standard"));
}

absl::Status TopUp(const AdminClient& client) {
  v1::TopUpRequest request;
  request.set_party_name(kDemoTenant);
  request.set_amount_micro(kDemoCreditMicro);
  request.set_reference("first start");
  return Done(client.CallOnce(&Admin::TopUp, request, "bootstrap-topup-demo"));
}

absl::StatusOr<std::string> CreateKey(const AdminClient& client) {
  v1::CreateKeyRequest request;
  request.set_party_name(kDemoTenant);
  request.set_label("first start");
  const absl::StatusOr<v1::CreateKeyResponse> first = client.CallOnce(&Admin::CreateKey, request, "bootstrap-key-demo");
  if (first.ok() && !first->secret().empty()) return first->secret();
  GANTRY_RETURN_IF_ERROR(Done(first));
  // The key was made before, and its secret was in an answer that never reached the file: another key, then.
  request.set_label("demo.key was missing");
  GANTRY_ASSIGN_OR_RETURN(const v1::CreateKeyResponse further, client.CallOnce(&Admin::CreateKey, request, ""));
  return further.secret();
}

// Whether the file holds a key that billing knows (revoked or not: that is the operator's decision).
bool KeyIsKnown(const AdminClient& client, const std::string& path) {
  const absl::StatusOr<Secret> text = ReadSecretFile(path);
  if (!text.ok()) return false;
  // Only its public id is looked at.
  const absl::StatusOr<ApiKey> key = ParseApiKey(text->Reveal());
  if (!key.ok()) return false;
  v1::ListKeysRequest request;
  request.set_party_name(kDemoTenant);
  const absl::StatusOr<v1::ListKeysResponse> keys = client.Call(&Admin::ListKeys, request);
  if (!keys.ok()) return false;
  for (const v1::Key& known : keys->keys()) {
    if (known.public_id() == key->public_id) return true;
  }
  return false;
}

}  // namespace

std::string DemoKeyFile(const DataDir& data_dir) {
  return data_dir.root() + "/demo.key";
}

absl::StatusOr<BootstrapResult> Bootstrap(const AdminClient& client, const DataDir& data_dir) {
  BootstrapResult result;
  const std::string key_file = DemoKeyFile(data_dir);
  if (KeyIsKnown(client, key_file)) return result;
  GANTRY_RETURN_IF_ERROR(CreateParty(client, v1::PARTY_KIND_HOUSE, "house", "House", "bootstrap-house"));
  GANTRY_RETURN_IF_ERROR(PublishPrices(client));
  GANTRY_RETURN_IF_ERROR(CreateParty(client, v1::PARTY_KIND_TENANT, kDemoTenant, "Demo tenant", "bootstrap-demo"));
  GANTRY_RETURN_IF_ERROR(TopUp(client));
  GANTRY_ASSIGN_OR_RETURN(result.key, CreateKey(client));
  GANTRY_RETURN_IF_ERROR(WriteOutputFile(key_file, result.key + "\n", 0600));
  result.created_key = true;
  return result;
}

}  // namespace gantry::cli
