#include "services/common/ids.h"

#include <sys/random.h>

#include <cerrno>
#include <cstring>

#include "absl/base/thread_annotations.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/check.h"

namespace gantry {

absl::StatusOr<Id16> Id16::FromBytes(absl::string_view raw) {
  Id16 id;
  if (raw.size() != id.bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("id: expected 16 bytes, found ", raw.size()));
  }
  std::memcpy(id.bytes.data(), raw.data(), raw.size());
  return id;
}

absl::StatusOr<Id16> Id16::FromHex(absl::string_view hex) {
  auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  Id16 id;
  if (hex.size() != 32)
    return absl::InvalidArgumentError(absl::StrCat("id: expected 32 hex digits, found ", hex.size(), " characters"));
  for (size_t i = 0; i < 16; ++i) {
    int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return absl::InvalidArgumentError("id: expected 32 hex digits, found another character");
    id.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return id;
}

std::string Id16::ToHex() const {
  return absl::BytesToHexString(ToBytes());
}

void FillRandom(void* data, size_t size) {
  auto* out = static_cast<char*>(data);
  while (size > 0) {
    ssize_t got = getrandom(out, size, 0);
    if (got < 0 && errno == EINTR) continue;
    GANTRY_CHECK(got > 0, "the kernel gives random bytes");
    out += got;
    size -= static_cast<size_t>(got);
  }
}

namespace {

// Milliseconds and 80 bits of randomness as one 128-bit number: the next id of the same millisecond is a small random
// step further, which keeps both the order and the unguessability of neighbours.
struct Generator {
  absl::Mutex mutex;
  unsigned __int128 last ABSL_GUARDED_BY(mutex) = 0;
};

Generator& GetGenerator() {
  static auto* generator = new Generator;
  return *generator;
}

}  // namespace

Id16 NewTimeOrderedId() {
  uint8_t random[10];
  FillRandom(random, sizeof(random));
  unsigned __int128 noise = 0;
  for (uint8_t byte : random) noise = noise << 8 | byte;
  auto now_ms = static_cast<uint64_t>(absl::ToUnixMillis(absl::Now())) & 0xffff'ffff'ffffull;
  unsigned __int128 next = static_cast<unsigned __int128>(now_ms) << 80 | noise;
  Generator& generator = GetGenerator();
  {
    absl::MutexLock lock(&generator.mutex);
    if (next <= generator.last) next = generator.last + 1 + static_cast<uint64_t>(noise);
    generator.last = next;
  }
  Id16 id;
  for (int i = 15; i >= 0; --i, next >>= 8) id.bytes[i] = static_cast<uint8_t>(next);
  return id;
}

int64_t TimeOfIdMs(const Id16& id) {
  int64_t ms = 0;
  for (int i = 0; i < 6; ++i) ms = ms << 8 | id.bytes[i];
  return ms;
}

}  // namespace gantry
