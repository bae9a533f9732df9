#include "engine/backend/kv_type.h"

#include "absl/strings/str_cat.h"

namespace gantry::engine {

absl::StatusOr<KvType> KvTypeNamed(absl::string_view field, absl::string_view name) {
  for (const KvType type : kKvTypes) {
    if (name == NameOf(type)) return type;
  }
  return absl::InvalidArgumentError(absl::StrCat(field, " is `", name, "`, expected f32, f16 or int8"));
}

}  // namespace gantry::engine
