// 16-byte ids: 48 bits of milliseconds since 1970, then 80 random bits, so that ids made later sort later (UUIDv7's
// idea without its version bits). Unique without coordination: 80 random bits per millisecond.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry {

struct Id16 {
  std::array<uint8_t, 16> bytes{};

  // From the 16 raw bytes of a protobuf field. INVALID_ARGUMENT names the length found.
  static absl::StatusOr<Id16> FromBytes(absl::string_view raw);
  // From 32 hex digits of either case.
  static absl::StatusOr<Id16> FromHex(absl::string_view hex);

  std::string ToBytes() const { return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()); }
  std::string ToHex() const;  // lower case
  bool IsZero() const { return *this == Id16{}; }

  friend auto operator<=>(const Id16&, const Id16&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Id16& id) {
    return H::combine(std::move(state), id.bytes);
  }
};

// Strictly ascending within one process, even inside one millisecond or when the wall clock steps back. Thread-safe.
Id16 NewTimeOrderedId();

// Milliseconds since 1970 that the id carries.
int64_t TimeOfIdMs(const Id16& id);

// From the kernel's generator. Aborts when the kernel has none, which no supported system does.
void FillRandom(void* data, size_t size);

}  // namespace gantry
