#include "billing/outbox/address_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

boost::asio::ip::address Address(const char* text) {
  return boost::asio::ip::make_address(text);
}

TEST(AddressPolicy, PublicAddressesAreTheUnicastOnesThatAreNobodysSpecial) {
  for (const char* text :
       {"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
        "128.0.0.1", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
        "223.255.255.255", "2600::1", "2a00:1450::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"}) {
    EXPECT_TRUE(IsPublicAddress(Address(text))) << text;
  }
}

TEST(AddressPolicy, WhatReachesThisMachineOrItsNetworksIsRefused) {
  for (const char* text :
       {"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        // IPv6, and IPv4 in its disguises.
        "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "2001:db8::1", "2001::1",
        "2002:7f00:1::", "2002:0a00:0001::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
        "64:ff9b::127.0.0.1", "64:ff9b::10.1.2.3", "64:ff9b:1::1", "100::1", "3fff::1", "4000::1"}) {
    EXPECT_FALSE(IsPublicAddress(Address(text))) << text;
    const absl::Status refused = AddressPolicy().Check(Address(text), true);
    EXPECT_TRUE(absl::IsPermissionDenied(refused)) << text;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("is no public address")) << text;
  }
}

TEST(AddressPolicy, TheOperatorMayAllowRanges) {
  const absl::StatusOr<AddressPolicy> policy = AddressPolicy::Parse("10.1.0.0/16, 127.0.0.1,fd00::/8,::1");
  ASSERT_TRUE(policy.ok()) << policy.status();
  for (const char* text : {"10.1.255.255", "127.0.0.1", "fd12::7", "::1", "::ffff:10.1.2.3"}) {
    EXPECT_TRUE(policy->Check(Address(text), true).ok()) << text;
    EXPECT_TRUE(policy->Check(Address(text), false).ok()) << text;
  }
  for (const char* text : {"10.2.0.1", "127.0.0.2", "fe80::1", "::2"}) {
    EXPECT_FALSE(policy->Check(Address(text), true).ok()) << text;
  }
  EXPECT_TRUE(policy->Check(Address("8.8.8.8"), true).ok());
  EXPECT_THAT(std::string(policy->Check(Address("8.8.8.8"), false).message()), HasSubstr("use https://"));
}

TEST(AddressPolicy, RangesThatAreNoneAreNamed) {
  for (const char* text : {"10.0.0.0/33", "ten", "10.0.0", "fd00::/129", "10.0.0.1/", ":::"}) {
    EXPECT_THAT(std::string(AddressPolicy::Parse(text).status().message()), HasSubstr("is no address range")) << text;
  }
  EXPECT_TRUE(AddressPolicy::Parse("").ok());
}

}  // namespace
}  // namespace gantry::billing
