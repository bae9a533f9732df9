// A gateway that is lost with its slices (R9): it is given up, and comes back only when it starts anew.
#include <grpcpp/grpcpp.h>

#include "absl/time/clock.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/credit/rig.h"

namespace gantry::testing {
namespace {

using billing::Deadline;

v1::GatewayStatus Find(CreditRig& rig, const Id16& id) {
  const v1::ListGatewaysResponse list =
      billing::Done(rig.gateways(), &v1::GatewayAdmin::Stub::ListGateways, v1::ListGatewaysRequest());
  for (const v1::GatewayStatus& status : list.gateways()) {
    if (status.gateway_id() == id.ToBytes()) return status;
  }
  return {};
}

grpc::Status Forget(CreditRig& rig, const Id16& id, v1::GatewayStatus* status) {
  Deadline context;
  v1::ForgetGatewayRequest request;
  request.set_idempotency_key("forget " + id.ToHex() + absl::FormatTime(absl::Now()));
  request.set_gateway_id(id.ToBytes());
  return rig.gateways().ForgetGateway(&context, request, status);
}

TEST(LostGateway, IsForgottenAndRefusedUntilItStartsAnew) {
  CreditRig rig(1'000'000);
  const std::string key = rig.NewKey();
  Id16 id;
  v1::GatewayStatus status;
  {
    GatewayRig gateway(&rig, "first", 100'000);
    id = gateway.id();
    gateway.WaitReady();
    gateway.WaitForKey(key);
    EXPECT_EQ(gateway.Serve(key, 10, 10), "");
    status = Find(rig, id);
    EXPECT_TRUE(status.attached());
    EXPECT_TRUE(status.alone());
    EXPECT_GE(status.open_slices(), 1U);
    EXPECT_EQ(Forget(rig, id, &status).error_code(), grpc::StatusCode::FAILED_PRECONDITION) << "it is not lost";
    // Dies here, with its slices.
  }
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (Find(rig, id).attached() && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(5));
  const uint64_t epoch = Find(rig, id).epoch();
  ASSERT_TRUE(Forget(rig, id, &status).ok());
  EXPECT_GT(status.epoch(), epoch) << "fenced at once";
  EXPECT_GT(status.forgotten_us(), 0);
  EXPECT_GT(status.freed_us(), status.since_us()) << "by the ordinary rule: longest request and witness deadline";
  EXPECT_GT(rig.Balance().held_micro(), 0) << "not before";

  // The old process, back from wherever it was.
  auto credit = v1::Credit::NewStub(MakeChannel(rig.address(), rig.identities().Get("gateway")));
  v1::GrantSliceRequest grant;
  grant.set_slice_id(NewTimeOrderedId().ToBytes());
  grant.set_gateway_id(id.ToBytes());
  grant.set_gateway_epoch(epoch);
  grant.set_party_id(NewTimeOrderedId().ToBytes());
  grant.set_wanted_micro(1);
  grant.set_minimum_micro(1);
  v1::GrantSliceResponse granted;
  Deadline context;
  EXPECT_EQ(credit->GrantSlice(&context, grant, &granted).error_code(), grpc::StatusCode::ABORTED);

  GatewayRig anew(&rig, "first", 100'000);
  anew.WaitReady();
  anew.WaitForKey(key);
  EXPECT_EQ(anew.Serve(key, 10, 10), "");
  EXPECT_EQ(Find(rig, id).forgotten_us(), 0);
  EXPECT_TRUE(anew.Leave());
  const absl::Time left_by = absl::Now() + absl::Seconds(5);
  while (Find(rig, id).left_us() == 0 && absl::Now() < left_by) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GT(Find(rig, id).left_us(), 0) << "it went in good order";
}

TEST(LostGateway, WhatItHeldIsFreedAfterTheLongestRequestAndTheWitnessDeadline) {
  CreditRig rig(1'000'000, {.witness_deadline_ms = 400, .longest_request_ms = 600});
  const std::string key = rig.NewKey();
  Id16 id;
  {
    GatewayRig gateway(&rig, "first", 100'000);
    id = gateway.id();
    gateway.WaitReady();
    gateway.WaitForKey(key);
    EXPECT_EQ(gateway.Serve(key, 10, 10), "");
    // Dies here, with its slice.
  }
  absl::SleepFor(absl::Seconds(1.2));
  EXPECT_GT(rig.Balance().held_micro(), 0) << "its epoch may be living on: never";
  GatewayRig anew(&rig, "first", 100'000);
  anew.WaitReady();
  const absl::Time fenced = absl::FromUnixMicros(Find(rig, id).since_us());
  while (rig.Balance().held_micro() > 0 && absl::Now() < fenced + absl::Seconds(10)) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  const absl::Time freed = absl::Now();
  EXPECT_GE(freed - fenced, absl::Seconds(1)) << "0.6 s and 0.4 s after the newer epoch began";
  EXPECT_LT(freed - fenced, absl::Seconds(5));
  EXPECT_EQ(rig.Balance().held_micro(), 0);
  EXPECT_TRUE(anew.Leave());
}

TEST(LostGateway, MoneyThatLiesWithOneThatDoesNotAnswerIsNotGone) {
  CreditRig rig(1'000);
  const std::string key = rig.NewKey();
  Id16 lost;
  {
    GatewayRig gateway(&rig, "lost", 1'000);
    lost = gateway.id();
    gateway.WaitReady();
    gateway.WaitForKey(key);
    EXPECT_EQ(gateway.Serve(key, 10, 10), "") << "it holds all that there is";
  }
  GatewayRig other(&rig, "other", 1'000);
  other.WaitReady();
  other.WaitForKey(key);
  EXPECT_EQ(other.Serve(key, 10, 10), "billing_away") << "try again: the other may come back";
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (Find(rig, lost).attached() && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(5));
  v1::GatewayStatus status;
  ASSERT_TRUE(Forget(rig, lost, &status).ok());
  EXPECT_EQ(other.Serve(key, 10, 10), "funds") << "given up: gone until it is freed";
  EXPECT_TRUE(other.Leave());
}

}  // namespace
}  // namespace gantry::testing
