#include "engine/format/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

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
      {"header is no JSON", File("{{", 8), "header: expected a JSON object, found an error at byte 2"},
      {"header is a list", File("[]", 8), "header: expected a JSON object, found array"},
      {"number out of range", File(R"({"a":1e999})", 8), "header: expected a JSON object, found a number out of range"},
      {"deep nesting", File(std::string(50'000, '[') + std::string(50'000, ']'), 8),
       "header: expected a JSON object nested at most 3 levels"},
      {"endless name", File("{\"" + std::string(600, 'n') + "\":{}}", 8),
       "expected tensor names of at most 512 bytes, found 600"},
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
           7),
       "tensor b overlaps tensor a: expected its data from byte 4, found 3"},
      {"gap",
       File(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}})",
           8),
       "tensor b: expected its data from byte 4, found 5"},
      {"bytes of no tensor", File(good, 9), "expected 8 bytes of data after the header, found 9"},
      {"same name twice",
       File(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
           2),
       "header: expected each key once, found `a` twice"},
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

constexpr char kA[] = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
constexpr char kB[] = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";

TEST(SafetensorsTest, ShardsAndTheirIndexMustAgree) {
  const struct {
    const char* what;
    const char* index;
    std::string one, two;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"agree", R"({"metadata":{},"weight_map":{"a":"one","b":"two"}})", File(kA, 1), File(kB, 1),
       absl::StatusCode::kOk, ""},
      {"no map", R"({"a":"one"})", File(kA, 1), File(kB, 1), absl::StatusCode::kInvalidArgument,
       "index.json: expected an object `weight_map`"},
      {"path leads out", R"({"weight_map":{"a":"../one"}})", File(kA, 1), File(kB, 1),
       absl::StatusCode::kInvalidArgument, "tensor a: expected the name of a file in this directory"},
      {"absent shard", R"({"weight_map":{"a":"three"}})", File(kA, 1), File(kB, 1), absl::StatusCode::kNotFound,
       "/three: cannot be opened"},
      {"other shard", R"({"weight_map":{"a":"two","b":"one"}})", File(kA, 1), File(kB, 1),
       absl::StatusCode::kInvalidArgument, "tensor a: expected in two, found in "},
      {"no shard", R"({"weight_map":{"a":"one","b":"two","c":"two"}})", File(kA, 1), File(kB, 1),
       absl::StatusCode::kInvalidArgument, "tensor c: expected in two, found in no shard"},
      {"both shards", R"({"weight_map":{"a":"one","b":"two"}})", File(kA, 1), File(kA, 1),
       absl::StatusCode::kInvalidArgument, "tensor a: expected in one shard, found in "},
  };
  const std::string directory = absl::StrCat(testing::TempDir(), "/gantry_shards_", getpid());
  std::filesystem::create_directories(directory);
  for (const auto& row : rows) {
    std::ofstream(directory + "/model.safetensors.index.json") << row.index;
    std::ofstream(directory + "/one") << row.one;
    std::ofstream(directory + "/two") << row.two;
    const auto set = OpenModelTensors(directory);
    EXPECT_EQ(set.status().code(), row.code) << row.what << ": " << set.status();
    EXPECT_THAT(std::string(set.status().message()), HasSubstr(row.message)) << row.what;
    if (set.ok()) {
      EXPECT_EQ(set->tensors.size(), 2u) << row.what;
    }
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace gantry::engine
