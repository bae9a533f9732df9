// Prices: plans of a seller and their immutable versions. A request pins the version that was current when it was
// admitted; usage is rated with that version however late it comes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/rating/price_line.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

// A published version.
struct PlanTerms {
  int64_t version_no = 0;
  Id16 version_id;
  int64_t plan_no = 0;
  std::string plan;
  int64_t number = 0;
  int64_t seller_no = 0;
  std::string currency;
  int64_t valid_from_us = 0;
  int64_t promise_until_us = 0;
  int64_t commitment_micro = 0;
  int64_t allowance_micro = 0;
  int64_t published_us = 0;
  std::string hash;
  std::vector<PriceLine> lines;
};

// INVALID_ARGUMENT: lines that leave a request without one certain price, terms out of range, a markup of what the
// seller does not buy. FAILED_PRECONDITION: earlier versions have another currency; valid before the version before it;
// dearer than a price promise that still holds. Nothing is published then.
absl::StatusOr<v1::PlanVersion> PublishPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request,
                                                   int64_t now_us);
// What it would publish, without writing anything; the same errors. Ids and number are not given yet.
absl::StatusOr<PlanTerms> CheckPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request, int64_t now_us);
absl::StatusOr<v1::ListPlanVersionsResponse> ListPlanVersions(Database& db, const v1::ListPlanVersionsRequest& request);
absl::StatusOr<v1::PreviewPriceResponse> PreviewPrice(Database& db, const v1::PreviewPriceRequest& request);
absl::StatusOr<v1::DiffPlanVersionsResponse> DiffPlanVersions(Database& db, const v1::DiffPlanVersionsRequest& request);

// NOT_FOUND: no such version. Kept in memory: a version never changes.
absl::StatusOr<std::shared_ptr<const PlanTerms>> TermsOf(Database& db, const Id16& plan_version_id);
// Read anew, for audits.
absl::StatusOr<PlanTerms> ReadTerms(Database& db, const Id16& plan_version_id);
// What prices `party_no` at a time. NOT_FOUND: nothing does.
absl::StatusOr<std::shared_ptr<const PlanTerms>> TermsAt(Database& db, int64_t party_no, int64_t time_us);

// The same, with how long it does so: until_us is when another version or subscription takes effect that is known now.
struct TermsSpan {
  std::shared_ptr<const PlanTerms> terms;
  int64_t from_us = 0;
  int64_t until_us = 0;  // exclusive
};
absl::StatusOr<TermsSpan> TermsSpanAt(Database& db, int64_t party_no, int64_t time_us);

// The prices that hold now: of one party, or of all that buy (0). Lines with tiers are shown at their dearest, which is
// what a hold must cover.
absl::StatusOr<std::vector<v1::TenantPrices>> CurrentPrices(Database& db, int64_t party_no, int64_t now_us);
// Whether other prices have come to hold after `since_us` up to `now_us` by themselves: a version or a subscription
// published for a time to come.
bool PricesTakeEffect(Database& db, int64_t since_us, int64_t now_us);

// SHA-256 over lines and terms.
std::string HashOfTerms(const PlanTerms& terms);

// INVALID_ARGUMENT names the line and field.
absl::StatusOr<PriceLine> FromProto(const v1::PriceLine& line);
v1::PriceLine ToProto(const PriceLine& line);
v1::TokenClass ProtoOf(TokenClass token_class);

}  // namespace gantry::billing
