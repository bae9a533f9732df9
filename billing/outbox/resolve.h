// Names to addresses, once per connection: what was looked at is what is connected to.
#pragma once

#include <boost/asio/ip/address.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace gantry::billing {

using Resolver = std::function<absl::StatusOr<std::vector<boost::asio::ip::address>>(const std::string& host)>;

// The system's (files, DNS); at most 8 addresses. Takes as long as the system's resolver does (resolv.conf).
// UNAVAILABLE: no such name, or nobody to ask.
absl::StatusOr<std::vector<boost::asio::ip::address>> ResolveHost(const std::string& host);

}  // namespace gantry::billing
