#include "billing/store/faulty_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <random>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace gantry::billing {
namespace {

constexpr size_t kSector = 512;  // what a disk writes whole
constexpr int kShmLocks = SQLITE_SHM_NLOCK;

using Random = std::mt19937_64;

struct Operation {
  size_t offset = 0;
  std::string bytes;
  bool truncate = false;  // to `offset`
};

void Apply(const Operation& operation, std::string* bytes) {
  if (operation.truncate) {
    bytes->resize(operation.offset);
    return;
  }
  if (bytes->size() < operation.offset + operation.bytes.size())
    bytes->resize(operation.offset + operation.bytes.size());
  bytes->replace(operation.offset, operation.bytes.size(), operation.bytes);
}

// Some sectors of a write, `of` hundred of them; a truncation whole or not at all.
void ApplySome(const Operation& operation, uint64_t of, Random& random, std::string* bytes) {
  if (operation.truncate) {
    if (random() % 100 < of) Apply(operation, bytes);
    return;
  }
  for (size_t at = 0; at < operation.bytes.size();) {
    const size_t length = std::min(kSector - (operation.offset + at) % kSector, operation.bytes.size() - at);
    if (random() % 100 < of) Apply({operation.offset + at, operation.bytes.substr(at, length), false}, bytes);
    at += length;
  }
}

// How much of what is not durable survives: often nothing or all, for these are what programs forget.
uint64_t Survival(Random& random) {
  static constexpr uint64_t kPercent[] = {0, 100, 50, 10, 90};
  return kPercent[random() % 5];
}

struct Node {
  std::string visible;
  std::string durable;
  std::vector<Operation> unsynced;
  // Locks and shared memory, which no crash survives.
  int handles = 0;
  int shared = 0;
  const void* reserved = nullptr;
  const void* exclusive = nullptr;
  std::vector<std::unique_ptr<char[]>> regions;
  int shm_shared[kShmLocks] = {};
  const void* shm_exclusive[kShmLocks] = {};
};

using Files = std::map<std::string, std::shared_ptr<Node>>;

}  // namespace

struct FaultyVfs::Image {
  struct Content {
    std::string visible, durable;
    std::vector<Operation> unsynced;
  };
  std::vector<Content> nodes;
  std::map<std::string, size_t> files, durable_names;  // to an index in nodes
};

struct FaultyVfs::Impl {
  // What SQLite's sqlite3_file is here.
  struct OpenFile {
    sqlite3_file base;
    Impl* owner;
    std::shared_ptr<Node> node;
    std::string path;
    int lock = SQLITE_LOCK_NONE;
    uint32_t shm_shared = 0, shm_exclusive = 0;  // bits of the locks that this connection has
    bool sync_directory = false;                 // with the next sync
    bool delete_on_close = false;
  };

  sqlite3_vfs vfs{};
  sqlite3_io_methods methods{};
  std::string name;
  sqlite3_vfs* machine = nullptr;

  std::mutex mutex;  // guards what follows
  Files files, durable_names;
  int64_t operations = 0, reads = 0, temporary = 0;
  int64_t fail_at = 0, fail_read_at = 0;  // 0: never
  bool stays = false;
  Fault fault = Fault::kIoError;
  Random random{1};
  Hit hit;

  static Impl* Of(sqlite3_vfs* v) { return static_cast<Impl*>(v->pAppData); }
  static OpenFile* Of(sqlite3_file* file) { return reinterpret_cast<OpenFile*>(file); }

  static bool IsDue(int64_t count, int64_t at, bool stays) { return at != 0 && (stays ? count >= at : count == at); }
  void Remember(const std::string& path, bool sync) {
    if (hit.file != Hit::File::kNone) return;
    hit.sync = sync;
    hit.file = absl::EndsWith(path, "-wal")       ? Hit::File::kLog
               : absl::EndsWith(path, "-journal") ? Hit::File::kOther
                                                  : Hit::File::kDatabase;
  }
  bool Fails(const std::string& path, bool sync) {
    if (!IsDue(++operations, fail_at, stays)) return false;
    Remember(path, sync);
    return true;
  }

  // ---- files ----
  static int Open(sqlite3_vfs* v, const char* path, sqlite3_file* file, int flags, int* out_flags) {
    Impl* self = Of(v);
    std::lock_guard lock(self->mutex);
    const std::string key = path != nullptr ? path : absl::StrCat("temporary-", ++self->temporary);
    auto found = self->files.find(key);
    const bool is_new = found == self->files.end();
    file->pMethods = nullptr;
    if (is_new && (flags & SQLITE_OPEN_CREATE) == 0) return SQLITE_CANTOPEN;
    if (is_new) found = self->files.emplace(key, std::make_shared<Node>()).first;
    auto* open = new (file) OpenFile{};
    open->base.pMethods = &self->methods;
    open->owner = self;
    open->node = found->second;
    ++open->node->handles;
    open->path = key;
    open->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    // As the machine's VFS: the directory is synced with a log's first sync. Database::Open does it for the database.
    open->sync_directory =
        (flags & SQLITE_OPEN_CREATE) != 0 && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
    if (is_new && (flags & SQLITE_OPEN_MAIN_DB) != 0) self->durable_names[key] = found->second;
    if (out_flags != nullptr) *out_flags = flags;
    return SQLITE_OK;
  }
  static int Close(sqlite3_file* file) {
    OpenFile* open = Of(file);
    Unlock(file, SQLITE_LOCK_NONE);
    ShmUnmap(file, 0);
    {
      std::lock_guard lock(open->owner->mutex);
      if (open->delete_on_close) open->owner->files.erase(open->path);
      // The first to open anew makes a new index, as it does of a file that a crash left.
      if (--open->node->handles == 0) open->node->regions.clear();
    }
    open->~OpenFile();
    return SQLITE_OK;
  }
  static int Read(sqlite3_file* file, void* out, int amount, sqlite3_int64 offset) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    if (IsDue(++open->owner->reads, open->owner->fail_read_at, open->owner->stays)) {
      open->owner->Remember(open->path, false);
      return SQLITE_IOERR_READ;
    }
    const std::string& bytes = open->node->visible;
    const auto from = std::min(static_cast<size_t>(offset), bytes.size());
    const size_t got = std::min(static_cast<size_t>(amount), bytes.size() - from);
    std::memcpy(out, bytes.data() + from, got);
    if (got == static_cast<size_t>(amount)) return SQLITE_OK;
    std::memset(static_cast<char*>(out) + got, 0, static_cast<size_t>(amount) - got);
    return SQLITE_IOERR_SHORT_READ;
  }
  static int Write(sqlite3_file* file, const void* data, int amount, sqlite3_int64 offset) {
    OpenFile* open = Of(file);
    Impl* self = open->owner;
    std::lock_guard lock(self->mutex);
    Operation operation{static_cast<size_t>(offset),
                        std::string(static_cast<const char*>(data), static_cast<size_t>(amount)), false};
    int code = SQLITE_OK;
    if (self->Fails(open->path, false)) {
      code = self->fault == Fault::kFull ? SQLITE_FULL : SQLITE_IOERR_WRITE;
      operation.bytes.resize(self->fault == Fault::kIoError ? 0 : self->random() % operation.bytes.size());
      if (operation.bytes.empty()) return code;
    }
    Apply(operation, &open->node->visible);
    open->node->unsynced.push_back(std::move(operation));
    return code;
  }
  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    if (open->owner->Fails(open->path, false)) return SQLITE_IOERR_TRUNCATE;
    Operation operation{static_cast<size_t>(size), "", true};
    Apply(operation, &open->node->visible);
    open->node->unsynced.push_back(std::move(operation));
    return SQLITE_OK;
  }
  static int Sync(sqlite3_file* file, int) {
    OpenFile* open = Of(file);
    Impl* self = open->owner;
    std::lock_guard lock(self->mutex);
    if (self->Fails(open->path, true)) {
      const uint64_t some = Survival(self->random);
      for (const Operation& operation : open->node->unsynced) {
        ApplySome(operation, some, self->random, &open->node->durable);
      }
      open->node->unsynced.clear();
      return SQLITE_IOERR_FSYNC;
    }
    for (const Operation& operation : open->node->unsynced) Apply(operation, &open->node->durable);
    open->node->unsynced.clear();
    if (open->sync_directory) {
      if (self->Fails(open->path, true)) return SQLITE_IOERR_DIR_FSYNC;
      self->durable_names = self->files;
      open->sync_directory = false;
    }
    return SQLITE_OK;
  }
  static int FileSize(sqlite3_file* file, sqlite3_int64* size) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    *size = static_cast<sqlite3_int64>(open->node->visible.size());
    return SQLITE_OK;
  }
  static int FileControl(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
  static int SectorSize(sqlite3_file*) { return 4096; }
  static int DeviceCharacteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

  // ---- locks ----
  static int Lock(sqlite3_file* file, int level) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    Node& node = *open->node;
    if (level <= open->lock) return SQLITE_OK;
    if (node.exclusive != nullptr && node.exclusive != open) return SQLITE_BUSY;
    if (open->lock == SQLITE_LOCK_NONE) {
      ++node.shared;
      open->lock = SQLITE_LOCK_SHARED;
    }
    if (level >= SQLITE_LOCK_RESERVED) {
      if (node.reserved != nullptr && node.reserved != open) return SQLITE_BUSY;
      node.reserved = open;
      open->lock = SQLITE_LOCK_RESERVED;
    }
    if (level >= SQLITE_LOCK_PENDING) {
      if (node.shared > 1) return SQLITE_BUSY;
      node.exclusive = open;
      open->lock = SQLITE_LOCK_EXCLUSIVE;
    }
    return SQLITE_OK;
  }
  static int Unlock(sqlite3_file* file, int level) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    Node& node = *open->node;
    if (level < SQLITE_LOCK_RESERVED) {
      if (node.reserved == open) node.reserved = nullptr;
      if (node.exclusive == open) node.exclusive = nullptr;
      if (level == SQLITE_LOCK_NONE && open->lock != SQLITE_LOCK_NONE) --node.shared;
      open->lock = std::min(open->lock, level);
    }
    return SQLITE_OK;
  }
  static int CheckReservedLock(sqlite3_file* file, int* reserved) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    *reserved = open->node->reserved != nullptr || open->node->exclusive != nullptr;
    return SQLITE_OK;
  }

  // ---- shared memory of the write-ahead log's index ----
  static int ShmMap(sqlite3_file* file, int region, int size, int extend, void volatile** out) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    auto& regions = open->node->regions;
    const auto wanted = static_cast<size_t>(region);
    if (wanted >= regions.size() && extend == 0) {
      *out = nullptr;
      return SQLITE_OK;
    }
    while (wanted >= regions.size()) {
      regions.push_back(std::make_unique<char[]>(static_cast<size_t>(size)));
    }
    *out = regions[wanted].get();
    return SQLITE_OK;
  }
  static int ShmLock(sqlite3_file* file, int offset, int count, int flags) {
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    Node& node = *open->node;
    const bool exclusive = (flags & SQLITE_SHM_EXCLUSIVE) != 0;
    for (int i = offset; (flags & SQLITE_SHM_LOCK) != 0 && i < offset + count; ++i) {
      if (node.shm_exclusive[i] != nullptr && node.shm_exclusive[i] != open) return SQLITE_BUSY;
      const int others = node.shm_shared[i] - ((open->shm_shared >> i) & 1 ? 1 : 0);
      if (exclusive && others > 0) return SQLITE_BUSY;
    }
    for (int i = offset; i < offset + count; ++i) {
      const uint32_t bit = 1u << i;
      if ((flags & SQLITE_SHM_LOCK) != 0) {
        if (exclusive) {
          node.shm_exclusive[i] = open;
          open->shm_exclusive |= bit;
        } else if ((open->shm_shared & bit) == 0) {
          ++node.shm_shared[i];
          open->shm_shared |= bit;
        }
      } else {
        if ((open->shm_exclusive & bit) != 0) node.shm_exclusive[i] = nullptr;
        if ((open->shm_shared & bit) != 0) --node.shm_shared[i];
        open->shm_exclusive &= ~bit;
        open->shm_shared &= ~bit;
      }
    }
    return SQLITE_OK;
  }
  static void ShmBarrier(sqlite3_file* file) {
    // The mutex is what a sanitizer understands.
    std::lock_guard lock(Of(file)->owner->mutex);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  static int ShmUnmap(sqlite3_file* file, int forget) {
    ShmLock(file, 0, kShmLocks, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED);
    OpenFile* open = Of(file);
    std::lock_guard lock(open->owner->mutex);
    if (forget != 0) open->node->regions.clear();
    return SQLITE_OK;
  }

  // ---- names ----
  static int Delete(sqlite3_vfs* v, const char* path, int sync_directory) {
    Impl* self = Of(v);
    std::lock_guard lock(self->mutex);
    if (self->Fails(path, false)) return SQLITE_IOERR_DELETE;
    if (self->files.erase(path) == 0) return SQLITE_IOERR_DELETE_NOENT;
    if (sync_directory != 0) {
      if (self->Fails(path, true)) return SQLITE_IOERR_DIR_FSYNC;
      self->durable_names = self->files;
    }
    return SQLITE_OK;
  }
  static int Access(sqlite3_vfs* v, const char* path, int, int* out) {
    Impl* self = Of(v);
    std::lock_guard lock(self->mutex);
    const auto found = self->files.find(path);
    *out = found != self->files.end() && (!absl::EndsWith(path, "-wal") || !found->second->visible.empty());
    return SQLITE_OK;
  }
  static int FullPathname(sqlite3_vfs*, const char* path, int size, char* out) {
    sqlite3_snprintf(size, out, "%s", path);
    return SQLITE_OK;
  }

  // ---- what the machine does ----
  static int Randomness(sqlite3_vfs* v, int size, char* out) {
    return Of(v)->machine->xRandomness(Of(v)->machine, size, out);
  }
  static int Sleep(sqlite3_vfs* v, int us) { return Of(v)->machine->xSleep(Of(v)->machine, us); }
  static int CurrentTime(sqlite3_vfs* v, double* out) { return Of(v)->machine->xCurrentTime(Of(v)->machine, out); }
  static int CurrentTimeInt64(sqlite3_vfs* v, sqlite3_int64* out) {
    return Of(v)->machine->xCurrentTimeInt64(Of(v)->machine, out);
  }
  static int GetLastError(sqlite3_vfs*, int, char*) { return 0; }
};

FaultyVfs::FaultyVfs() : impl_(std::make_unique<Impl>()) {
  static std::atomic<int> made{0};
  Impl& impl = *impl_;
  impl.name = absl::StrCat("faulty-", ++made);
  impl.machine = sqlite3_vfs_find(nullptr);
  impl.methods = {.iVersion = 2,
                  .xClose = Impl::Close,
                  .xRead = Impl::Read,
                  .xWrite = Impl::Write,
                  .xTruncate = Impl::Truncate,
                  .xSync = Impl::Sync,
                  .xFileSize = Impl::FileSize,
                  .xLock = Impl::Lock,
                  .xUnlock = Impl::Unlock,
                  .xCheckReservedLock = Impl::CheckReservedLock,
                  .xFileControl = Impl::FileControl,
                  .xSectorSize = Impl::SectorSize,
                  .xDeviceCharacteristics = Impl::DeviceCharacteristics,
                  .xShmMap = Impl::ShmMap,
                  .xShmLock = Impl::ShmLock,
                  .xShmBarrier = Impl::ShmBarrier,
                  .xShmUnmap = Impl::ShmUnmap};
  impl.vfs.iVersion = 2;
  impl.vfs.szOsFile = sizeof(Impl::OpenFile);
  impl.vfs.mxPathname = 512;
  impl.vfs.zName = impl.name.c_str();
  impl.vfs.pAppData = &impl;
  impl.vfs.xOpen = Impl::Open;
  impl.vfs.xDelete = Impl::Delete;
  impl.vfs.xAccess = Impl::Access;
  impl.vfs.xFullPathname = Impl::FullPathname;
  impl.vfs.xRandomness = Impl::Randomness;
  impl.vfs.xSleep = Impl::Sleep;
  impl.vfs.xCurrentTime = Impl::CurrentTime;
  impl.vfs.xGetLastError = Impl::GetLastError;
  impl.vfs.xCurrentTimeInt64 = Impl::CurrentTimeInt64;
  GANTRY_CHECK(sqlite3_vfs_register(&impl.vfs, 0) == SQLITE_OK, "a VFS can be registered");
}

FaultyVfs::~FaultyVfs() {
  sqlite3_vfs_unregister(&impl_->vfs);
}

const char* FaultyVfs::name() const {
  return impl_->name.c_str();
}

void FaultyVfs::FailAt(int64_t n, Fault fault, bool stays, uint64_t seed) {
  std::lock_guard lock(impl_->mutex);
  impl_->hit = {};
  impl_->fault = fault;
  impl_->stays = stays;
  impl_->random.seed(seed);
  impl_->fail_at = fault == Fault::kReadError ? 0 : impl_->operations + n;
  impl_->fail_read_at = fault == Fault::kReadError ? impl_->reads + n : 0;
}

void FaultyVfs::Heal() {
  std::lock_guard lock(impl_->mutex);
  impl_->fail_at = impl_->fail_read_at = 0;
}

FaultyVfs::Hit FaultyVfs::hit() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->hit;
}

int64_t FaultyVfs::operations() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->operations;
}

void FaultyVfs::LosePower(uint64_t seed) {
  std::lock_guard lock(impl_->mutex);
  Random random(seed);
  const uint64_t some = Survival(random);
  Files left;
  for (const auto& [path, node] : impl_->durable_names) {
    const bool removed = !impl_->files.contains(path) || impl_->files[path] != node;
    if (!removed || random() % 100 >= some) left[path] = node;
  }
  for (const auto& [path, node] : impl_->files) {
    if (!left.contains(path) && random() % 100 < some) left[path] = node;
  }
  for (auto& [path, node] : left) {
    auto fresh = std::make_shared<Node>();
    fresh->durable = node->durable;
    for (const Operation& operation : node->unsynced) ApplySome(operation, some, random, &fresh->durable);
    fresh->visible = fresh->durable;
    node = fresh;
  }
  impl_->files = left;
  impl_->durable_names = left;
}

std::shared_ptr<const FaultyVfs::Image> FaultyVfs::Save() const {
  std::lock_guard lock(impl_->mutex);
  auto image = std::make_shared<Image>();
  std::map<const Node*, size_t> seen;
  const auto index = [&](const std::shared_ptr<Node>& node) {
    const auto [found, is_new] = seen.emplace(node.get(), image->nodes.size());
    if (is_new) image->nodes.push_back({node->visible, node->durable, node->unsynced});
    return found->second;
  };
  for (const auto& [path, node] : impl_->files) image->files[path] = index(node);
  for (const auto& [path, node] : impl_->durable_names) image->durable_names[path] = index(node);
  return image;
}

void FaultyVfs::Load(const std::shared_ptr<const Image>& image) {
  std::lock_guard lock(impl_->mutex);
  std::vector<std::shared_ptr<Node>> nodes;
  for (const Image::Content& content : image->nodes) {
    auto node = std::make_shared<Node>();
    node->visible = content.visible;
    node->durable = content.durable;
    node->unsynced = content.unsynced;
    nodes.push_back(std::move(node));
  }
  impl_->files.clear();
  impl_->durable_names.clear();
  for (const auto& [path, index] : image->files) impl_->files[path] = nodes[index];
  for (const auto& [path, index] : image->durable_names) impl_->durable_names[path] = nodes[index];
}

}  // namespace gantry::billing
