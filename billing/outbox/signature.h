// How a receiver knows that a webhook is from this house and fresh.
//
//   Gantry-Signature: t=1794312000,v1=2:5257a8…,v1=1:9a3f01…
//
// t: seconds since 1970. Each v1 is KEY:HMAC-SHA-256(secret, "t.body") in hex; KEY counts an endpoint's secrets from 1.
// While a secret is being replaced both sign, so that a receiver may change over at any moment between.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/common/ids.h"
#include "services/common/secret.h"

namespace gantry::billing {

// "whsec_…": derived from the pepper, and so stored nowhere. The text itself is the HMAC's key.
Secret WebhookSecret(const Secret& pepper, const Id16& endpoint_id, int64_t number);

struct NumberedSecret {
  int64_t number = 0;
  Secret secret;
};
std::string WebhookSignature(const std::vector<NumberedSecret>& secrets, int64_t time_s, absl::string_view body);

}  // namespace gantry::billing
