#include "billing/store/chain.h"

namespace gantry::billing {

ChainHash& ChainHash::Add(absl::string_view bytes) {
  Add(static_cast<int64_t>(bytes.size()));
  fields_.append(bytes.data(), bytes.size());
  return *this;
}

ChainHash& ChainHash::Add(int64_t value) {
  char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  fields_.append(bytes, sizeof bytes);
  return *this;
}

std::string ChainHash::Finish() const {
  return Sha256(fields_);
}

ChainTail TailOf(Rows last) {
  if (!last.Next()) return {};
  return {last.Int(0) + 1, last.Text(1)};
}

}  // namespace gantry::billing
