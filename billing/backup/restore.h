// Backup and command log back into books (rule R14).
//
// With a command log the books come back to their last acknowledgement; without, to the moment of the backup, and the
// report says what cannot come back. Either way a new epoch begins: what gateways hold of the old one is fenced, and
// unless everything came back, invoices go on in a new series, so that no number is given twice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/backup/backup_file.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct RestoreOptions {
  std::string backup;  // file
  Secret passphrase;
  std::string data_dir;     // the installation's; made when missing
  std::string command_log;  // directory; empty: the backup alone
  int64_t now_us = 0;
};

struct RestoreReport {
  BackupManifest manifest;
  std::vector<std::string> files;  // that were written, relative to the data dir
  int64_t replayed = 0;            // group commits out of the command log
  int64_t last_us = 0;             // of the last one, else when the backup was made
  bool complete = false;           // the command log held everything acknowledged
  bool audited = false;  // not when the schema is older than this program: it is brought up to date at the start
  bool audit_ok = false;
  std::string audit_failures;  // one line a failed check
  uint32_t epoch = 0;          // the new one
  std::string series_mark;     // in the numbers of invoices from now on; empty: as before
};

// FAILED_PRECONDITION: the data dir has books or one of the files already; the command log is of other books or lacks
// what follows the backup (nothing is restored then: without `command_log` the backup alone is). Errors of ReadBackup.
// Nothing is in its place before everything is checked and synced; what failed leaves the data dir as it was.
absl::StatusOr<RestoreReport> Restore(const RestoreOptions& options);

}  // namespace gantry::billing
