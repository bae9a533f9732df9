#include "billing/outbox/resolve.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "absl/strings/str_cat.h"

namespace gantry::billing {

absl::StatusOr<std::vector<boost::asio::ip::address>> ResolveHost(const std::string& host) {
  constexpr size_t kAddressLimit = 8;
  boost::asio::io_context context;
  boost::asio::ip::tcp::resolver resolver(context);
  boost::system::error_code error;
  const auto results = resolver.resolve(host, "", error);
  if (error) return absl::UnavailableError(absl::StrCat("the name ", host, " cannot be resolved: ", error.message()));
  std::vector<boost::asio::ip::address> addresses;
  for (const auto& entry : results) {
    const auto& address = entry.endpoint().address();
    if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) addresses.push_back(address);
    if (addresses.size() == kAddressLimit) break;
  }
  if (addresses.empty()) return absl::UnavailableError(absl::StrCat("the name ", host, " has no address"));
  return addresses;
}

}  // namespace gantry::billing
