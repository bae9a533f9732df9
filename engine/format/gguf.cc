#include "engine/format/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/format/quant_blocks.h"

namespace gantry::engine {
namespace {

constexpr char kMagic[] = {'G', 'G', 'U', 'F'};
constexpr uint64_t kKeysMax = 1 << 16;
constexpr uint64_t kTensorsMax = 1 << 17;
constexpr uint64_t kNameBytesMax = 512;
constexpr uint32_t kDimensionsMax = 4;
constexpr uint32_t kAlignmentMax = 1 << 20;
constexpr int kSplitFilesMax = 1000;
constexpr size_t kFoundTextMax = 40;
// Bytes of the smallest possible key (name length, type, one byte) and tensor info (name length, one dimension, type,
// offset): what a count must at least have left in the file.
constexpr uint64_t kKeyBytesMin = 8 + 4 + 1;
constexpr uint64_t kTensorBytesMin = 8 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kFloat64,
};

struct ValueTypeInfo {
  const char* name;
  size_t bytes;  // 0: of varying size
};
constexpr ValueTypeInfo kValueTypes[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                                         {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                                         {"u64", 8}, {"i64", 8}, {"f64", 8}};

// Types that ggml knows and this build does not, for the message.
std::string GgmlTypeText(uint32_t id) {
  static const std::map<uint32_t, const char*> names = {
      {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
      {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
      {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},
  };
  const auto found = names.find(id);
  return found == names.end() ? absl::StrCat("type ", id) : absl::StrCat(found->second, " (type ", id, ")");
}

std::string SupportedTypes() {
  std::vector<const char*> names;
  for (const DTypeInfo& info : kDTypes) names.push_back(info.name);
  return absl::StrJoin(names, ", ");
}

template <typename T>
T Load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// An integer of any width; nothing for other types and beyond int64.
std::optional<int64_t> IntegerAt(uint32_t type, const char* p) {
  switch (type) {
    case kU8:
      return Load<uint8_t>(p);
    case kI8:
      return Load<int8_t>(p);
    case kU16:
      return Load<uint16_t>(p);
    case kI16:
      return Load<int16_t>(p);
    case kU32:
      return Load<uint32_t>(p);
    case kI32:
      return Load<int32_t>(p);
    case kI64:
      return Load<int64_t>(p);
    case kU64: {
      const auto value = Load<uint64_t>(p);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> NumberAt(uint32_t type, const char* p) {
  if (type == kFloat32) return Load<float>(p);
  if (type == kFloat64) return Load<double>(p);
  const std::optional<int64_t> integer = IntegerAt(type, p);
  if (!integer) return std::nullopt;
  return static_cast<double>(*integer);
}

// The string at *payload's start, which is cut off. REQUIRES: the parser has seen it.
absl::string_view CutString(absl::string_view* payload) {
  const auto length = Load<uint64_t>(payload->data());
  const absl::string_view text = payload->substr(sizeof(length), length);
  payload->remove_prefix(sizeof(length) + length);
  return text;
}

// Reads forward through bytes; says where it stands when they run out.
class Cursor {
 public:
  Cursor(absl::string_view bytes, const std::string& name) : all_(bytes), rest_(bytes), name_(name) {}

  uint64_t remaining() const { return rest_.size(); }
  uint64_t position() const { return all_.size() - rest_.size(); }

  absl::StatusOr<absl::string_view> Take(uint64_t bytes, absl::string_view what) {
    if (bytes > rest_.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name_, ": truncated file: expected ", bytes, " bytes of ", what,
                                                     " at byte ", position(), ", found ", rest_.size()));
    }
    const absl::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    GANTRY_ASSIGN_OR_RETURN(const absl::string_view bytes, Take(sizeof(T), what));
    return Load<T>(bytes.data());
  }

  absl::StatusOr<absl::string_view> String(uint64_t bytes_max, absl::string_view what) {
    GANTRY_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(absl::StrCat("the length of ", what)));
    if (length > bytes_max) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, ": expected at most ", bytes_max, " bytes in ", what, ", found ", length));
    }
    return Take(length, what);
  }

 private:
  absl::string_view all_, rest_;
  const std::string& name_;
};

}  // namespace

// Reads one file.
class GgufParser {
 public:
  GgufParser(absl::string_view bytes, const std::string& name) : bytes_(bytes), name_(name), in_(bytes, name) {}

  absl::StatusOr<Gguf> Parse() {
    Gguf result;
    result.keys.where_ = name_;
    result.tensors.path = name_;
    GANTRY_RETURN_IF_ERROR(ReadHeader());
    for (uint64_t i = 0; i < key_count_; ++i) GANTRY_RETURN_IF_ERROR(ReadKey(&result.keys));
    std::vector<Info> infos;
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      GANTRY_ASSIGN_OR_RETURN(Info info, ReadInfo());
      infos.push_back(std::move(info));
    }
    GANTRY_RETURN_IF_ERROR(PlaceTensors(result.keys, std::move(infos), &result.tensors));
    return result;
  }

 private:
  struct Info {
    StoredTensor tensor;
    uint64_t offset = 0;  // from the data section's start
  };

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", what));
  }
  absl::Status TensorError(absl::string_view tensor, absl::string_view what) const {
    return Error(absl::StrCat("tensor ", tensor, ": ", what));
  }

  absl::Status ReadHeader() {
    GANTRY_ASSIGN_OR_RETURN(const absl::string_view magic, in_.Take(sizeof(kMagic), "the magic number"));
    if (magic != absl::string_view(kMagic, sizeof(kMagic))) return Error("expected a GGUF file, found other bytes");
    GANTRY_ASSIGN_OR_RETURN(const uint32_t version, in_.Read<uint32_t>("the version"));
    if (version == 1) return Error("expected GGUF version 2 or 3, found version 1; convert the model again");
    if (version == 0x02000000 || version == 0x03000000) {
      return Error("expected a little-endian GGUF file, found a big-endian one");
    }
    if (version != 2 && version != 3) {
      return Error(absl::StrCat("expected GGUF version 2 or 3, found version ", version));
    }
    GANTRY_ASSIGN_OR_RETURN(tensor_count_, in_.Read<uint64_t>("the tensor count"));
    GANTRY_ASSIGN_OR_RETURN(key_count_, in_.Read<uint64_t>("the key count"));
    GANTRY_RETURN_IF_ERROR(CheckCount("keys", key_count_, kKeysMax, kKeyBytesMin));
    return CheckCount("tensors", tensor_count_, kTensorsMax, kTensorBytesMin);
  }

  absl::Status CheckCount(const char* what, uint64_t count, uint64_t max, uint64_t bytes_each) const {
    const uint64_t fit = std::min(max, in_.remaining() / bytes_each);
    if (count <= fit) return absl::OkStatus();
    return Error(absl::StrCat("expected at most ", fit, " ", what, " in ", in_.remaining(), " remaining bytes (limit ",
                              max, "), found a count of ", count));
  }

  absl::Status ReadKey(GgufKeys* keys) {
    GANTRY_ASSIGN_OR_RETURN(const absl::string_view name, in_.String(kNameBytesMax, "a key"));
    const std::string key(name);
    const std::string what = absl::StrCat("key `", key, "`");
    GANTRY_ASSIGN_OR_RETURN(const uint32_t type, in_.Read<uint32_t>(what));
    GgufKeys::Value value;
    value.type = type;
    if (type == kArray) {
      value.is_array = true;
      GANTRY_ASSIGN_OR_RETURN(value.type, in_.Read<uint32_t>(what));
      GANTRY_ASSIGN_OR_RETURN(value.count, in_.Read<uint64_t>(what));
    }
    if (value.type >= std::size(kValueTypes)) {
      return Error(
          absl::StrCat(what, ": expected a value type below ", std::size(kValueTypes), ", found ", value.type));
    }
    if (value.type == kArray) return Error(absl::StrCat(what, ": expected no array of arrays, found one"));
    const uint64_t bytes_each = value.type == kString ? sizeof(uint64_t) : kValueTypes[value.type].bytes;
    if (value.count > in_.remaining() / bytes_each) {
      return Error(absl::StrCat(what, ": truncated file: expected ", value.count, " values of type ",
                                kValueTypes[value.type].name, ", found ", in_.remaining(), " bytes"));
    }
    const uint64_t begin = in_.position();
    if (value.type == kString) {
      for (uint64_t i = 0; i < value.count; ++i) GANTRY_RETURN_IF_ERROR(in_.String(UINT64_MAX, what).status());
    } else {
      GANTRY_RETURN_IF_ERROR(in_.Take(value.count * bytes_each, what).status());
    }
    value.payload = bytes_.substr(begin, in_.position() - begin);
    if (!keys->values_.emplace(key, value).second) {
      return Error(absl::StrCat(what, ": expected once, found twice"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Info> ReadInfo() {
    Info info;
    StoredTensor& tensor = info.tensor;
    GANTRY_ASSIGN_OR_RETURN(const absl::string_view name, in_.String(kNameBytesMax, "a tensor name"));
    tensor.name = std::string(name);
    tensor.file = name_;
    const std::string what = absl::StrCat("tensor ", tensor.name);
    GANTRY_ASSIGN_OR_RETURN(const uint32_t dimensions, in_.Read<uint32_t>(what));
    if (dimensions < 1 || dimensions > kDimensionsMax) {
      return TensorError(tensor.name,
                         absl::StrCat("expected 1 to ", kDimensionsMax, " dimensions, found ", dimensions));
    }
    __int128 elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      GANTRY_ASSIGN_OR_RETURN(const uint64_t size, in_.Read<uint64_t>(what));
      elements *= size;
      if (size < 1 || elements > INT64_MAX / 8) {
        return TensorError(tensor.name, absl::StrCat("expected dimensions of a size that fits a file, found ", size));
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    GANTRY_ASSIGN_OR_RETURN(const uint32_t id, in_.Read<uint32_t>(what));
    const std::optional<DType> type = DTypeOfGgmlId(id);
    if (!type) {
      return TensorError(tensor.name,
                         absl::StrCat("expected one of the types ", SupportedTypes(), "; found ", GgmlTypeText(id)));
    }
    tensor.dtype = DTypeName(*type);
    const int64_t columns = tensor.shape.back();
    if (columns % InfoOf(*type).block_elements != 0) {
      return TensorError(tensor.name, absl::StrCat("expected rows in multiples of ", InfoOf(*type).block_elements,
                                                   " elements for ", tensor.dtype, ", found ", columns));
    }
    tensor.bytes = static_cast<int64_t>(elements) / columns * RowBytes(*type, columns);
    GANTRY_ASSIGN_OR_RETURN(info.offset, in_.Read<uint64_t>(what));
    return info;
  }

  // Offsets are known to lie in the file, aligned and apart from each other when this returns OK.
  absl::Status PlaceTensors(const GgufKeys& keys, std::vector<Info> infos, TensorSet* set) const {
    GANTRY_ASSIGN_OR_RETURN(const int64_t alignment, keys.IntOr("general.alignment", 32, 1, kAlignmentMax));
    if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
      return Error(absl::StrCat("key `general.alignment`: expected a power of two from 8 to ", kAlignmentMax,
                                ", found ", alignment));
    }
    const auto step = static_cast<uint64_t>(alignment);
    const uint64_t begin = std::min<uint64_t>((in_.position() + step - 1) / step * step, bytes_.size());
    const absl::string_view data = bytes_.substr(begin);
    std::sort(infos.begin(), infos.end(), [](const Info& a, const Info& b) { return a.offset < b.offset; });
    uint64_t end = 0;
    std::string previous;
    for (Info& info : infos) {
      StoredTensor& tensor = info.tensor;
      if (info.offset % step != 0) {
        return TensorError(tensor.name, absl::StrCat("expected its data at a multiple of ", alignment,
                                                     " bytes, found it at ", info.offset));
      }
      if (info.offset < end) {
        return TensorError(tensor.name, absl::StrCat("overlaps tensor ", previous, ": expected its data from byte ",
                                                     end, ", found ", info.offset));
      }
      const auto bytes = static_cast<uint64_t>(tensor.bytes);
      if (info.offset > data.size() || bytes > data.size() - info.offset) {
        return TensorError(tensor.name, absl::StrCat("truncated file: expected ", bytes, " bytes of data at byte ",
                                                     info.offset, ", found ", data.size(), " bytes in all"));
      }
      end = info.offset + bytes;
      previous = tensor.name;
      tensor.data = data.data() + info.offset;
      if (!set->tensors.emplace(tensor.name, std::move(tensor)).second) {
        return TensorError(previous, "expected once, found twice");
      }
    }
    return absl::OkStatus();
  }

  absl::string_view bytes_;
  const std::string& name_;
  Cursor in_;
  uint64_t tensor_count_ = 0, key_count_ = 0;
};

absl::Status GgufKeys::Missing(const std::string& key) const {
  return absl::InvalidArgumentError(absl::StrCat(where_, ": key `", key, "` is missing"));
}

absl::Status GgufKeys::Wrong(const std::string& key, absl::string_view expected, const Value& found) const {
  std::string text;
  if (found.is_array) {
    text = absl::StrCat("an array of ", found.count, " ", kValueTypes[found.type].name);
  } else if (found.type == kString) {
    absl::string_view payload = found.payload;
    text = absl::StrCat("`", CutString(&payload).substr(0, kFoundTextMax), "`");
  } else if (found.type == kBool) {
    text = found.payload[0] ? "true" : "false";
  } else if (const std::optional<int64_t> integer = IntegerAt(found.type, found.payload.data())) {
    text = absl::StrCat(*integer);
  } else if (const std::optional<double> number = NumberAt(found.type, found.payload.data())) {
    text = absl::StrCat(*number);
  } else {
    text = absl::StrCat(Load<uint64_t>(found.payload.data()));
  }
  return absl::InvalidArgumentError(absl::StrCat(where_, ": `", key, "`: expected ", expected, ", found ", text));
}

absl::StatusOr<const GgufKeys::Value*> GgufKeys::Find(const std::string& key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return Missing(key);
  return &found->second;
}

absl::StatusOr<int64_t> GgufKeys::Int(const std::string& key, int64_t min, int64_t max) const {
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  std::optional<int64_t> integer;
  if (!value->is_array) integer = IntegerAt(value->type, value->payload.data());
  if (!integer || *integer < min || *integer > max) {
    return Wrong(key, absl::StrCat("an integer in [", min, ", ", max, "]"), *value);
  }
  return *integer;
}

absl::StatusOr<int64_t> GgufKeys::IntOr(const std::string& key, int64_t fallback, int64_t min, int64_t max) const {
  if (!Has(key)) return fallback;
  return Int(key, min, max);
}

absl::StatusOr<double> GgufKeys::NumberOr(const std::string& key, double fallback, double min, double max) const {
  if (!Has(key)) return fallback;
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  std::optional<double> number;
  if (!value->is_array) number = NumberAt(value->type, value->payload.data());
  if (!number || !(*number >= min && *number <= max)) {
    return Wrong(key, absl::StrCat("a number in [", min, ", ", max, "]"), *value);
  }
  return *number;
}

absl::StatusOr<bool> GgufKeys::BoolOr(const std::string& key, bool fallback) const {
  if (!Has(key)) return fallback;
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || value->type != kBool) return Wrong(key, "true or false", *value);
  return value->payload[0] != 0;
}

absl::StatusOr<std::string> GgufKeys::String(const std::string& key) const {
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->is_array || value->type != kString) return Wrong(key, "a string", *value);
  absl::string_view payload = value->payload;
  return std::string(CutString(&payload));
}

absl::StatusOr<std::string> GgufKeys::StringOr(const std::string& key, const std::string& fallback) const {
  if (!Has(key)) return fallback;
  return String(key);
}

absl::StatusOr<std::vector<absl::string_view>> GgufKeys::Strings(const std::string& key) const {
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!value->is_array || value->type != kString) return Wrong(key, "an array of strings", *value);
  std::vector<absl::string_view> strings;
  strings.reserve(value->count);
  absl::string_view payload = value->payload;
  for (uint64_t i = 0; i < value->count; ++i) strings.push_back(CutString(&payload));
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufKeys::IntOrInts(const std::string& key, int64_t min, int64_t max) const {
  std::vector<int64_t> integers;
  if (!Has(key)) return integers;
  GANTRY_ASSIGN_OR_RETURN(const Value* value, Find(key));
  const size_t bytes_each = kValueTypes[value->type].bytes;
  for (uint64_t i = 0; i < value->count; ++i) {
    std::optional<int64_t> integer;
    if (value->type == kBool) {
      integer = value->payload[i] != 0;
    } else if (bytes_each > 0) {
      integer = IntegerAt(value->type, value->payload.data() + i * bytes_each);
    }
    if (!integer || *integer < min || *integer > max) {
      return Wrong(key, absl::StrCat("integers in [", min, ", ", max, "]"), *value);
    }
    integers.push_back(*integer);
  }
  return integers;
}

absl::StatusOr<Gguf> ParseGguf(absl::string_view bytes, const std::string& name) {
  return GgufParser(bytes, name).Parse();
}

namespace {

// "models/big-00001-of-00004.gguf" -> {"models/big", 1, 4}
struct SplitName {
  std::string stem;
  int number = 0, count = 0;
  std::string Path(int i) const { return absl::StrFormat("%s-%05d-of-%05d.gguf", stem, i, count); }
};

std::optional<SplitName> ParseSplitName(const std::string& path) {
  constexpr size_t kTail = sizeof("-00001-of-00004.gguf") - 1;
  if (path.size() <= kTail) return std::nullopt;
  const absl::string_view tail = absl::string_view(path).substr(path.size() - kTail);
  SplitName name;
  name.stem = path.substr(0, path.size() - kTail);
  if (tail[0] != '-' || !absl::SimpleAtoi(tail.substr(1, 5), &name.number) || tail.substr(6, 4) != "-of-" ||
      !absl::SimpleAtoi(tail.substr(10, 5), &name.count) || tail.substr(15) != ".gguf") {
    return std::nullopt;
  }
  return name;
}

absl::StatusOr<Gguf> OpenOne(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  GANTRY_ASSIGN_OR_RETURN(Gguf gguf, ParseGguf(file->bytes(), path));
  gguf.tensors.files.push_back(std::move(file));
  return gguf;
}

// This file's own idea of where it stands in a split.
absl::Status CheckSplitKeys(const GgufKeys& keys, int number, int count) {
  GANTRY_RETURN_IF_ERROR(keys.Int("split.count", count, count).status());
  return keys.Int("split.no", number - 1, number - 1).status();
}

}  // namespace

absl::StatusOr<Gguf> OpenGguf(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(Gguf gguf, OpenOne(path));
  const std::optional<SplitName> split = ParseSplitName(path);
  GANTRY_ASSIGN_OR_RETURN(const int64_t stated, gguf.keys.IntOr("split.count", split ? split->count : 1, 0, 65535));
  if (stated <= 1 && (!split || split->count <= 1)) return gguf;
  if (!split || split->number != 1 || split->count > kSplitFilesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": one of ", stated, " files of a split model; expected the path of the first one, ",
                     absl::StrFormat("NAME-00001-of-%05d.gguf", stated), ", of at most ", kSplitFilesMax));
  }
  GANTRY_RETURN_IF_ERROR(CheckSplitKeys(gguf.keys, 1, split->count));
  for (int i = 2; i <= split->count; ++i) {
    GANTRY_ASSIGN_OR_RETURN(Gguf part, OpenOne(split->Path(i)));
    GANTRY_RETURN_IF_ERROR(CheckSplitKeys(part.keys, i, split->count));
    for (auto& [name, tensor] : part.tensors.tensors) {
      const auto [other, inserted] = gguf.tensors.tensors.emplace(name, std::move(tensor));
      if (!inserted) {
        return absl::InvalidArgumentError(absl::StrCat(
            split->Path(i), ": tensor ", name, ": expected in one file, found in ", other->second.file, " too"));
      }
    }
    gguf.tensors.files.push_back(part.tensors.files.front());
  }
  const auto found = static_cast<int64_t>(gguf.tensors.tensors.size());
  GANTRY_ASSIGN_OR_RETURN(const int64_t expected, gguf.keys.IntOr("split.tensors.count", found, 0, INT32_MAX));
  if (expected != found) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": `split.tensors.count`: expected ", expected, " tensors in all files, found ", found));
  }
  return gguf;
}

}  // namespace gantry::engine
