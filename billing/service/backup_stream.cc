#include "billing/service/backup_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/backup/books_facts.h"
#include "billing/service/admin_call.h"
#include "billing/store/lineage.h"
#include "engine/base/status_macros.h"
#include "services/common/grpc_status.h"
#include "services/common/ids.h"
#include "services/common/lifecycle.h"

namespace gantry::billing {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

// Refuses at once.
class RefusedBackup final : public grpc::ServerWriteReactor<v1::BackupChunk> {
 public:
  explicit RefusedBackup(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

// One callback after the other; never two at a time.
class BackupStream final : public grpc::ServerWriteReactor<v1::BackupChunk> {
 public:
  BackupStream(const Context* context, std::atomic<bool>* busy)
      : context_(context),
        busy_(busy),
        id_(NewTimeOrderedId()),
        copy_(absl::StrCat(context->data_dir, "/", kCopyPrefix, id_.ToHex())) {
    facts_.set_backup_id(id_.ToBytes());
    // Whatever is acknowledged by now is in the copy.
    facts_.set_made_us(context_->clock());
    context_->store->Copy(copy_, [this](const absl::Status& status) {
      const absl::Status ready = status.ok() ? ReadFacts() : status;
      if (!ready.ok()) return Finish(ToGrpcStatus(ready));
      Next();
    });
  }
  ~BackupStream() override {
    if (fd_ >= 0) close(fd_);
    unlink(copy_.c_str());
    *busy_ = false;
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the caller has left"));
    if (finished_) return Finish(grpc::Status::OK);
    Next();
  }
  void OnDone() override { delete this; }

 private:
  struct Source {
    std::string name, path;
  };

  absl::Status ReadFacts() {
    {
      GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Database> copy, Database::Open(copy_, Database::Mode::kReader));
      GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(*copy));
      GANTRY_ASSIGN_OR_RETURN(const int64_t schema, SchemaVersion(*copy));
      GANTRY_ASSIGN_OR_RETURN(const std::vector<BackupTable> tables, NumberedTables(*copy));
      facts_.set_books_id(lineage.books_id.ToBytes());
      facts_.set_epoch(lineage.position.epoch);
      facts_.set_sequence(lineage.position.sequence);
      facts_.set_command_log(lineage.logged);
      facts_.set_schema_version(static_cast<uint32_t>(schema));
      facts_.set_version(BuildVersion());
      for (const BackupTable& table : tables) {
        v1::BackupTable* out = facts_.add_tables();
        out->set_name(table.name);
        out->set_last_seq(table.last_seq);
        out->set_head(table.head);
      }
    }
    sources_.push_back({kBackupDatabase, copy_});
    GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesBeside(context_->data_dir));
    for (const std::string& name : names) {
      sources_.push_back({absl::StrCat("billing/", name), absl::StrCat(context_->data_dir, "/", name)});
    }
    return absl::OkStatus();
  }

  void Next() {
    chunk_.Clear();
    const absl::Status status = Fill();
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    StartWrite(&chunk_);
  }

  absl::Status Fill() {
    if (fd_ >= 0 && left_ == 0) {
      close(fd_);
      fd_ = -1;
    }
    if (fd_ < 0 && sources_.empty()) {
      *chunk_.mutable_facts() = facts_;
      finished_ = true;
      return absl::OkStatus();
    }
    if (fd_ < 0) {
      source_ = sources_.front();
      sources_.pop_front();
      struct stat info = {};
      fd_ = open(source_.path.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd_ < 0 || fstat(fd_, &info) != 0) return Failed();
      left_ = static_cast<uint64_t>(info.st_size);
      chunk_.mutable_file()->set_name(source_.name);
      chunk_.mutable_file()->set_bytes(left_);
      return absl::OkStatus();
    }
    std::string& data = *chunk_.mutable_data();
    data.resize(std::min<uint64_t>(left_, kChunkBytes));
    ssize_t n = 0;
    do {
      n = read(fd_, data.data(), data.size());
    } while (n < 0 && errno == EINTR);
    if (n <= 0) return Failed();
    data.resize(static_cast<size_t>(n));
    left_ -= static_cast<uint64_t>(n);
    return absl::OkStatus();
  }
  absl::Status Failed() const {
    return absl::DataLossError(absl::StrCat(source_.path, " cannot be read: ", std::strerror(errno)));
  }

  const Context* const context_;
  std::atomic<bool>* const busy_;
  const Id16 id_;
  const std::string copy_;
  v1::BackupFacts facts_;
  std::deque<Source> sources_;
  Source source_;
  int fd_ = -1;
  uint64_t left_ = 0;
  v1::BackupChunk chunk_;
  bool finished_ = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::BackupChunk>* StreamBackup(const Context* context, grpc::CallbackServerContext* call,
                                                        std::atomic<bool>* busy) {
  if (!UserTokenOf(*call).empty()) {
    return new RefusedBackup(absl::PermissionDeniedError("CreateBackup is the administrator's alone"));
  }
  if (busy->exchange(true)) {
    return new RefusedBackup(absl::ResourceExhaustedError("a backup is being made; wait for it, or end it"));
  }
  return new BackupStream(context, busy);
}

void RemoveBackupCopies(const std::string& data_dir) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(data_dir, error)) {
    if (absl::StartsWith(entry.path().filename().string(), kCopyPrefix)) std::filesystem::remove(entry.path(), error);
  }
}

}  // namespace gantry::billing
