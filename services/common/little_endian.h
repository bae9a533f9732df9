// Integers as bytes in files of our own, lowest byte first: the order of every machine that we run on.
#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

namespace gantry {

static_assert(std::endian::native == std::endian::little);

template <typename T>
void PutInteger(T value, std::string* out) {
  static_assert(std::is_integral_v<T>);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

// REQUIRES: sizeof(T) bytes at `p`.
template <typename T>
T GetInteger(const char* p) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

}  // namespace gantry
