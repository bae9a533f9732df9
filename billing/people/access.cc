#include "billing/people/access.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "services/common/api_key.h"

namespace gantry::billing {
namespace {

// Which parties a request may be about, seen from the user's.
enum class Reach {
  kAnyone,  // it names none
  kWithin,  // its own or one below
  kBelow,   // one below: what a seller does with its buyers
  kOwn,     // its own alone
  kHouse,   // users of the house, whoever it is about
};

// What a field names; empty stands for the house.
enum class Names { kNothing, kParty, kPartyId, kKey, kVersion, kRequest, kUser, kEndpoint, kQuote, kInvoice };

struct AccessRule {
  absl::string_view request;
  Right right;
  Reach reach;
  Names names = Names::kNothing;
  const char* field = "";  // "profile.party_name" inside another; "a|b": b when a is empty
};

// Backups hold the secrets of the whole house, and its keys sign receipts: no user's (no row).
constexpr AccessRule kRules[] = {
    {"CreatePartyRequest", Right::kParties, Reach::kWithin, Names::kParty, "parent_name"},
    {"ListPartiesRequest", Right::kSee, Reach::kWithin, Names::kParty, "under_name"},
    {"SetPartyStatusRequest", Right::kParties, Reach::kBelow, Names::kPartyId, "party_id"},
    {"ClosePartyRequest", Right::kParties, Reach::kBelow, Names::kParty, "party_name"},
    {"GetClosingRequest", Right::kParties, Reach::kBelow, Names::kParty, "party_name"},
    {"CreateKeyRequest", Right::kKeys, Reach::kWithin, Names::kParty, "party_name"},
    {"RotateKeyRequest", Right::kKeys, Reach::kWithin, Names::kKey, "public_id"},
    {"ListKeysRequest", Right::kUsage, Reach::kWithin, Names::kParty, "party_name"},
    {"RevokeKeyRequest", Right::kKeys, Reach::kWithin, Names::kKey, "public_id"},
    {"PublishPlanVersionRequest", Right::kPrices, Reach::kWithin, Names::kParty, "seller_name"},
    {"ListPlanVersionsRequest", Right::kSee, Reach::kWithin, Names::kParty, "seller_name"},
    {"PreviewPriceRequest", Right::kSee, Reach::kWithin, Names::kVersion, "plan_version_id"},
    {"DiffPlanVersionsRequest", Right::kSee, Reach::kWithin, Names::kVersion, "from_version_id"},
    {"DiffPlanVersionsRequest", Right::kSee, Reach::kWithin, Names::kVersion, "to_version_id"},
    {"SubscribeRequest", Right::kPrices, Reach::kBelow, Names::kParty, "party_name"},
    {"TopUpRequest", Right::kMoney, Reach::kBelow, Names::kParty, "party_name"},
    {"GetBalanceRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"QueryUsageRequest", Right::kUsage, Reach::kWithin, Names::kParty, "party_name"},
    // Every hop above the tenant is corrected with it.
    {"CorrectUsageRequest", Right::kHouse, Reach::kHouse},
    // What a seller earns is its own business, not that of the seller above it.
    {"MarginReportRequest", Right::kMoney, Reach::kOwn, Names::kParty, "seller_name"},
    {"GetInvoiceRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"FinalizeInvoiceRequest", Right::kMoney, Reach::kBelow, Names::kParty, "party_name"},
    {"AuditRequest", Right::kHouse, Reach::kHouse},
    {"GetAuditStateRequest", Right::kHouse, Reach::kHouse},
    {"UnparkRequest", Right::kHouse, Reach::kHouse},
    {"ListGatewaysRequest", Right::kHouse, Reach::kHouse},
    {"ForgetGatewayRequest", Right::kHouse, Reach::kHouse},

    {"SetBillingProfileRequest", Right::kMoney, Reach::kWithin, Names::kParty, "profile.party_name"},
    {"GetBillingProfileRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"GetDocumentRequest", Right::kSee, Reach::kWithin, Names::kInvoice, "number"},
    {"ListInvoicesRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name|seller_name"},
    {"CreateCreditNoteRequest", Right::kMoney, Reach::kBelow, Names::kInvoice, "number"},
    {"VoidInvoiceRequest", Right::kMoney, Reach::kBelow, Names::kInvoice, "number"},
    {"RecordPaymentRequest", Right::kMoney, Reach::kBelow, Names::kParty, "party_name"},
    {"ListPaymentsRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"AllocatePaymentRequest", Right::kMoney, Reach::kBelow, Names::kParty, "party_name"},
    {"ReleaseAllocationsRequest", Right::kMoney, Reach::kBelow, Names::kInvoice, "invoice_number"},
    {"RefundPaymentRequest", Right::kMoney, Reach::kBelow, Names::kParty, "party_name"},
    {"GetStatementRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},

    {"GetReceiptRequest", Right::kUsage, Reach::kWithin, Names::kParty, "party_name"},
    {"GetReceiptRequest", Right::kUsage, Reach::kWithin, Names::kRequest, "request_id"},
    {"ListReceiptRootsRequest", Right::kUsage, Reach::kAnyone},
    {"GetReceiptKeysRequest", Right::kUsage, Reach::kAnyone},

    {"CreateUserRequest", Right::kUsers, Reach::kWithin, Names::kParty, "party_name"},
    {"ListUsersRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"SetUserRoleRequest", Right::kUsers, Reach::kWithin, Names::kUser, "user_id"},
    {"DisableUserRequest", Right::kUsers, Reach::kWithin, Names::kUser, "user_id"},
    {"RotateUserTokenRequest", Right::kUsers, Reach::kWithin, Names::kUser, "user_id"},
    {"WhoAmIRequest", Right::kUsage, Reach::kAnyone},

    {"AddEndpointRequest", Right::kNotify, Reach::kWithin, Names::kParty, "party_name"},
    {"ListEndpointsRequest", Right::kSee, Reach::kWithin, Names::kParty, "party_name"},
    {"RemoveEndpointRequest", Right::kNotify, Reach::kWithin, Names::kEndpoint, "endpoint_id"},
    {"RotateEndpointSecretRequest", Right::kNotify, Reach::kWithin, Names::kEndpoint, "endpoint_id"},
    {"TestEndpointRequest", Right::kNotify, Reach::kWithin, Names::kEndpoint, "endpoint_id"},
    {"DraftQuotesRequest", Right::kPrices, Reach::kWithin, Names::kParty, "seller_name"},
    {"GetQuoteRequest", Right::kSee, Reach::kWithin, Names::kQuote, "number"},
    {"ListQuotesRequest", Right::kSee, Reach::kWithin, Names::kParty, "seller_name"},
    {"SendQuoteRequest", Right::kPrices, Reach::kWithin, Names::kQuote, "number"},
    {"AcceptQuoteRequest", Right::kPrices, Reach::kWithin, Names::kQuote, "number"},
    {"WithdrawQuoteRequest", Right::kPrices, Reach::kWithin, Names::kQuote, "number"},

    {"ListOutboxRequest", Right::kHouse, Reach::kHouse},
    {"RetryOutboxRequest", Right::kHouse, Reach::kHouse},
};

struct RoleRights {
  v1::UserRole role;
  std::array<bool, 9> rights;  // in the order of Right
};
constexpr RoleRights kRoles[] = {
    //                        see   usage keys  parties prices money users notify house
    {v1::USER_ROLE_OWNER, {true, true, true, true, true, true, true, true, true}},
    {v1::USER_ROLE_ADMIN, {true, true, true, true, true, true, true, true, true}},
    {v1::USER_ROLE_BILLING, {true, true, false, false, true, true, false, true, false}},
    {v1::USER_ROLE_DEVELOPER, {false, true, true, false, false, false, false, false, false}},
    {v1::USER_ROLE_AUDITOR, {true, true, false, false, false, false, false, false, false}},
};

// The number of the party that a query gives; 0: none.
int64_t FirstInt(Rows rows) {
  return rows.Next() ? rows.Int(0) : 0;
}

int64_t HouseNo(Database& db) {
  return FirstInt(db.Query("SELECT party_no FROM party WHERE kind = 1"));
}

// Whose the named thing is; 0: there is none.
int64_t PartyNamed(Database& db, Names names, const std::string& value, const Caller& caller) {
  switch (names) {
    case Names::kNothing:
      return caller.party.party_no;
    case Names::kParty:
      return value.empty() ? HouseNo(db) : FirstInt(db.Query("SELECT party_no FROM party WHERE name = ?", value));
    case Names::kPartyId:
      return FirstInt(db.Query("SELECT party_no FROM party WHERE party_id = ?", Blob{value}));
    case Names::kKey:
      return FirstInt(db.Query("SELECT party_no FROM api_key WHERE public_id = ?", value));
    case Names::kVersion: {
      if (value.empty()) return caller.party.party_no;  // lines that are in the request itself
      // What a party pays is its own to see, whoever sells it.
      const int64_t own =
          FirstInt(db.Query("SELECT s.party_no FROM plan_version v JOIN subscription s USING (plan_no) "
                            "WHERE v.plan_version_id = ? AND s.party_no = ?",
                            Blob{value}, caller.party.party_no));
      if (own != 0) return own;
      return FirstInt(
          db.Query("SELECT p.seller_no FROM plan_version v JOIN plan p USING (plan_no) WHERE v.plan_version_id = ?",
                   Blob{value}));
    }
    case Names::kRequest:
      return FirstInt(db.Query("SELECT party_no FROM usage_event WHERE request_id = ? AND revision = 0", Blob{value}));
    case Names::kUser:
      return FirstInt(db.Query("SELECT party_no FROM user WHERE user_id = ?", Blob{value}));
    case Names::kEndpoint:
      return FirstInt(
          db.Query("SELECT p.party_no FROM outbox_endpoint e JOIN party p USING (party_id) WHERE e.endpoint_id = ?",
                   Blob{value}));
    case Names::kQuote:
      // The buyer's as much as the seller's.
      return FirstInt(db.Query(
          "SELECT coalesce(p.party_no, q.seller_no) FROM quote q LEFT JOIN party p ON p.name = q.buyer_name AND "
          "p.party_no = ? WHERE q.number = ?",
          caller.party.party_no, value));
    case Names::kInvoice:
      return FirstInt(
          db.Query("SELECT party_no FROM invoice WHERE name = ?1 UNION ALL "
                   "SELECT i.party_no FROM credit_note n JOIN invoice i USING (invoice_no) WHERE n.name = ?1",
                   value));
  }
  return 0;
}

std::string FieldOf(const google::protobuf::Message& request, absl::string_view path) {
  for (const absl::string_view name : absl::StrSplit(path, '|')) {
    const google::protobuf::Message* message = &request;
    const std::vector<std::string> steps = absl::StrSplit(name, '.');
    for (size_t i = 0; i < steps.size(); ++i) {
      const google::protobuf::FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(steps[i]);
      const bool last = i + 1 == steps.size();
      GANTRY_CHECK(field != nullptr && field->cpp_type() == (last ? google::protobuf::FieldDescriptor::CPPTYPE_STRING
                                                                  : google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE),
                   "an access rule names a field of text or bytes");
      if (!last) {
        message = &message->GetReflection()->GetMessage(*message, field);
        continue;
      }
      std::string value = message->GetReflection()->GetString(*message, field);
      if (!value.empty()) return value;
    }
  }
  return "";
}

absl::Status CheckReach(Database& db, const Caller& caller, const AccessRule& rule,
                        const google::protobuf::Message& request) {
  const bool of_house = caller.party.depth == 0;
  if (rule.reach == Reach::kHouse) {
    if (of_house) return absl::OkStatus();
    return absl::PermissionDeniedError(absl::StrCat(rule.request, " is for users of the house"));
  }
  if (rule.names == Names::kNothing) return absl::OkStatus();
  const std::string value = FieldOf(request, rule.field);
  const int64_t party_no = PartyNamed(db, rule.names, value, caller);
  const bool within = party_no != 0 && IsWithin(db, party_no, caller.party.party_no);
  const bool own = party_no == caller.party.party_no;
  if (rule.reach == Reach::kWithin && within) return absl::OkStatus();
  if (rule.reach == Reach::kBelow && within && !own) return absl::OkStatus();
  if (rule.reach == Reach::kOwn && own) return absl::OkStatus();
  const char* expected = rule.reach == Reach::kWithin  ? "your own party or one below it"
                         : rule.reach == Reach::kBelow ? "a party that buys from yours"
                                                       : "your own party";
  return absl::PermissionDeniedError(absl::StrCat(rule.field, ": expected ", expected, "; yours is `",
                                                  caller.party.name, "`", value.empty() ? ", found none" : ""));
}

}  // namespace

const char* RightName(Right right) {
  static constexpr std::array kNames = {"see",   "usage", "keys",   "parties", "prices",
                                        "money", "users", "notify", "house"};
  return kNames[static_cast<size_t>(right)];
}

bool RoleHas(v1::UserRole role, Right right) {
  for (const RoleRights& known : kRoles) {
    if (known.role == role) return known.rights[static_cast<size_t>(right)];
  }
  return false;
}

absl::StatusOr<Caller> CallerOf(Database& db, const Secret& pepper, absl::string_view token) {
  Caller caller;
  if (token.empty()) return caller;
  const absl::Status refused =
      absl::UnauthenticatedError("gantry-user: the user's token is unknown, was replaced, or its user is disabled");
  const absl::StatusOr<ApiKey> parsed = ParseUserToken(token);
  if (!parsed.ok()) return absl::UnauthenticatedError(absl::StrCat("gantry-user: ", parsed.status().message()));
  int64_t party_no = 0, disabled_us = 0;
  std::string hmac(32, '\0');
  {
    Rows rows = db.Query("SELECT user_id, party_no, role, secret_hmac, disabled_us FROM user WHERE token_id = ?",
                         parsed->public_id);
    if (rows.Next()) {
      caller.user_id = rows.Id(0);
      party_no = rows.Int(1);
      caller.role = static_cast<v1::UserRole>(rows.Int(2));
      hmac = rows.Text(3);
      disabled_us = rows.Int(4);
    }
  }
  const bool right_secret = Secret(hmac).Equals(HmacOfSecret(pepper, parsed->secret));
  if (party_no == 0 || disabled_us != 0 || !right_secret) return refused;
  GANTRY_ASSIGN_OR_RETURN(caller.party, PartyByNo(db, party_no));
  if (caller.party.status == v1::PARTY_STATUS_CLOSED) return refused;
  caller.administrator = false;
  caller.actor = absl::StrCat("user ", caller.user_id.ToHex());
  return caller;
}

absl::Status Authorize(Database& db, const Caller& caller, const google::protobuf::Message& request) {
  if (caller.administrator) return absl::OkStatus();
  const absl::string_view name = request.GetDescriptor()->name();
  bool known = false;
  for (const AccessRule& rule : kRules) {
    if (rule.request != name) continue;
    known = true;
    if (!RoleHas(caller.role, rule.right)) {
      return absl::PermissionDeniedError(absl::StrCat(name, " takes the right `", RightName(rule.right),
                                                      "`, which the role ", v1::UserRole_Name(caller.role),
                                                      " has not"));
    }
    GANTRY_RETURN_IF_ERROR(CheckReach(db, caller, rule, request));
  }
  if (known) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(name, " is the administrator's alone: call it without gantry-user"));
}

bool HasAccessRule(absl::string_view request_name) {
  return std::any_of(std::begin(kRules), std::end(kRules),
                     [&](const AccessRule& rule) { return rule.request == request_name; });
}

}  // namespace gantry::billing
