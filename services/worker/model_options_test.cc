// From an administrator's flag or variable to the engine's option.
#include "services/worker/model_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gantry::worker {
namespace {

using ::testing::HasSubstr;

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

struct Parsed {
  absl::Status status;
  ModelOptions options;
};

Parsed Parse(std::vector<std::string> variables, std::vector<const char*> flags) {
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  std::vector<const char*> argv = {"gantry-worker", "--model", kDemo.c_str()};
  argv.insert(argv.end(), flags.begin(), flags.end());
  Parsed parsed;
  Config config("worker", "A test.", environment.data());
  parsed.options.Declare(&config);
  parsed.status = config.Parse(static_cast<int>(argv.size()), argv.data()).status();
  return parsed;
}

TEST(ModelOptionsTest, FlagsAndVariablesReachTheEngine) {
  const struct {
    std::vector<std::string> variables;
    std::vector<const char*> flags;
    const char *kv_type, *spec;
    int64_t cache_bytes;
  } rows[] = {
      {{}, {}, "f16", "auto", int64_t{512} << 20},
      {{"GANTRY_WORKER_KV_TYPE=int8", "GANTRY_WORKER_SPEC=off"}, {}, "int8", "off", int64_t{512} << 20},
      {{"GANTRY_WORKER_KV_TYPE=int8"}, {"--kv-type", "f32", "--cache-mib", "64"}, "f32", "auto", int64_t{64} << 20},
  };
  for (const auto& row : rows) {
    const Parsed parsed = Parse(row.variables, row.flags);
    ASSERT_TRUE(parsed.status.ok()) << parsed.status;
    const engine::EngineOptions options = parsed.options.ForEngine().value();
    EXPECT_EQ(options.model_path, kDemo);
    EXPECT_EQ(options.kv_type, row.kv_type);
    EXPECT_EQ(options.spec.mode, row.spec);
    EXPECT_EQ(options.cache_bytes, row.cache_bytes);
    EXPECT_GT(options.vocab_used, 0);
  }
}

TEST(ModelOptionsTest, DefaultsOfTheEngineAreDefaultsHere) {
  const engine::EngineOptions options = Parse({}, {}).options.ForEngine().value(), engine;
  EXPECT_EQ(options.kv_type, engine.kv_type);
  EXPECT_EQ(options.spec.mode, engine.spec.mode);
  EXPECT_EQ(options.backend, engine.backend);
  EXPECT_EQ(options.max_sequences, engine.max_sequences);
}

TEST(ModelOptionsTest, UnknownKvTypeIsRefusedNamingWhereItStands) {
  const absl::Status status = Parse({"GANTRY_WORKER_KV_TYPE=int4"}, {}).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr("GANTRY_WORKER_KV_TYPE"), HasSubstr("int4"), HasSubstr("f16|f32|int8")));
}

}  // namespace
}  // namespace gantry::worker
