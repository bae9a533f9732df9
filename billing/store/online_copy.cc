#include "billing/store/online_copy.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "billing/store/database.h"
#include "services/common/file.h"

namespace gantry::billing {

absl::StatusOr<std::unique_ptr<OnlineCopy>> OnlineCopy::Start(Database& source, const std::string& path) {
  const std::string part = path + ".part";
  unlink(part.c_str());
  const int fd = open(part.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return absl::PermissionDeniedError(absl::StrCat("cannot write ", part, ": ", std::strerror(errno)));
  std::unique_ptr<OnlineCopy> copy(new OnlineCopy(path, fd));
  int code = sqlite3_open_v2(part.c_str(), &copy->copy_, SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE, nullptr);
  // Finish syncs once, and a half copy is of no use.
  if (code == SQLITE_OK) {
    code = sqlite3_exec(copy->copy_, "PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF", nullptr, nullptr, nullptr);
  }
  if (code == SQLITE_OK) copy->backup_ = sqlite3_backup_init(copy->copy_, "main", source.handle(), "main");
  if (copy->backup_ == nullptr) {
    return copy->Explain(SqliteStatus(sqlite3_errcode(copy->copy_), sqlite3_errmsg(copy->copy_)));
  }
  return copy;
}

OnlineCopy::~OnlineCopy() {
  Close();
  if (!finished_) unlink(part_.c_str());
}

void OnlineCopy::Close() {
  if (backup_ != nullptr) sqlite3_backup_finish(backup_);
  if (copy_ != nullptr) sqlite3_close(copy_);
  if (fd_ >= 0) close(fd_);
  backup_ = nullptr;
  copy_ = nullptr;
  fd_ = -1;
}

absl::Status OnlineCopy::Explain(const absl::Status& status) const {
  return absl::Status(status.code(), absl::StrCat("copying the database to ", path_, ": ", status.message()));
}

absl::StatusOr<bool> OnlineCopy::Step(int pages) {
  int code = sqlite3_backup_step(backup_, pages);
  if (code == SQLITE_OK) return false;
  const bool done = code == SQLITE_DONE;
  // It ends the copy's transaction, and is where its last write may fail.
  code = sqlite3_backup_finish(backup_);
  backup_ = nullptr;
  if (done && code == SQLITE_OK) return true;
  return Explain(SqliteStatus(code, sqlite3_errmsg(copy_)));
}

absl::Status OnlineCopy::Finish() {
  if (copy_ != nullptr && sqlite3_close(copy_) == SQLITE_OK) copy_ = nullptr;
  if (fsync(fd_) != 0) return Explain(absl::DataLossError(absl::StrCat("fsync: ", std::strerror(errno))));
  if (rename(part_.c_str(), path_.c_str()) != 0) {
    return Explain(absl::PermissionDeniedError(absl::StrCat("rename: ", std::strerror(errno))));
  }
  finished_ = true;
  return PosixFileSystem()->SyncDirectory(std::filesystem::absolute(path_).parent_path().string());
}

}  // namespace gantry::billing
