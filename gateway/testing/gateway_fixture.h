// A whole gateway between a fake router and a fake billing service, over unix sockets, with one tenant and one key.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gateway/gateway.h"
#include "gateway/testing/fake_billing.h"
#include "gateway/testing/fake_router.h"
#include "gateway/testing/http_client.h"
#include "gtest/gtest.h"
#include "services/common/file.h"
#include "services/common/rpc_test_util.h"

namespace gantry::gateway {

class GatewayFixture : public ::testing::Test {
 protected:
  static constexpr int64_t kBalanceMicro = 10'000'000;

  GatewayFixture();
  // Every test ends with books that fit and no promise broken.
  void TearDown() override;

  // Starts it with `options_` and waits until it is ready. `wait` false: returns at once.
  void StartGateway(bool wait = true);
  // As a kill would: nothing that it still wants to write is written.
  void CrashGateway();
  void WaitReady();
  int port() const { return gateway_->http_port(); }

  HttpAnswer Post(const std::string& path, const std::string& body) { return Ask(port(), "POST", path, key_, body); }
  HttpAnswer Chat(const std::string& body) { return Post("/v1/chat/completions", body); }
  // {"model":"demo","messages":[…],<more>}
  static std::string ChatBody(const std::string& more = "");
  // Text of a streamed reply's content.
  static std::string TextOf(const HttpAnswer& answer, size_t choice = 0);
  // `prompt_token_ids` and `token_ids` of a reply, streamed or not, in the order of its choices.
  struct ShownIds {
    std::vector<uint32_t> prompt, output;
  };
  static ShownIds IdsIn(const HttpAnswer& answer);
  // What the tenant can compute from ids and the nonce in its reply's header.
  static std::string DigestOf(const HttpAnswer& answer, const std::vector<uint32_t>& ids);

  TestIdentities identities_;
  FaultyFileSystem files_;
  FakeBilling billing_{identities_};
  FakeRouter router_{identities_};
  Id16 party_;
  std::string key_;
  GatewayOptions options_;
  std::unique_ptr<Gateway> gateway_;
};

}  // namespace gantry::gateway
