#include "billing/backup/new_epoch.h"

#include "billing/ledger/credit.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::Status BeginEpoch(Database& database, const BooksPosition& position, const RestoreFacts& facts) {
  database.Execute("UPDATE lineage SET epoch = ?, sequence = ?", position.epoch, position.sequence);
  database.Execute("INSERT INTO restore (epoch, restored_us, backup_us, last_us, complete) VALUES (?, ?, ?, ?, ?)",
                   position.epoch, facts.now_us, facts.backup_us, facts.last_us, facts.complete ? 1 : 0);
  FenceGateways(database, facts.now_us);
  return absl::OkStatus();
}

}  // namespace gantry::billing
