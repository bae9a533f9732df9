#include "gateway/testing/gateway_fixture.h"

#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/metering/token_digest.h"

namespace gantry::gateway {

GatewayFixture::GatewayFixture() {
  party_ = billing_.AddTenant("demo", kBalanceMicro);
  key_ = billing_.AddKey(party_);
  options_.http.address = "127.0.0.1:0";
  options_.rpc.process = "gateway";
  options_.identity = identities_.Get("gateway");
  options_.router = router_.address();
  options_.billing = billing_.address();
  options_.state_dir = identities_.dir() + "/gateway";
  options_.file_system = &files_;
}

void GatewayFixture::TearDown() {
  if (gateway_ != nullptr) {
    gateway_->Drain(absl::Seconds(5));
    gateway_.reset();
  }
  for (const std::string& violation : billing_.violations())
    ADD_FAILURE() << "the gateway broke a promise: " << violation;
}

void GatewayFixture::StartGateway(bool wait) {
  absl::StatusOr<std::unique_ptr<Gateway>> gateway = Gateway::Start(options_, nullptr);
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  gateway_ = *std::move(gateway);
  if (wait) WaitReady();
}

void GatewayFixture::WaitReady() {
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  while (!gateway_->ready() && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(2));
  ASSERT_TRUE(gateway_->ready());
}

void GatewayFixture::CrashGateway() {
  files_.FailFrom(1, absl::UnavailableError("the process is gone"));
  gateway_.reset();
  files_.Heal();
  files_.LosePower();
}

std::string GatewayFixture::ChatBody(const std::string& more) {
  return absl::StrCat(R"({"model":"demo","messages":[{"role":"user","content":"Hi"}])", more.empty() ? "" : ",", more,
                      "}");
}

std::string GatewayFixture::TextOf(const HttpAnswer& answer, size_t choice) {
  std::string text;
  for (const std::string& event : answer.Events()) {
    const Json chunk = Json::parse(event, nullptr, false);
    if (!chunk.is_object() || !chunk.contains("choices")) continue;
    for (const Json& one : chunk["choices"]) {
      if (one["index"] != choice) continue;
      if (one.contains("text")) text += one["text"].get<std::string>();
      if (one.contains("delta") && one["delta"].contains("content") && one["delta"]["content"].is_string()) {
        text += one["delta"]["content"].get<std::string>();
      }
    }
  }
  return text;
}

GatewayFixture::ShownIds GatewayFixture::IdsIn(const HttpAnswer& answer) {
  // Events of different prompts come in any order.
  std::map<int, ShownIds> choices;
  const auto add = [](const Json& from, const char* name, std::vector<uint32_t>* to) {
    for (const Json& id : from.value(name, Json::array())) to->push_back(id.get<uint32_t>());
  };
  const auto read = [&](const Json& reply) {
    add(reply, "prompt_token_ids", &choices[0].prompt);
    for (const Json& choice : reply.value("choices", Json::array())) {
      ShownIds& ids = choices[choice["index"].get<int>()];
      add(choice, "prompt_token_ids", &ids.prompt);
      add(choice, "token_ids", &ids.output);
    }
  };
  if (absl::StartsWith(answer.body, "data:")) {
    for (const std::string& event : answer.Events()) {
      if (event != "[DONE]") read(Json::parse(event));
    }
  } else {
    read(answer.json());
  }
  ShownIds all;
  for (const auto& [index, ids] : choices) {
    all.prompt.insert(all.prompt.end(), ids.prompt.begin(), ids.prompt.end());
    all.output.insert(all.output.end(), ids.output.begin(), ids.output.end());
  }
  return all;
}

std::string GatewayFixture::DigestOf(const HttpAnswer& answer, const std::vector<uint32_t>& ids) {
  TokenDigest digest(absl::HexStringToBytes(answer.Header("gantry-receipt-nonce")));
  digest.Add(ids);
  return digest.Finish();
}

}  // namespace gantry::gateway
