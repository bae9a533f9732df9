// For tests: a SQLite VFS whose files are in memory and whose disk misbehaves on command.
//
// What is written is visible at once, as through a kernel's page cache, and durable once a sync of the file succeeded;
// a name is durable once its directory was synced (SQLite does that for its logs). LosePower keeps what is durable and
// decides for every sector of every later write by itself, so that later writes may survive earlier ones and a write
// may survive in parts. A sync that fails leaves the nastiest state that kernels are known for: some sectors reached
// the disk, the others never will unless they are written again, all of them look clean, and a second sync succeeds.
//
// Randomness, time and sleeping are those of the machine's VFS. Locks and shared memory work between the connections of
// this process, so that the database runs in WAL mode with readers.
//
// Threads: any. Registered with SQLite under name() while it lives; all its connections are closed before it goes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace gantry::billing {

class FaultyVfs {
 public:
  enum class Fault {
    kIoError,    // nothing of a write is done; a sync fails as told above
    kTorn,       // a write is done in part and fails with an I/O error; a sync as kIoError
    kFull,       // a write is done in part and finds no space; a sync as kIoError
    kReadError,  // the n-th read fails
  };
  // Which operation a fault hit.
  struct Hit {
    enum class File { kNone, kDatabase, kLog, kOther };
    File file = File::kNone;
    bool sync = false;
  };

  FaultyVfs();
  ~FaultyVfs();
  FaultyVfs(const FaultyVfs&) = delete;

  const char* name() const;

  // The n-th write, truncation, sync or removal from now (1: the next; kReadError: the n-th read) fails; with `stays`
  // all after it as well. `seed` decides what is in part and what a failed sync left behind.
  void FailAt(int64_t n, Fault fault, bool stays, uint64_t seed);
  // Everything works again.
  void Heal();
  // What the last fault hit, since FailAt.
  Hit hit() const;
  // Writes, truncations, syncs and removals so far.
  int64_t operations() const;

  // After all connections are closed.
  void LosePower(uint64_t seed);

  // The files as they are, as another disk: for trying several ends of the same story.
  struct Image;
  std::shared_ptr<const Image> Save() const;
  void Load(const std::shared_ptr<const Image>& image);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry::billing
