#include "services/common/allow_list.h"

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace gantry {

const std::vector<AllowRule>& AllowList() {
  static const auto* rules = new std::vector<AllowRule>{
      {"worker", "router", "gantry.v1.Fleet/Attach"},
      {"worker", "billing", "gantry.v1.Usage/AppendWitness"},

      {"gateway", "router", "gantry.v1.Inference/Generate"},
      {"gateway", "router", "gantry.v1.Inference/GetBlob"},
      {"gateway", "router", "gantry.v1.Inference/ListModels"},
      {"gateway", "billing", "gantry.v1.Credit/*"},
      {"gateway", "billing", "gantry.v1.Leases/Attach"},
      {"gateway", "billing", "gantry.v1.Usage/AppendUsage"},
      {"gateway", "billing", "gantry.v1.Catalog/*"},

      // Nothing of billing: the router is told neither prices nor names.
      {"router", "worker", "gantry.v1.Inference/*"},

      {"admin", "billing", "gantry.v1.BillingAdmin/*"},
      {"admin", "billing", "gantry.v1.ReceiptAdmin/*"},
      {"admin", "billing", "gantry.v1.UserAdmin/*"},
      {"admin", "billing", "gantry.v1.NotificationAdmin/*"},
      {"admin", "billing", "gantry.v1.QuoteAdmin/*"},
      {"admin", "billing", "gantry.v1.ClosingAdmin/*"},
      {"admin", "billing", "gantry.v1.InvoiceAdmin/*"},
      {"admin", "billing", "gantry.v1.GatewayAdmin/*"},
      {"admin", "billing", "gantry.v1.AuditAdmin/*"},
      {"admin", "*", "gantry.v1.Process/*"},
  };
  return *rules;
}

bool IsAllowed(absl::string_view identity, absl::string_view server, absl::string_view path) {
  if (!absl::ConsumePrefix(&path, "/")) return false;
  for (const AllowRule& rule : AllowList()) {
    if (rule.identity != identity || (rule.server != "*" && rule.server != server)) continue;
    absl::string_view method = rule.method;
    if (absl::ConsumeSuffix(&method, "*") ? absl::StartsWith(path, method) && path.find('/', method.size()) == path.npos
                                          : path == method) {
      return true;
    }
  }
  return false;
}

}  // namespace gantry
