#include "engine/format/gguf_header.h"

namespace gantry::engine {
namespace {

// Value types of the format.
constexpr uint32_t kU16 = 2, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutString(const std::string& text, std::string* out) {
  Put(uint64_t{text.size()}, out);
  out->append(text);
}

void PutKey(const std::string& key, uint32_t type, std::string* out) {
  PutString(key, out);
  Put(type, out);
}

}  // namespace

void GgufHeader::SetString(const std::string& key, const std::string& value) {
  PutKey(key, kString, &keys_);
  PutString(value, &keys_);
  ++key_count_;
}

void GgufHeader::SetU16(const std::string& key, uint16_t value) {
  PutKey(key, kU16, &keys_);
  Put(value, &keys_);
  ++key_count_;
}

void GgufHeader::SetU32(const std::string& key, uint32_t value) {
  PutKey(key, kU32, &keys_);
  Put(value, &keys_);
  ++key_count_;
}

void GgufHeader::SetF32(const std::string& key, float value) {
  PutKey(key, kF32, &keys_);
  Put(value, &keys_);
  ++key_count_;
}

void GgufHeader::SetBool(const std::string& key, bool value) {
  PutKey(key, kBool, &keys_);
  Put(static_cast<uint8_t>(value), &keys_);
  ++key_count_;
}

void GgufHeader::SetStrings(const std::string& key, const std::vector<std::string>& values) {
  PutKey(key, kArray, &keys_);
  Put(kString, &keys_);
  Put(uint64_t{values.size()}, &keys_);
  for (const std::string& value : values) PutString(value, &keys_);
  ++key_count_;
}

void GgufHeader::SetI32s(const std::string& key, const std::vector<int32_t>& values) {
  PutKey(key, kArray, &keys_);
  Put(kI32, &keys_);
  Put(uint64_t{values.size()}, &keys_);
  for (const int32_t value : values) Put(value, &keys_);
  ++key_count_;
}

void GgufHeader::AddTensor(const std::string& name, const std::vector<int64_t>& shape, DType type) {
  PutString(name, &tensors_);
  Put(static_cast<uint32_t>(shape.size()), &tensors_);
  int64_t rows = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    Put(static_cast<uint64_t>(shape[i]), &tensors_);
    if (i + 1 < shape.size()) rows *= shape[i];
  }
  Put(InfoOf(type).ggml_id, &tensors_);
  Put(static_cast<uint64_t>(data_bytes_), &tensors_);
  data_bytes_ += PaddedBytes(rows * RowBytes(type, shape.back()));
  ++tensor_count_;
}

std::string GgufHeader::Bytes() const {
  std::string bytes = "GGUF";
  Put(uint32_t{3}, &bytes);
  Put(tensor_count_, &bytes);
  Put(key_count_, &bytes);
  bytes += keys_;
  bytes += tensors_;
  bytes.resize(PaddedBytes(static_cast<int64_t>(bytes.size())));
  return bytes;
}

}  // namespace gantry::engine
