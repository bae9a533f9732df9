// What is inside a sealed backup: files, then a manifest that names them.
//
//   entry:  u32 length of the name | name | u64 bytes | the bytes | SHA-256 of the bytes, 32 bytes     (little endian)
//   the last entry is "manifest.json":
//   {"format": 1, "backup_id": hex, "books_id": hex, "made_us": …, "made": "2026-07-14T…Z", "epoch": 1, "sequence": 42,
//    "schema_version": 4, "version": "…", "command_log": false, "files": [{"name": …, "bytes": …, "sha256": hex}],
//    "tables": [{"table": "transfer", "last_seq": 7, "head": hex}]}
// `tables`: every table numbered by `seq`, the number of its last row and, when it is chained, that row's hash.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "billing/backup/sealed_file.h"
#include "billing/store/command_log.h"
#include "services/common/ids.h"

namespace gantry::billing {

inline constexpr char kBackupDatabase[] = "billing/gantry.db";

struct BackupTable {
  std::string name;
  int64_t last_seq = 0;
  std::string head;  // 32 bytes or none
  friend bool operator==(const BackupTable&, const BackupTable&) = default;
};

struct BackupManifest {
  struct File {
    std::string name;
    uint64_t bytes = 0;
    std::string sha256;  // 32 bytes
  };
  Id16 backup_id, books_id;
  int64_t made_us = 0;  // everything acknowledged before is in it
  BooksPosition position;
  uint32_t schema_version = 0;
  std::string version;
  bool command_log = false;
  std::vector<File> files;
  std::vector<BackupTable> tables;
};

class BackupWriter {
 public:
  static absl::StatusOr<std::unique_ptr<BackupWriter>> Create(const std::string& path, const Secret& passphrase,
                                                              const SealOptions& options = {});
  // INVALID_ARGUMENT: a name that is no relative path of plain parts.
  absl::Status BeginFile(const std::string& name, uint64_t bytes);
  absl::Status Write(absl::string_view bytes);
  absl::Status EndFile();  // DATA_LOSS: more or fewer bytes came than were announced
  // Completes the manifest with the files and ends the backup.
  absl::Status Finish(BackupManifest manifest);

 private:
  explicit BackupWriter(std::unique_ptr<SealedWriter> sealed) : sealed_(std::move(sealed)) {}
  std::unique_ptr<SealedWriter> sealed_;
  std::vector<BackupManifest::File> files_;
  uint64_t left_ = 0;
  struct Digest;
  std::shared_ptr<Digest> digest_;
};

// What to do with a backup's files as they are read. Null: nothing.
struct BackupSink {
  std::function<absl::Status(const std::string& name, uint64_t bytes)> begin;
  std::function<absl::Status(absl::string_view bytes)> write;
  std::function<absl::Status()> end;
};
// Reads the whole backup, checks all of it, and gives what it says of itself. Errors of SealedReader; DATA_LOSS.
absl::StatusOr<BackupManifest> ReadBackup(const std::string& path, const Secret& passphrase,
                                          const BackupSink& sink = {});

}  // namespace gantry::billing
