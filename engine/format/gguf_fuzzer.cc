// Any bytes: either a clean error, or keys that can be read in every way and tensors that can be decoded to their last
// block.
#include <cstdint>
#include <vector>

#include "engine/format/gguf.h"
#include "engine/format/quant_blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace gantry::engine;
  const auto gguf = ParseGguf({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!gguf.ok()) return 0;
  volatile double sum = 0;
  for (const char* key : {"general.architecture", "general.alignment", "tokenizer.ggml.tokens", "a", "b"}) {
    const GgufKeys& keys = gguf->keys;
    (void)keys.Int(key, 0, 100);
    (void)keys.NumberOr(key, 0, -1e30, 1e30);
    (void)keys.BoolOr(key, false);
    (void)keys.String(key);
    (void)keys.IntOrInts(key, 0, 100);
    const auto strings = keys.Strings(key);
    if (!strings.ok()) continue;
    for (const absl::string_view text : *strings) {
      for (const char c : text) sum = sum + c;
    }
  }
  for (const auto& [name, tensor] : gguf->tensors.tensors) {
    const DType type = *DTypeNamed(tensor.dtype);
    const int64_t columns = tensor.shape.back(), row_bytes = RowBytes(type, columns);
    std::vector<float> row(columns);
    for (int64_t at = 0; at < tensor.bytes; at += row_bytes) {
      DecodeRow(type, static_cast<const char*>(tensor.data) + at, columns, row.data());
      sum = sum + row.back();
    }
  }
  return 0;
}
