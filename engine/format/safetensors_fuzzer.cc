// Any bytes: either a clean error or views that can be read to their last byte.
#include <cstdint>

#include "engine/format/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = gantry::engine::SafetensorsFile::Parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!file.ok()) return 0;
  volatile unsigned sum = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto* bytes = static_cast<const unsigned char*>(tensor.data);
    for (int64_t i = 0; i < tensor.bytes; ++i) sum = sum + bytes[i];
  }
  return 0;
}
