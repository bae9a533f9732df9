// How keys and values are stored, and the names by which users choose it.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine {

// Part of the numerics: different types, different bits.
enum class KvType {
  kF32,
  kF16,   // rounded to nearest even
  kInt8,  // one float32 scale per token and KV head
};
inline constexpr KvType kKvTypes[] = {KvType::kF32, KvType::kF16, KvType::kInt8};

// "f32" | "f16" | "int8".
inline constexpr const char* NameOf(KvType type) {
  return type == KvType::kF32 ? "f32" : type == KvType::kF16 ? "f16" : "int8";
}
// INVALID_ARGUMENT for any other name; `field` is what the message calls it.
absl::StatusOr<KvType> KvTypeNamed(absl::string_view field, absl::string_view name);

}  // namespace gantry::engine
