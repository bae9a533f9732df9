#include "billing/outbox/signature.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/digest.h"

namespace gantry::billing {

Secret WebhookSecret(const Secret& pepper, const Id16& endpoint_id, int64_t number) {
  const std::string bytes = HmacSha256(pepper, absl::StrCat("webhook secret ", endpoint_id.ToHex(), " ", number));
  return Secret(absl::StrCat("whsec_", absl::WebSafeBase64Escape(bytes)));
}

std::string WebhookSignature(const std::vector<NumberedSecret>& secrets, int64_t time_s, absl::string_view body) {
  std::string header = absl::StrCat("t=", time_s);
  const std::string message = absl::StrCat(time_s, ".", body);
  for (const NumberedSecret& numbered : secrets) {
    absl::StrAppend(&header, ",v1=", numbered.number, ":",
                    absl::BytesToHexString(HmacSha256(numbered.secret, message)));
  }
  return header;
}

}  // namespace gantry::billing
