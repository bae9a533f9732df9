// A copy of a database that is in use, made in steps between its commits (SQLite's backup API).
//
// The source is the writer's own connection: what it commits between two steps goes into the pages that were copied
// already, so the copy never starts again, holds no reader's snapshot and is, once complete, the state of the last
// commit before its last step. (From a reader's connection every commit would start it anew, or one long snapshot would
// keep the write-ahead log from beginning again.)
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_backup;

namespace gantry::billing {

class Database;

class OnlineCopy {
 public:
  // Writes to `path`.part (0600). `source` outlives it or the last Step.
  static absl::StatusOr<std::unique_ptr<OnlineCopy>> Start(Database& source, const std::string& path);
  ~OnlineCopy();
  OnlineCopy(const OnlineCopy&) = delete;
  OnlineCopy& operator=(const OnlineCopy&) = delete;

  // Copies so many pages more, all of them for -1. True once it is complete. On the source's thread, outside of
  // transactions.
  absl::StatusOr<bool> Step(int pages);
  // Syncs the complete copy and gives it its name; an older file of that name is replaced. Any thread.
  absl::Status Finish();

 private:
  OnlineCopy(std::string path, int fd) : path_(std::move(path)), part_(path_ + ".part"), fd_(fd) {}
  absl::Status Explain(const absl::Status& status) const;
  void Close();

  const std::string path_, part_;
  int fd_;
  sqlite3* copy_ = nullptr;
  sqlite3_backup* backup_ = nullptr;
  bool finished_ = false;
};

}  // namespace gantry::billing
