#include "engine/format/safetensors.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/format/internal/parse_json.h"

namespace gantry::engine {
namespace {

using nlohmann::json;

// The reference implementation's own bound.
constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr int kHeaderLevels = 3;  // tensors, a tensor's fields, shape and offsets
constexpr size_t kNameBytesMax = 512;
constexpr size_t kDimensionsMax = 8;
constexpr size_t kIndexBytesMax = 64 << 20;
constexpr int kIndexLevelsMax = 8;
constexpr size_t kFoundTextMax = 40;

int BitsOf(const std::string& dtype) {
  static const std::map<std::string, int> bits = {
      {"F64", 64}, {"I64", 64}, {"U64", 64}, {"F32", 32}, {"I32", 32}, {"U32", 32},    {"F16", 16},    {"BF16", 16},
      {"I16", 16}, {"U16", 16}, {"I8", 8},   {"U8", 8},   {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}};
  const auto found = bits.find(dtype);
  return found == bits.end() ? 0 : found->second;
}

// True and *out set when `value` is an array of non-negative integers.
bool ReadSizes(const json& value, size_t count_max, std::vector<int64_t>* out) {
  if (!value.is_array() || value.size() > count_max) return false;
  for (const json& item : value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return false;
    out->push_back(item.get<int64_t>());
  }
  return true;
}

absl::StatusOr<StoredTensor> ReadEntry(const std::string& path, const std::string& name, const json& entry,
                                       absl::string_view data) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", name, ": ", what));
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) {
    return error("expected an object with a string `dtype`");
  }
  StoredTensor tensor;
  tensor.name = name;
  tensor.file = path;
  tensor.dtype = entry["dtype"].get<std::string>();
  const int bits = BitsOf(tensor.dtype);
  if (bits == 0) return error(absl::StrCat("unknown dtype ", tensor.dtype.substr(0, kFoundTextMax)));
  if (!entry.contains("shape") || !ReadSizes(entry["shape"], kDimensionsMax, &tensor.shape)) {
    return error(absl::StrCat("expected `shape` to be at most ", kDimensionsMax, " non-negative integers"));
  }
  std::vector<int64_t> offsets;
  if (!entry.contains("data_offsets") || !ReadSizes(entry["data_offsets"], 2, &offsets) || offsets.size() != 2) {
    return error("expected `data_offsets` to be two non-negative integers");
  }
  __int128 bytes = bits / 8;
  for (int64_t dimension : tensor.shape) {
    bytes *= dimension;
    if (bytes > INT64_MAX) return error(absl::StrCat("shape ", ShapeText(tensor.shape), " is too large"));
  }
  tensor.bytes = static_cast<int64_t>(bytes);
  if (offsets[1] < offsets[0] || offsets[1] - offsets[0] != tensor.bytes) {
    return error(absl::StrCat("expected ", tensor.bytes, " bytes for ", tensor.dtype, " ", ShapeText(tensor.shape),
                              ", found data_offsets [", offsets[0], ", ", offsets[1], ")"));
  }
  if (static_cast<uint64_t>(offsets[1]) > data.size()) {
    return error(absl::StrCat("truncated file: expected data up to byte ", offsets[1], ", found ", data.size(),
                              " bytes after the header"));
  }
  tensor.data = data.data() + offsets[0];
  return tensor;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  GANTRY_ASSIGN_OR_RETURN(SafetensorsFile result, Parse(file->bytes(), path));
  result.file_ = std::move(file);
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::string_view bytes, const std::string& name) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": truncated file: expected an 8-byte header length, found ", bytes.size(), " bytes"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  bytes.remove_prefix(sizeof(header_bytes));
  if (header_bytes > kHeaderBytesMax || header_bytes > bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": truncated or not a safetensors file: expected a header of ",
                                                   header_bytes, " bytes, found ", bytes.size(),
                                                   " bytes after its length (limit ", kHeaderBytesMax, ")"));
  }
  const absl::string_view header = bytes.substr(0, header_bytes);
  const absl::string_view data = bytes.substr(header_bytes);

  GANTRY_ASSIGN_OR_RETURN(const json root, ParseJsonObject(header, absl::StrCat(name, ": header"), kHeaderLevels));
  SafetensorsFile result;
  result.path_ = name;
  std::vector<std::pair<const char*, const StoredTensor*>> by_offset;
  for (const auto& [tensor_name, entry] : root.items()) {
    if (tensor_name == "__metadata__") continue;
    if (tensor_name.size() > kNameBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected tensor names of at most ", kNameBytesMax,
                                                     " bytes, found ", tensor_name.size()));
    }
    GANTRY_ASSIGN_OR_RETURN(StoredTensor tensor, ReadEntry(name, tensor_name, entry, data));
    const StoredTensor& stored = result.tensors_.emplace(tensor_name, std::move(tensor)).first->second;
    if (stored.bytes > 0) by_offset.emplace_back(static_cast<const char*>(stored.data), &stored);
  }
  // The format knows neither overlaps nor gaps: every data byte belongs to exactly one tensor.
  std::sort(by_offset.begin(), by_offset.end());
  int64_t end = 0;
  std::string previous;
  for (const auto& [start, tensor] : by_offset) {
    const int64_t begin = start - data.data();
    if (begin < end) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": tensor ", tensor->name, " overlaps tensor ", previous,
                                                     ": expected its data from byte ", end, ", found ", begin));
    }
    if (begin > end) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": tensor ", tensor->name, ": expected its data from byte ",
                                                     end, ", found ", begin, " and a gap before it"));
    }
    end = begin + tensor->bytes;
    previous = tensor->name;
  }
  if (end != static_cast<int64_t>(data.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected ", end, " bytes of data after the header, found ", data.size()));
  }
  return result;
}

absl::StatusOr<const StoredTensor*> SafetensorsFile::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return absl::NotFoundError(absl::StrCat(path_, ": tensor ", name, " is missing"));
  return &found->second;
}

absl::StatusOr<TensorSet> OpenModelTensors(const std::string& directory) {
  TensorSet set;
  std::map<std::string, std::string> shard_of;  // what the index promises, tensor -> file name
  std::set<std::string> shards;
  const std::string index_path = directory + "/model.safetensors.index.json";
  if (access(index_path.c_str(), F_OK) == 0) {
    set.path = index_path;
    GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(index_path, kIndexBytesMax));
    GANTRY_ASSIGN_OR_RETURN(const json index, ParseJsonObject(text, index_path, kIndexLevelsMax));
    if (!index.contains("weight_map") || !index["weight_map"].is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": expected an object `weight_map`, found none"));
    }
    for (const auto& [name, shard] : index["weight_map"].items()) {
      if (!shard.is_string() || shard.get<std::string>().empty() || absl::StrContains(shard.get<std::string>(), "/")) {
        return absl::InvalidArgumentError(absl::StrCat(index_path, ": `weight_map`: tensor ", name,
                                                       ": expected the name of a file in this directory"));
      }
      shard_of[name] = shard.get<std::string>();
      shards.insert(shard.get<std::string>());
    }
  } else {
    set.path = directory + "/model.safetensors";
    shards.insert("model.safetensors");
  }
  for (const std::string& shard : shards) {
    GANTRY_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(absl::StrCat(directory, "/", shard)));
    set.files.push_back(file.mapping());
    for (const auto& [name, tensor] : file.tensors()) {
      const auto [other, inserted] = set.tensors.emplace(name, tensor);
      if (!inserted) {
        return absl::InvalidArgumentError(absl::StrCat(
            tensor.file, ": tensor ", name, ": expected in one shard, found in ", other->second.file, " too"));
      }
    }
  }
  for (const auto& [name, shard] : shard_of) {
    const auto found = set.tensors.find(name);
    if (found == set.tensors.end() || found->second.file != absl::StrCat(directory, "/", shard)) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": tensor ", name, ": expected in ", shard, ", found ",
                       found == set.tensors.end() ? "in no shard" : absl::StrCat("in ", found->second.file)));
    }
  }
  return set;
}

}  // namespace gantry::engine
