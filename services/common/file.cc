#include "services/common/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace gantry {
namespace {

absl::Status Failed(const std::string& path, absl::string_view what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", what));
}

class PosixFile final : public File {
 public:
  PosixFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  ~PosixFile() override { close(fd_); }

  absl::Status Append(absl::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed(path_, "writing failed");
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override { return fdatasync(fd_) == 0 ? absl::OkStatus() : Failed(path_, "fsync failed"); }

 private:
  std::string path_;
  int fd_;
};

class Posix final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return Failed(path, "cannot be created");
    return std::make_unique<PosixFile>(path, fd);
  }

  absl::StatusOr<std::string> Read(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Failed(path, "cannot be opened");
    std::string bytes;
    char buffer[1 << 16];
    ssize_t n = 0;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
      if (n > 0) bytes.append(buffer, static_cast<size_t>(n));
    }
    const int saved_errno = errno;
    close(fd);
    errno = saved_errno;
    if (n < 0) return Failed(path, "reading failed");
    return bytes;
  }

  absl::Status Truncate(const std::string& path, int64_t bytes) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return Failed(path, "cannot be opened");
    const bool done = ftruncate(fd, bytes) == 0 && fsync(fd) == 0;
    const int saved_errno = errno;
    close(fd);
    errno = saved_errno;
    return done ? absl::OkStatus() : Failed(path, "cannot be truncated");
  }

  absl::Status Remove(const std::string& path) override {
    return unlink(path.c_str()) == 0 ? absl::OkStatus() : Failed(path, "cannot be removed");
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    DIR* dir = opendir(directory.c_str());
    if (dir == nullptr) return Failed(directory, "cannot be listed");
    std::vector<std::string> names;
    while (const dirent* entry = readdir(dir)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    closedir(dir);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status CreateDirectory(const std::string& directory) override {
    if (mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
    return Failed(directory, "cannot be created");
  }

  absl::Status SyncDirectory(const std::string& directory) override {
    const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Failed(directory, "cannot be opened");
    const bool done = fsync(fd) == 0;
    const int saved_errno = errno;
    close(fd);
    errno = saved_errno;
    return done ? absl::OkStatus() : Failed(directory, "fsync failed");
  }
};

}  // namespace

FileSystem* PosixFileSystem() {
  static auto* file_system = new Posix();
  return file_system;
}

// ---- in memory ----

namespace {

constexpr size_t kSector = 512;  // what a disk writes whole

// How much of what is not durable survives: often nothing or all, for these are what programs forget.
uint64_t SurvivalPercent(std::mt19937_64& random) {
  static constexpr uint64_t kPercent[] = {0, 100, 50, 10, 90};
  return kPercent[random() % 5];
}

}  // namespace

class FaultyFileSystem::OpenFile final : public File {
 public:
  OpenFile(FaultyFileSystem* owner, std::shared_ptr<Node> node) : owner_(owner), node_(std::move(node)) {}

  absl::Status Append(absl::string_view bytes) override {
    std::lock_guard lock(owner_->mutex_);
    const absl::Status status = owner_->Count();
    if (!status.ok()) {
      bytes = bytes.substr(0, owner_->by_chance_ ? owner_->random_() % (bytes.size() + 1) : bytes.size() / 2);
      // Where there is no room there is none for the last byte.
      if (absl::IsResourceExhausted(status) && !bytes.empty()) bytes.remove_suffix(1);
    }
    node_->unsynced.push_back({node_->visible.size(), std::string(bytes)});
    node_->visible.append(bytes.data(), bytes.size());
    return status;
  }
  absl::Status Sync() override {
    std::lock_guard lock(owner_->mutex_);
    const absl::Status status = owner_->Count();
    const uint64_t percent = status.ok() ? 100 : owner_->by_chance_ ? SurvivalPercent(owner_->random_) : 0;
    for (const Write& write : node_->unsynced) ApplySome(write, percent, owner_->random_, &node_->durable);
    node_->unsynced.clear();
    return status;
  }

 private:
  FaultyFileSystem* owner_;
  std::shared_ptr<Node> node_;
};

void FaultyFileSystem::ApplySome(const Write& write, uint64_t percent, std::mt19937_64& random, std::string* bytes) {
  for (size_t at = 0; at < write.bytes.size();) {
    const size_t offset = write.offset + at;
    const size_t length = std::min(kSector - offset % kSector, write.bytes.size() - at);
    if (random() % 100 < percent) {
      if (bytes->size() < offset + length) bytes->resize(offset + length);
      bytes->replace(offset, length, write.bytes, at, length);
    }
    at += length;
  }
}

absl::Status FaultyFileSystem::Count() {
  ++operations_;
  const bool fails = fail_from_ != 0 && (fail_stays_ ? operations_ >= fail_from_ : operations_ == fail_from_);
  return fails ? failure_ : absl::OkStatus();
}

void FaultyFileSystem::FailFrom(int n, absl::Status status) {
  std::lock_guard lock(mutex_);
  fail_from_ = operations_ + n;
  fail_stays_ = true;
  by_chance_ = false;
  failure_ = std::move(status);
}

void FaultyFileSystem::FailAt(int n, absl::Status status, bool stays, uint64_t seed) {
  std::lock_guard lock(mutex_);
  fail_from_ = operations_ + n;
  fail_stays_ = stays;
  by_chance_ = true;
  random_.seed(seed);
  failure_ = std::move(status);
}

void FaultyFileSystem::Heal() {
  std::lock_guard lock(mutex_);
  fail_from_ = 0;
}

void FaultyFileSystem::LosePower() {
  std::lock_guard lock(mutex_);
  files_ = durable_names_;
  for (auto& [path, node] : files_) {
    node->visible = node->durable;
    node->unsynced.clear();
  }
}

void FaultyFileSystem::LosePower(uint64_t seed) {
  std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  const uint64_t percent = SurvivalPercent(random);
  Files left;
  for (const auto& [path, node] : durable_names_) {
    if (files_.contains(path) || random() % 100 >= percent) left[path] = node;
  }
  for (const auto& [path, node] : files_) {
    if (!durable_names_.contains(path) && random() % 100 < percent) left[path] = node;
  }
  for (auto& [path, node] : left) {
    for (const Write& write : node->unsynced) ApplySome(write, percent, random, &node->durable);
    node->visible = node->durable;
    node->unsynced.clear();
  }
  files_ = left;
  durable_names_ = left;
}

int FaultyFileSystem::operations() const {
  std::lock_guard lock(mutex_);
  return operations_;
}

absl::StatusOr<std::unique_ptr<File>> FaultyFileSystem::Create(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  if (files_.contains(path)) return absl::AlreadyExistsError(absl::StrCat(path, ": cannot be created"));
  auto node = std::make_shared<Node>();
  files_[path] = node;
  return std::make_unique<OpenFile>(this, node);
}

absl::StatusOr<std::string> FaultyFileSystem::Read(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  const auto found = files_.find(path);
  if (found == files_.end()) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  return found->second->visible;
}

absl::Status FaultyFileSystem::Truncate(const std::string& path, int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  const auto found = files_.find(path);
  if (found == files_.end()) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  Node& node = *found->second;
  node.visible.resize(static_cast<size_t>(bytes));
  // It syncs, which writes what still counts as dirty and no more.
  for (const Write& write : node.unsynced) ApplySome(write, 100, random_, &node.durable);
  node.durable.resize(static_cast<size_t>(bytes));
  node.unsynced.clear();
  return absl::OkStatus();
}

absl::Status FaultyFileSystem::Remove(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  return files_.erase(path) == 1 ? absl::OkStatus() : absl::NotFoundError(absl::StrCat(path, ": cannot be removed"));
}

absl::StatusOr<std::vector<std::string>> FaultyFileSystem::List(const std::string& directory) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  std::vector<std::string> names;
  for (const auto& [path, node] : files_) {
    if (absl::StartsWith(path, directory + "/")) names.push_back(path.substr(directory.size() + 1));
  }
  return names;
}

absl::Status FaultyFileSystem::CreateDirectory(const std::string&) {
  std::lock_guard lock(mutex_);
  return Count();
}

absl::Status FaultyFileSystem::SyncDirectory(const std::string& directory) {
  std::lock_guard lock(mutex_);
  if (absl::Status status = Count(); !status.ok()) return status;
  for (auto name = durable_names_.begin(); name != durable_names_.end();) {
    const bool gone = absl::StartsWith(name->first, directory + "/") && !files_.contains(name->first);
    name = gone ? durable_names_.erase(name) : std::next(name);
  }
  for (const auto& [path, node] : files_) {
    if (absl::StartsWith(path, directory + "/")) durable_names_[path] = node;
  }
  return absl::OkStatus();
}

}  // namespace gantry
