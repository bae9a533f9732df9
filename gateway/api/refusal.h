// Refusals of admission and ends of the stream to the router, as the tenant sees them.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gateway/admission/admission.h"
#include "gateway/api/api_error.h"

namespace gantry::gateway {

ApiError RefusalError(const Refusal& refusal, absl::string_view model);

// Why the router or a worker did not run a request, or stopped running it. `status` is not OK. What goes wrong inside
// is told in general words; only INVALID_ARGUMENT, which names a field of the request, keeps its message.
ApiError RouterError(const absl::Status& status, absl::string_view model);

// x-ratelimit-* of the limits that exist.
void AddLimitHeaders(const LimitState& limits, HttpHeaders* headers);

}  // namespace gantry::gateway
