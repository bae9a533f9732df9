#include "services/common/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace gantry {

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
Metrics::~Metrics() = default;

std::string Metrics::Render() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace gantry
