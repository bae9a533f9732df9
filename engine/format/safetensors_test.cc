#include "engine/format/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace gantry::engine {
namespace {

using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes, int64_t stated_header_bytes = -1) {
  const uint64_t length = stated_header_bytes < 0 ? header.size() : static_cast<uint64_t>(stated_header_bytes);
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, '\1');
}

TEST(SafetensorsTest, TensorsAreViewsIntoTheFile) {
  const std::string bytes =
      File(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
           R"("b":{"dtype":"BF16","shape":[3,1],"data_offsets":[8,14]}})",
           14);
  const auto file = SafetensorsFile::Parse(bytes, "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 2u);
  const StoredTensor& b = *file->Find("b").value();
  EXPECT_EQ(ShapeText(b.shape), "[3, 1]");
  EXPECT_EQ(static_cast<const char*>(b.data), bytes.data() + bytes.size() - 6);
}

TEST(SafetensorsTest, MalformedFilesAreRefusedNamingFileTensorExpectedAndFound) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const struct {
    const char* what;
    std::string bytes;
    const char* message;
  } rows[] = {
      {"no length", "abc", "expected an 8-byte header length, found 3 bytes"},
      {"header longer than the file", File(good, 8, 1000), "expected a header of 1000 bytes"},
      {"absurd header length", File(good, 8, INT64_MAX), "expected a header of"},
      {"header is no JSON", File("{{", 8), "the header is not a JSON object"},
      {"header is a list", File("[]", 8), "the header is not a JSON object"},
      {"deep nesting", File(std::string(50'000, '['), 8), "the header is not a JSON object"},
      {"truncated data", File(good, 7), "tensor a: truncated file: expected data up to byte 8, found 7 bytes"},
      {"unknown type", File(R"({"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}})", 8),
       "tensor a: unknown dtype Q9"},
      {"negative size", File(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
       "tensor a: expected `shape`"},
      {"size and bytes differ", File(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
       "tensor a: expected 12 bytes for F32 [3], found data_offsets [0, 8)"},
      {"overflowing shape",
       File(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,8]}})", 8),
       "too large"},
      {"offsets backwards", File(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[8,4]}})", 8),
       "tensor a: expected 0 bytes"},
      {"no offsets", File(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "tensor a: expected `data_offsets`"},
      {"overlap",
       File(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
           8),
       "tensor b overlaps tensor a"},
      {"same name twice",
       File(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
           2),
       "tensor a is listed twice"},
  };
  for (const auto& row : rows) {
    const auto file = SafetensorsFile::Parse(row.bytes, "m.safetensors");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("m.safetensors: ")) << row.what;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(row.message)) << row.what;
  }
}

TEST(SafetensorsTest, AbsentFileIsNotFoundByName) {
  const auto file = SafetensorsFile::Open("/nonexistent/model.safetensors");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("/nonexistent/model.safetensors"));
}

}  // namespace
}  // namespace gantry::engine
