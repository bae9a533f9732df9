#include "billing/outbox/address_policy.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace gantry::billing {
namespace {

namespace ip = boost::asio::ip;

bool Contains(const ip::network_v4& network, const ip::address_v4& address) {
  return (address.to_uint() & network.netmask().to_uint()) == network.network().to_uint();
}

bool Contains(const ip::network_v6& network, const ip::address_v6& address) {
  const auto have = address.to_bytes(), want = network.network().to_bytes();
  for (unsigned bit = 0; bit < network.prefix_length(); ++bit) {
    const int shift = 7 - static_cast<int>(bit % 8);
    if (((have[bit / 8] ^ want[bit / 8]) >> shift & 1) != 0) return false;
  }
  return true;
}

template <typename Network>
bool InAny(const std::vector<Network>& networks, const auto& address) {
  return std::any_of(networks.begin(), networks.end(), [&](const Network& n) { return Contains(n, address); });
}

// https://www.iana.org/assignments/iana-ipv4-special-registry, multicast, and the one public address behind which a
// cloud (Azure) keeps what its machines alone may ask.
const std::vector<ip::network_v4>& SpecialV4() {
  static const auto* ranges = [] {
    auto* list = new std::vector<ip::network_v4>();
    for (const char* text : {"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32",
                             "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
                             "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
                             "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"}) {
      list->push_back(ip::make_network_v4(text));
    }
    return list;
  }();
  return *ranges;
}

// Inside 2000::/3, which is all that is global. 2001::/23 holds Teredo, ORCHID and benchmarking; 2002::/16 (6to4) may
// carry any IPv4 address.
const std::vector<ip::network_v6>& SpecialV6() {
  static const auto* ranges = [] {
    auto* list = new std::vector<ip::network_v6>();
    for (const char* text : {"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"}) {
      list->push_back(ip::make_network_v6(text));
    }
    return list;
  }();
  return *ranges;
}

ip::address_v4 LastFourBytes(const ip::address_v6& address) {
  const auto bytes = address.to_bytes();
  return ip::address_v4({bytes[12], bytes[13], bytes[14], bytes[15]});
}

}  // namespace

bool IsPublicAddress(const ip::address& address) {
  if (address.is_v4()) return !InAny(SpecialV4(), address.to_v4());
  const ip::address_v6 v6 = address.to_v6();
  static const auto* global = new ip::network_v6(ip::make_network_v6("2000::/3"));
  static const auto* nat64 = new ip::network_v6(ip::make_network_v6("64:ff9b::/96"));
  // Networks without IPv4 reach public IPv4 servers this way; the address inside decides.
  if (Contains(*nat64, v6) || v6.is_v4_mapped()) return !InAny(SpecialV4(), LastFourBytes(v6));
  return Contains(*global, v6) && !InAny(SpecialV6(), v6) && v6.scope_id() == 0;
}

absl::StatusOr<AddressPolicy> AddressPolicy::Parse(const std::string& allowed) {
  AddressPolicy policy;
  for (absl::string_view part : absl::StrSplit(allowed, ',', absl::SkipWhitespace())) {
    const std::string text(absl::StripAsciiWhitespace(part));
    const bool is_v6 = text.find(':') != std::string::npos, is_range = text.find('/') != std::string::npos;
    boost::system::error_code error;
    if (is_v6) {
      policy.v6_.push_back(ip::make_network_v6(is_range ? text : text + "/128", error));
    } else {
      policy.v4_.push_back(ip::make_network_v4(is_range ? text : text + "/32", error));
    }
    if (error) {
      return absl::InvalidArgumentError(
          absl::StrCat("`", text, "` is no address range: expected ones like 10.1.0.0/16 or fd00::/8"));
    }
  }
  for (ip::network_v4& network : policy.v4_) network = network.canonical();
  for (ip::network_v6& network : policy.v6_) network = network.canonical();
  return policy;
}

bool AddressPolicy::IsAllowedPrivately(const ip::address& address) const {
  if (address.is_v4()) return InAny(v4_, address.to_v4());
  if (address.to_v6().is_v4_mapped()) return InAny(v4_, LastFourBytes(address.to_v6()));
  return InAny(v6_, address.to_v6());
}

absl::Status AddressPolicy::Check(const ip::address& address, bool tls) const {
  if (IsAllowedPrivately(address)) return absl::OkStatus();
  if (!IsPublicAddress(address)) {
    return absl::PermissionDeniedError(absl::StrCat(address.to_string(),
                                                    " is no public address; the operator can allow its range with ",
                                                    "webhook-private-networks of gantry-billing"));
  }
  if (!tls) {
    return absl::PermissionDeniedError(absl::StrCat("http:// is for networks in webhook-private-networks alone, and ",
                                                    address.to_string(), " is in none; use https://"));
  }
  return absl::OkStatus();
}

}  // namespace gantry::billing
