#include "billing/store/chain.h"

namespace gantry::billing {

ChainHash& ChainHash::Add(absl::string_view bytes) {
  Add(static_cast<int64_t>(bytes.size()));
  fields_.append(bytes.data(), bytes.size());
  return *this;
}

ChainHash& ChainHash::Add(int64_t value) {
  for (int shift = 0; shift < 64; shift += 8) fields_.push_back(static_cast<char>(value >> shift));
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
