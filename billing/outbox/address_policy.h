// Which addresses a webhook may be sent to (R17): public ones, and what the operator has allowed by name. Everything
// that reaches this machine, its networks or its cloud's services is refused, also in its IPv6 disguises.
#pragma once

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/network_v4.hpp>
#include <boost/asio/ip/network_v6.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gantry::billing {

// Global unicast and nobody's special range (IANA's registries of special-purpose addresses).
bool IsPublicAddress(const boost::asio::ip::address& address);

class AddressPolicy {
 public:
  AddressPolicy() = default;  // public addresses alone
  // `allowed`: comma-separated ranges, "10.1.0.0/16,fd00::/8"; single addresses too. INVALID_ARGUMENT names the one
  // that is none.
  static absl::StatusOr<AddressPolicy> Parse(const std::string& allowed);

  bool IsAllowedPrivately(const boost::asio::ip::address& address) const;
  // PERMISSION_DENIED names address and remedy. Without TLS only what is allowed privately can be called.
  absl::Status Check(const boost::asio::ip::address& address, bool tls) const;

 private:
  std::vector<boost::asio::ip::network_v4> v4_;
  std::vector<boost::asio::ip::network_v6> v6_;
};

}  // namespace gantry::billing
