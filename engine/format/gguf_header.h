// What stands before the data of a GGUF file (version 3), for those who write one.
//
// Keys and tensor infos are collected first; Bytes() is then the file up to its data. The data follows: each tensor's
// rows in the order of Add, filled up with zeros to PaddedBytes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/numeric.h"

namespace gantry::engine {

class GgufHeader {
 public:
  static constexpr int64_t kAlignment = 32;

  // Each key once.
  void SetString(const std::string& key, const std::string& value);
  void SetU16(const std::string& key, uint16_t value);
  void SetU32(const std::string& key, uint32_t value);
  void SetF32(const std::string& key, float value);
  void SetBool(const std::string& key, bool value);
  void SetStrings(const std::string& key, const std::vector<std::string>& values);
  void SetI32s(const std::string& key, const std::vector<int32_t>& values);

  // `shape` is given slowest dimension first; its last must be a multiple of the type's block.
  void AddTensor(const std::string& name, const std::vector<int64_t>& shape, DType type);

  static int64_t PaddedBytes(int64_t tensor_bytes) { return (tensor_bytes + kAlignment - 1) / kAlignment * kAlignment; }
  // Bytes of the whole data section.
  int64_t data_bytes() const { return data_bytes_; }
  std::string Bytes() const;

 private:
  std::string keys_, tensors_;
  uint64_t key_count_ = 0, tensor_count_ = 0;
  int64_t data_bytes_ = 0;
};

}  // namespace gantry::engine
