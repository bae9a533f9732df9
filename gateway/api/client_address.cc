#include "gateway/api/client_address.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

namespace gantry::gateway {

std::string ClientAddress(const HttpRequest& request, const std::vector<Cidr>& trusted_proxies) {
  const auto trusted = [&](absl::string_view address) {
    return std::any_of(trusted_proxies.begin(), trusted_proxies.end(),
                       [&](const Cidr& cidr) { return cidr.Contains(address); });
  };
  std::string address = request.peer;
  if (!trusted(address)) return address;
  const std::vector<absl::string_view> hops =
      absl::StrSplit(request.Header("x-forwarded-for"), ',', absl::SkipWhitespace());
  for (auto hop = hops.rbegin(); hop != hops.rend(); ++hop) {
    address = std::string(absl::StripAsciiWhitespace(*hop));
    if (!trusted(address)) break;
  }
  return address;
}

}  // namespace gantry::gateway
