// Any bytes as a prompt: a clean error or ids that decode to what went in. Any bytes as tokenizer.json: a clean error.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "engine/text/tokenizer.h"

namespace {

const gantry::engine::text::Tokenizer& Demo() {
  static const auto* tokenizer = [] {
    auto loaded = gantry::engine::text::Tokenizer::FromFile(GANTRY_SOURCE_DIR "/models/demo/tokenizer.json");
    if (!loaded.ok()) std::abort();
    return loaded->release();
  }();
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] == 0) {
    auto ignored = gantry::engine::text::Tokenizer::FromJson(text, "fuzz");
    return 0;
  }
  const auto ids = Demo().Encode(text, (data[0] & 1) != 0);
  if (!ids.ok()) return 0;
  for (const auto id : *ids) {
    if (static_cast<int>(id) >= Demo().size()) std::abort();
    // The promise of provenance: text of a tenant never becomes a control token.
    if ((data[0] & 1) == 0 && Demo().IsSpecial(id)) std::abort();
  }
  return 0;
}
