#include "gateway/api/gateway_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "absl/strings/str_cat.h"

namespace gantry::gateway {
namespace {
const prometheus::Histogram::BucketBoundaries kFirstToken = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                             1,     2.5,  5,     10,   30,  60};
const prometheus::Histogram::BucketBoundaries kBetween = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04,
                                                          0.08,  0.16,   0.32,  0.64, 1.28, 5};
}  // namespace

struct GatewayMetrics::Families {
  explicit Families(prometheus::Registry& registry)
      : requests(prometheus::BuildCounter()
                     .Name("gantry_gateway_requests_total")
                     .Help("Requests answered, by model and HTTP status")
                     .Register(registry)),
        tokens(prometheus::BuildCounter()
                   .Name("gantry_gateway_tokens_total")
                   .Help("Tokens billed, by model and class")
                   .Register(registry)),
        refusals(prometheus::BuildCounter()
                     .Name("gantry_gateway_refusals_total")
                     .Help("Requests refused at admission, by reason")
                     .Register(registry)),
        first_token(prometheus::BuildHistogram()
                        .Name("gantry_gateway_time_to_first_token_seconds")
                        .Help("From the first byte of the request to the first token's text in the socket")
                        .Register(registry)),
        between(prometheus::BuildHistogram()
                    .Name("gantry_gateway_time_between_tokens_seconds")
                    .Help("Between writes of text of one stream")
                    .Register(registry)
                    .Add({}, kBetween)),
        active(prometheus::BuildGauge()
                   .Name("gantry_gateway_active_streams")
                   .Help("Requests that are generating")
                   .Register(registry)
                   .Add({})),
        spool_bytes(prometheus::BuildGauge()
                        .Name("gantry_gateway_spool_bytes")
                        .Help("Bytes of usage records on disk")
                        .Register(registry)
                        .Add({})),
        spool_fsync(prometheus::BuildGauge()
                        .Name("gantry_gateway_spool_fsync_seconds")
                        .Help("Duration of the last group commit of the spool")
                        .Register(registry)
                        .Add({})),
        reserved(prometheus::BuildCounter()
                     .Name("gantry_gateway_reserved_holds_total")
                     .Help("Requests whose money was set aside by a call of their own, because it was short")
                     .Register(registry)
                     .Add({})) {}
  prometheus::Family<prometheus::Counter>& requests;
  prometheus::Family<prometheus::Counter>& tokens;
  prometheus::Family<prometheus::Counter>& refusals;
  prometheus::Family<prometheus::Histogram>& first_token;
  prometheus::Histogram& between;
  prometheus::Gauge& active;
  prometheus::Gauge& spool_bytes;
  prometheus::Gauge& spool_fsync;
  prometheus::Counter& reserved;
};

GatewayMetrics::GatewayMetrics() : families_(std::make_unique<Families>(*metrics_.registry())) {}
GatewayMetrics::~GatewayMetrics() = default;

void GatewayMetrics::Request(absl::string_view model, int status) {
  families_->requests.Add({{"model", std::string(model)}, {"code", absl::StrCat(status)}}).Increment();
}
void GatewayMetrics::Tokens(absl::string_view model, uint64_t input, uint64_t cached, uint64_t output) {
  auto add = [&](const char* token_class, uint64_t n) {
    families_->tokens.Add({{"model", std::string(model)}, {"class", token_class}}).Increment(static_cast<double>(n));
  };
  add("input", input);
  add("cached", cached);
  add("output", output);
}
void GatewayMetrics::FirstToken(absl::string_view model, absl::Duration since_received) {
  families_->first_token.Add({{"model", std::string(model)}}, kFirstToken)
      .Observe(absl::ToDoubleSeconds(since_received));
}
void GatewayMetrics::BetweenTokens(absl::Duration gap) {
  families_->between.Observe(absl::ToDoubleSeconds(gap));
}
void GatewayMetrics::Refused(absl::string_view reason) {
  families_->refusals.Add({{"reason", std::string(reason)}}).Increment();
}
void GatewayMetrics::StreamStarted() {
  families_->active.Increment();
}
void GatewayMetrics::StreamEnded() {
  families_->active.Decrement();
}
void GatewayMetrics::Spool(int64_t bytes, double last_sync_ms) {
  families_->spool_bytes.Set(static_cast<double>(bytes));
  families_->spool_fsync.Set(last_sync_ms / 1000);
}
void GatewayMetrics::ReservedHolds(int64_t total) {
  families_->reserved.Increment(static_cast<double>(total) - families_->reserved.Value());
}

}  // namespace gantry::gateway
