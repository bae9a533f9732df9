#include "engine/format/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"
#include "engine/format/gguf_header.h"

namespace gantry::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The file's bytes, piece by piece, so that a test can bend any of them.
class Bytes {
 public:
  Bytes& U8(uint8_t v) { return Put(&v, sizeof(v)); }
  Bytes& U32(uint32_t v) { return Put(&v, sizeof(v)); }
  Bytes& U64(uint64_t v) { return Put(&v, sizeof(v)); }
  Bytes& F32(float v) { return Put(&v, sizeof(v)); }
  Bytes& F64(double v) { return Put(&v, sizeof(v)); }
  Bytes& Text(const std::string& text) { return Raw(text); }
  Bytes& String(const std::string& text) {
    U64(text.size());
    return Raw(text);
  }
  Bytes& Header(uint64_t tensors, uint64_t keys) { return Text("GGUF").U32(3).U64(tensors).U64(keys); }
  Bytes& Key(const std::string& key, uint32_t type) { return String(key).U32(type); }
  Bytes& Tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    String(name).U32(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) U64(dim);
    return U32(type).U64(offset);
  }
  Bytes& Data(size_t bytes) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32);
    bytes_.append(bytes, '\1');
    return *this;
  }
  const std::string& str() const { return bytes_; }

 private:
  Bytes& Put(const void* data, size_t size) { return Raw({static_cast<const char*>(data), size}); }
  Bytes& Raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  std::string bytes_;
};

TEST(GgufTest, TensorsAreViewsWithTheSlowestDimensionFirst) {
  const std::string bytes = Bytes()
                                .Header(2, 1)
                                .Key("general.architecture", 8)
                                .String("llama")
                                .Tensor("a", {32, 3, 2}, /*Q8_0*/ 8, 0)
                                .Tensor("b", {5}, /*F32*/ 0, 224)
                                .Data(244)
                                .str();
  const auto gguf = ParseGguf(bytes, "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->keys.String("general.architecture").value(), "llama");
  const StoredTensor& a = gguf->tensors.tensors.at("a");
  EXPECT_THAT(a.shape, ElementsAre(2, 3, 32));
  EXPECT_EQ(a.dtype, "Q8_0");
  EXPECT_EQ(a.bytes, 2 * 3 * 34);
  EXPECT_EQ(static_cast<const char*>(a.data), bytes.data() + bytes.size() - 244);
  EXPECT_EQ(static_cast<const char*>(gguf->tensors.tensors.at("b").data), bytes.data() + bytes.size() - 20);
}

TEST(GgufTest, Version2IsReadLikeVersion3) {
  std::string bytes = Bytes().Header(0, 1).Key("k", 4).U32(7).str();
  bytes[4] = 2;
  EXPECT_EQ(ParseGguf(bytes, "m.gguf").value().keys.Int("k", 0, 10).value(), 7);
}

TEST(GgufTest, KeysAreReadByTypeAndRange) {
  const std::string bytes = Bytes()
                                .Header(0, 9)
                                .Key("u32", 4)
                                .U32(7)
                                .Key("i8", 1)
                                .U8(0xff)
                                .Key("u64", 10)
                                .U64(UINT64_MAX)
                                .Key("f32", 6)
                                .F32(0.5f)
                                .Key("f64", 12)
                                .F64(-2.5)
                                .Key("bool", 7)
                                .U8(1)
                                .Key("text", 8)
                                .String("words")
                                .Key("ints", 9)
                                .U32(4)
                                .U64(2)
                                .U32(3)
                                .U32(4)
                                .Key("texts", 9)
                                .U32(8)
                                .U64(2)
                                .String("")
                                .String("b c")
                                .str();
  const auto gguf = ParseGguf(bytes, "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const GgufKeys& keys = gguf->keys;
  EXPECT_EQ(keys.Int("u32", 0, 7).value(), 7);
  EXPECT_EQ(keys.Int("i8", -1, 0).value(), -1);
  EXPECT_EQ(keys.IntOr("absent", 5, 0, 1).value(), 5);
  EXPECT_EQ(keys.NumberOr("f32", 0, 0, 1).value(), 0.5);
  EXPECT_EQ(keys.NumberOr("f64", 0, -3, 1).value(), -2.5);
  EXPECT_EQ(keys.NumberOr("u32", 0, 0, 10).value(), 7.0);
  EXPECT_TRUE(keys.BoolOr("bool", false).value());
  EXPECT_EQ(keys.StringOr("absent", "x").value(), "x");
  EXPECT_THAT(keys.Strings("texts").value(), ElementsAre("", "b c"));
  EXPECT_THAT(keys.IntOrInts("ints", 0, 9).value(), ElementsAre(3, 4));
  EXPECT_THAT(keys.IntOrInts("u32", 0, 9).value(), ElementsAre(7));
  EXPECT_THAT(keys.IntOrInts("bool", 0, 1).value(), ElementsAre(1));
  EXPECT_THAT(keys.IntOrInts("absent", 0, 9).value(), ElementsAre());

  const struct {
    absl::Status status;
    const char* message;
  } rows[] = {
      {keys.Int("absent", 0, 1).status(), "m.gguf: key `absent` is missing"},
      {keys.Int("u32", 0, 6).status(), "m.gguf: `u32`: expected an integer in [0, 6], found 7"},
      {keys.Int("u64", 0, INT64_MAX).status(), "found 18446744073709551615"},
      {keys.Int("f32", 0, 1).status(), "`f32`: expected an integer in [0, 1], found 0.5"},
      {keys.Int("ints", 0, 9).status(), "found an array of 2 u32"},
      {keys.NumberOr("text", 0, 0, 1).status(), "`text`: expected a number in [0, 1], found `words`"},
      {keys.BoolOr("u32", false).status(), "`u32`: expected true or false, found 7"},
      {keys.String("bool").status(), "`bool`: expected a string, found true"},
      {keys.Strings("ints").status(), "`ints`: expected an array of strings, found an array of 2 u32"},
      {keys.IntOrInts("texts", 0, 9).status(), "`texts`: expected integers in [0, 9], found an array of 2 string"},
      {keys.IntOrInts("ints", 0, 3).status(), "expected integers in [0, 3]"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(row.status.code(), absl::StatusCode::kInvalidArgument) << row.message;
    EXPECT_THAT(std::string(row.status.message()), HasSubstr(row.message));
  }
}

TEST(GgufTest, MalformedFilesAreRefusedNamingWhatWasExpectedAndFound) {
  const auto key = [](uint32_t type) { return Bytes().Header(0, 1).Key("k", type); };
  const auto version = [](uint32_t v) { return Bytes().Text("GGUF").U32(v).U64(0).U64(0).str(); };
  const auto tensor = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset, size_t data) {
    return Bytes().Header(1, 0).Tensor("t", dims, type, offset).Data(data).str();
  };
  const struct {
    const char* what;
    std::string bytes;
    const char* message;
  } rows[] = {
      {"empty", "", "truncated file: expected 4 bytes of the magic number at byte 0, found 0"},
      {"another format", "GGML....", "expected a GGUF file, found other bytes"},
      {"version 1", version(1), "expected GGUF version 2 or 3, found version 1"},
      {"version 4", version(4), "expected GGUF version 2 or 3, found version 4"},
      {"big endian", version(0x03000000), "expected a little-endian GGUF file, found a big-endian one"},
      {"counts cut off", "GGUF" + std::string("\3\0\0\0\1", 5), "expected 8 bytes of the tensor count"},
      {"absurd key count", Bytes().Header(0, UINT64_MAX).str(), "expected at most 0 keys in 0 remaining bytes"},
      {"absurd tensor count", Bytes().Header(1ull << 60, 0).Data(3200).str(), "expected at most 100 tensors in 3208"},
      {"endless key", Bytes().Header(0, 1).String(std::string(600, 'k')).str(),
       "at most 512 bytes in a key, found 600"},
      {"key longer than the file", Bytes().Header(0, 1).U64(400).Text("abcdef").str(),
       "expected 400 bytes of a key at byte 32, found 6"},
      {"unknown value type", key(13).U32(0).str(), "key `k`: expected a value type below 13, found 13"},
      {"value cut off", key(10).U32(0).str(), "key `k`: truncated file: expected 1 values of type u64, found 4 bytes"},
      {"string cut off", key(8).U64(100).Text("abc").str(), "expected 100 bytes of key `k`"},
      {"endless string", key(8).U64(UINT64_MAX).str(), "expected 18446744073709551615 bytes of key `k`"},
      {"array of arrays", key(9).U32(9).U64(1).U32(0).U64(0).str(), "key `k`: expected no array of arrays, found one"},
      {"endless array", key(9).U32(4).U64(UINT64_MAX / 4).U32(0).str(), "values of type u32, found 4 bytes"},
      {"endless array of strings", key(9).U32(8).U64(1ull << 40).U32(0).str(), "values of type string, found 4 bytes"},
      {"array's string cut off", key(9).U32(8).U64(1).U64(9).Text("a").str(), "expected 9 bytes of key `k`"},
      {"key twice", Bytes().Header(0, 2).Key("k", 7).U8(0).Key("k", 7).U8(1).str(), "key `k`: expected once"},
      {"alignment of 48", Bytes().Header(0, 1).Key("general.alignment", 4).U32(48).str(),
       "key `general.alignment`: expected a power of two from 8 to 1048576, found 48"},
      {"alignment of 0", Bytes().Header(0, 1).Key("general.alignment", 4).U32(0).str(),
       "`general.alignment`: expected"},
      {"no dimensions", Bytes().Header(1, 0).Tensor("t", {}, 0, 0).Data(64).str(),
       "tensor t: expected 1 to 4 dimensions, found 0"},
      {"five dimensions", tensor({1, 1, 1, 1, 1}, 0, 0, 4), "tensor t: expected 1 to 4 dimensions, found 5"},
      {"empty dimension", tensor({32, 0}, 0, 0, 4),
       "tensor t: expected dimensions of a size that fits a file, found 0"},
      {"overflowing dimensions", tensor({1ull << 40, 1ull << 40}, 0, 0, 4), "found 1099511627776"},
      {"type that needs tables", tensor({256}, 16, 0, 66),
       "tensor t: expected one of the types F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4, Q2_K, Q3_K, "
       "Q4_K, Q5_K, Q6_K, IQ4_XS, NVFP4; found IQ2_XXS (type 16)"},
      {"unknown type", tensor({256}, 77, 0, 66), "found type 77"},
      {"half a block", tensor({48}, 8, 0, 64),
       "tensor t: expected rows in multiples of 32 elements for Q8_0, found 48"},
      {"misaligned data", tensor({8}, 0, 16, 64),
       "tensor t: expected its data at a multiple of 32 bytes, found it at 16"},
      {"truncated data", tensor({8}, 0, 32, 63),
       "tensor t: truncated file: expected 32 bytes of data at byte 32, found 63 bytes in all"},
      {"data far outside", tensor({8}, 0, 1ull << 62, 64), "tensor t: truncated file: expected 32 bytes"},
      {"no data", Bytes().Header(1, 0).Tensor("t", {8}, 0, 0).str(), "tensor t: truncated file"},
      {"overlap", Bytes().Header(2, 0).Tensor("t", {9}, 0, 0).Tensor("u", {8}, 0, 32).Data(64).str(),
       "tensor u: overlaps tensor t: expected its data from byte 36, found 32"},
      {"tensor twice", Bytes().Header(2, 0).Tensor("t", {8}, 0, 0).Tensor("t", {8}, 0, 32).Data(64).str(),
       "tensor t: expected once, found twice"},
  };
  for (const auto& row : rows) {
    const absl::Status status = ParseGguf(row.bytes, "m.gguf").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr("m.gguf: ")) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.what;
  }
}

std::string SmallFile() {
  GgufHeader header;
  header.SetString("general.architecture", "llama");
  header.SetU16("split.no", 0);
  header.SetU32("u32", 7);
  header.SetF32("f32", 0.25f);
  header.SetBool("bool", true);
  header.SetStrings("texts", {"a", "", "ccc"});
  header.SetI32s("ints", {-1, 2});
  header.AddTensor("q", {3, 64}, DType::kQ8_0);
  header.AddTensor("norm", {5}, DType::kF32);
  return header.Bytes() + std::string(header.data_bytes(), '\2');
}

TEST(GgufTest, WrittenHeadersAreReadBack) {
  const std::string bytes = SmallFile();
  const auto gguf = ParseGguf(bytes, "m.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->keys.Int("u32", 0, 10).value(), 7);
  EXPECT_EQ(gguf->keys.NumberOr("f32", 0, 0, 1).value(), 0.25);
  EXPECT_TRUE(gguf->keys.BoolOr("bool", false).value());
  EXPECT_THAT(gguf->keys.Strings("texts").value(), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(gguf->keys.IntOrInts("ints", -5, 5).value(), ElementsAre(-1, 2));
  EXPECT_THAT(gguf->tensors.tensors.at("q").shape, ElementsAre(3, 64));
  EXPECT_EQ(gguf->tensors.tensors.at("norm").bytes, 20);
}

// Every prefix and every changed byte of a small file: an error or a model, never anything else.
TEST(GgufTest, CutsAndFlippedBytesAreErrorsOrHarmless) {
  const std::string bytes = SmallFile();
  for (size_t size = 0; size + 12 < bytes.size(); ++size) {  // the last twelve bytes are padding
    EXPECT_FALSE(ParseGguf(absl::string_view(bytes).substr(0, size), "m.gguf").ok()) << size;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bent = bytes;
      bent[i] = static_cast<char>(bent[i] ^ flip);
      const auto gguf = ParseGguf(bent, "m.gguf");
      if (!gguf.ok()) continue;
      for (const auto& [name, tensor] : gguf->tensors.tensors) {
        EXPECT_GE(static_cast<const char*>(tensor.data), bent.data());
        EXPECT_LE(static_cast<const char*>(tensor.data) + tensor.bytes, bent.data() + bent.size());
      }
    }
  }
}

class GgufSplitTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = absl::StrCat(testing::TempDir(), "/gantry_gguf_test_", getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  struct Part {
    uint16_t number = 0, count = 3;
    std::string tensor;
    uint32_t tensors_in_all = 3;
  };
  std::string Path(int i) const { return absl::StrCat(directory_, "/m-0000", i, "-of-00003.gguf"); }
  static void WritePart(const std::string& path, const Part& part) {
    GgufHeader header;
    if (part.number == 0) header.SetString("general.architecture", "llama");
    header.SetU16("split.no", part.number);
    header.SetU16("split.count", part.count);
    header.SetU32("split.tensors.count", part.tensors_in_all);
    header.AddTensor(part.tensor, {8}, DType::kF32);
    std::ofstream(path, std::ios::binary) << header.Bytes() << std::string(header.data_bytes(), '\1');
  }
  void WriteAll() const {
    WritePart(Path(1), {.number = 0, .tensor = "a"});
    WritePart(Path(2), {.number = 1, .tensor = "b"});
    WritePart(Path(3), {.number = 2, .tensor = "c"});
  }

  std::string directory_;
};

TEST_F(GgufSplitTest, FilesOfASplitAreOneModel) {
  WriteAll();
  const auto gguf = OpenGguf(Path(1));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->tensors.tensors.size(), 3u);
  EXPECT_EQ(gguf->tensors.tensors.at("c").file, Path(3));
  EXPECT_EQ(static_cast<const char*>(gguf->tensors.tensors.at("c").data)[31], '\1');
  EXPECT_EQ(gguf->keys.String("general.architecture").value(), "llama");
}

TEST_F(GgufSplitTest, BrokenSplitsAreRefusedNamingTheFile) {
  const struct {
    const char* what;
    std::function<std::string()> change;  // returns the path to open
    absl::StatusCode code;
    std::string message;
  } rows[] = {
      {"not the first file", [&] { return Path(2); }, absl::StatusCode::kInvalidArgument,
       Path(2) + ": one of 3 files of a split model; expected the path of the first one, NAME-00001-of-00003.gguf"},
      {"renamed",
       [&] {
         std::filesystem::copy(Path(1), directory_ + "/m.gguf");
         return directory_ + "/m.gguf";
       },
       absl::StatusCode::kInvalidArgument, "m.gguf: one of 3 files of a split model"},
      {"missing file",
       [&] {
         std::filesystem::remove(Path(3));
         return Path(1);
       },
       absl::StatusCode::kNotFound, Path(3)},
      {"order",
       [&] {
         WritePart(Path(2), {.number = 2, .tensor = "b"});
         return Path(1);
       },
       absl::StatusCode::kInvalidArgument, Path(2) + ": `split.no`: expected an integer in [1, 1], found 2"},
      {"count",
       [&] {
         WritePart(Path(2), {.number = 1, .count = 4, .tensor = "b"});
         return Path(1);
       },
       absl::StatusCode::kInvalidArgument, Path(2) + ": `split.count`: expected an integer in [3, 3], found 4"},
      {"tensor in two files",
       [&] {
         WritePart(Path(3), {.number = 2, .tensor = "a"});
         return Path(1);
       },
       absl::StatusCode::kInvalidArgument,
       absl::StrCat(Path(3), ": tensor a: expected in one file, found in ", Path(1))},
      {"tensor count",
       [&] {
         WritePart(Path(1), {.number = 0, .tensor = "a", .tensors_in_all = 4});
         return Path(1);
       },
       absl::StatusCode::kInvalidArgument, "`split.tensors.count`: expected 4 tensors in all files, found 3"},
  };
  for (const auto& row : rows) {
    WriteAll();
    const absl::Status status = OpenGguf(row.change()).status();
    EXPECT_EQ(status.code(), row.code) << row.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.what;
  }
}

TEST(GgufFileTest, MissingFileIsNamed) {
  const absl::Status status = OpenGguf("/nonexistent/m.gguf").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/m.gguf"));
}

}  // namespace
}  // namespace gantry::engine
