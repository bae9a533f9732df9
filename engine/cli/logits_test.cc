// `logits` with choices of experts written on one backend and forced on the other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/cli/commands.h"

namespace gantry::engine::cli {
namespace {

using ::testing::HasSubstr;

const std::string kGolden = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_moe";

class LogitsTest : public testing::Test {
 protected:
  LogitsTest() : directory_(absl::StrCat(testing::TempDir(), "/gantry_logits_test_", getpid())) {
    std::filesystem::create_directories(directory_);
    Write("ids.json", "[3, 1, 4, 1, 5, 9]");
  }
  ~LogitsTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(Path(name)) << text; }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name), std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  }
  absl::Status Run(const std::string& backend, const std::string& out, const std::string& from,
                   const std::string& route_out, const std::string& kv_type = "f16") const {
    return RunLogits({.model = kGolden, .backend = backend, .kv_type = kv_type, .threads = 1},
                     {.ids = Path("ids.json"),
                      .out = Path(out),
                      .route_from = from.empty() ? "" : Path(from),
                      .route_out = route_out.empty() ? "" : Path(route_out)});
  }

  std::string directory_;
};

TEST_F(LogitsTest, ChoicesOfOneBackendRunOnTheOther) {
  ASSERT_TRUE(Run("reference", "plain.f32", "", "route.json").ok());
  const auto route = nlohmann::json::parse(Read("route.json"));
  const auto config = nlohmann::json::parse(std::ifstream(kGolden + "/config.json"));
  ASSERT_EQ(route.size(), config["num_hidden_layers"]);
  ASSERT_EQ(route[0].size(), 6u);
  ASSERT_EQ(route[0][0].size(), config["num_experts_per_tok"]);

  ASSERT_TRUE(Run("cpu", "forced.f32", "route.json", "again.json").ok());
  EXPECT_EQ(Read("again.json"), Read("route.json"));

  // Another first choice is another computation.
  nlohmann::json changed = route;
  for (auto& row : changed[0]) {
    for (auto& expert : row) expert = config["num_local_experts"].get<int>() - 1 - expert.get<int>();
  }
  Write("changed.json", changed.dump());
  ASSERT_TRUE(Run("cpu", "changed.f32", "changed.json", "").ok());
  EXPECT_NE(Read("changed.f32"), Read("forced.f32"));
}

TEST_F(LogitsTest, KvTypesHaveTheirOwnBitsExceptOnTheReferenceBackend) {
  for (const char* type : {"f32", "f16", "int8"}) {
    ASSERT_TRUE(Run("cpu", absl::StrCat("cpu.", type), "", "", type).ok()) << type;
    ASSERT_TRUE(Run("reference", absl::StrCat("reference.", type), "", "", type).ok()) << type;
    EXPECT_EQ(Read(absl::StrCat("reference.", type)), Read("reference.f32")) << type;
  }
  EXPECT_NE(Read("cpu.f16"), Read("cpu.f32"));
  EXPECT_NE(Read("cpu.int8"), Read("cpu.f16"));
  EXPECT_EQ(Run("cpu", "out.f32", "", "", "q8"),
            absl::InvalidArgumentError("--kv-type is `q8`, expected f32, f16 or int8"));
}

TEST_F(LogitsTest, FilesOfChoicesThatDoNotFitAreRefusedByPlace) {
  ASSERT_TRUE(Run("reference", "plain.f32", "", "route.json").ok());
  const auto route = nlohmann::json::parse(Read("route.json"));
  const struct {
    const char* what;
    std::function<void(nlohmann::json&)> change;
    const char* message;
  } rows[] = {
      {"other shape", [](nlohmann::json& r) { r = 5; }, "expected an array of"},
      {"a layer less", [](nlohmann::json& r) { r.erase(0); }, "layers"},
      {"a position less", [](nlohmann::json& r) { r[1].erase(0); }, "[1]: expected an array of 6 positions or more"},
      {"a choice less", [](nlohmann::json& r) { r[1][2].erase(0); }, "[1][2]: expected"},
      {"no such expert", [](nlohmann::json& r) { r[0][3][0] = 1000; }, "[0][3]: expected"},
      {"one expert twice", [](nlohmann::json& r) { r[0][3][1] = r[0][3][0]; }, "different experts below"},
  };
  for (const auto& row : rows) {
    nlohmann::json changed = route;
    row.change(changed);
    Write("changed.json", changed.dump());
    const absl::Status status = Run("cpu", "out.f32", "changed.json", "");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message)) << row.what;
  }
}

}  // namespace
}  // namespace gantry::engine::cli
