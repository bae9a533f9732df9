// The file layer under everything that must not lose a record: thin over POSIX, and replaceable in tests by one that
// fails.
//
// Threads: a FileSystem may be used by several threads, a File by one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry {

class File {
 public:
  virtual ~File() = default;
  // All of `bytes` or an error; after an error the file's end is unknown.
  virtual absl::Status Append(absl::string_view bytes) = 0;
  // Data and length survive power loss once this returned OK. After an error never try again on this descriptor: the
  // kernel may have dropped the dirty pages, and a second try would report success for data that is gone.
  virtual absl::Status Sync() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // A new, empty file; ALREADY_EXISTS when there is one.
  virtual absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) = 0;
  virtual absl::StatusOr<std::string> Read(const std::string& path) = 0;
  virtual absl::Status Truncate(const std::string& path, int64_t bytes) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;
  // Names (without the directory) of the files in it, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& directory) = 0;
  virtual absl::Status CreateDirectory(const std::string& directory) = 0;
  // Created and removed names survive power loss once this returned OK.
  virtual absl::Status SyncDirectory(const std::string& directory) = 0;
};

// Lives for ever.
FileSystem* PosixFileSystem();

// In memory. What is written is visible at once and durable once a sync succeeded; a name is durable once its directory
// was synced. Any operation can be made to fail. A sync that fails leaves the nastiest state that kernels are known
// for: some sectors reached the disk, the others never will, all look clean, and a second sync succeeds.
class FaultyFileSystem final : public FileSystem {
 public:
  // The n-th operation from now (1 = the next) and all after it fail with `status`; a failing Append leaves half of its
  // bytes, a failing Sync nothing of what it should have written.
  void FailFrom(int n, absl::Status status);
  // The n-th operation alone, or with `stays` all after it as well; `seed` decides how much a failing Append leaves and
  // which sectors a failing Sync wrote.
  void FailAt(int n, absl::Status status, bool stays, uint64_t seed);
  void Heal();
  // Only what is durable remains.
  void LosePower();
  // What is durable remains, and of everything later each sector and each name by chance: a later write may survive an
  // earlier one.
  void LosePower(uint64_t seed);
  // Operations so far.
  int operations() const;

  absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) override;
  absl::StatusOr<std::string> Read(const std::string& path) override;
  absl::Status Truncate(const std::string& path, int64_t bytes) override;
  absl::Status Remove(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status CreateDirectory(const std::string& directory) override;
  absl::Status SyncDirectory(const std::string& directory) override;

 private:
  struct Write {
    size_t offset;
    std::string bytes;
  };
  struct Node {
    std::string visible;
    std::string durable;
    std::vector<Write> unsynced;
  };
  using Files = std::map<std::string, std::shared_ptr<Node>>;
  class OpenFile;
  absl::Status Count();
  static void ApplySome(const Write& write, uint64_t percent, std::mt19937_64& random, std::string* bytes);

  mutable std::mutex mutex_;
  Files files_;
  Files durable_names_;  // what LosePower restores
  int operations_ = 0;
  int fail_from_ = 0;  // operation number; 0: none
  bool fail_stays_ = true;
  bool by_chance_ = false;  // FailAt, not FailFrom
  std::mt19937_64 random_{1};
  absl::Status failure_;
};

}  // namespace gantry
