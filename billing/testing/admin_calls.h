// For tests that meet billing over its socket: what an administrator does there before anything can be used.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "gantry/v1/admin.grpc.pb.h"

namespace gantry::billing {

// Of one call, to a server that may be starting still.
struct Deadline : grpc::ClientContext {
  explicit Deadline(int seconds = 30) {
    set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
    set_wait_for_ready(true);
  }
};

template <typename Request>
Request Keyed(const std::string& idempotency_key) {
  Request request;
  request.set_idempotency_key(idempotency_key);
  return request;
}

template <typename Stub, typename Request, typename Response>
std::pair<grpc::Status, Response> Call(Stub& stub,
                                       grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                       const Request& request) {
  Deadline context;
  std::pair<grpc::Status, Response> result;
  result.first = (stub.*method)(&context, request, &result.second);
  return result;
}
// Of a call that fails the test when it is refused.
template <typename Stub, typename Request, typename Response>
Response Done(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
              const Request& request) {
  std::pair<grpc::Status, Response> result = Call(stub, method, request);
  EXPECT_TRUE(result.first.ok()) << result.first.error_message();
  return std::move(result.second);
}

using AdminStub = v1::BillingAdmin::Stub;

// The house comes first, and has EUR. `parent` empty: of the house.
v1::Party AddParty(AdminStub& admin, v1::PartyKind kind, const std::string& name, const std::string& parent = "",
                   int64_t credit_limit_micro = 0);
// The house's plan "standard", which tenants get without being subscribed: any model, by the prices of input, cached
// input, output and request, and a minimum a month.
v1::PlanVersion AddPlan(AdminStub& admin, const std::array<int64_t, 4>& prices_micro_per_m,
                        int64_t commitment_micro = 0);
v1::Balance AddMoney(AdminStub& admin, const std::string& party, int64_t micro);
v1::CreateKeyResponse AddKey(AdminStub& admin, const std::string& party, const std::string& idempotency_key);

}  // namespace gantry::billing
