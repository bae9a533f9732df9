// Nothing is allocated inside a step of the CPU backend.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/golden_test_util.h"
#include "engine/base/allocation_counter_test_util.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/write_model.h"

namespace gantry::engine {
namespace {

const std::string kDemo = std::string(GANTRY_SOURCE_DIR) + "/models/demo";

// The demo model in a GGUF file of one type of blocks.
std::shared_ptr<const Model> LoadDemoAs(const std::string& type) {
  const std::string path = absl::StrCat(testing::TempDir(), "/gantry_allocation_test_", getpid(), ".gguf");
  const make_model::GgufPlan plan = make_model::PlanGguf(make_model::OpenCheckpoint(kDemo).value(), type).value();
  EXPECT_TRUE(make_model::WriteGguf(plan, path, 1).ok());
  auto model = LoadModel(path);
  std::filesystem::remove(path);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

void CheckStepsAllocateNothing(const std::shared_ptr<const Model>& model) {
  SCOPED_TRACE(model->path);
  BlocksLimits limits = TestLimits();
  limits.kv_pages = 20;
  auto blocks = MakeCpuBlocks(model, limits).value();
  const int vocab = model->spec.vocab_rows;
  std::vector<KvPage> pages(limits.kv_pages);
  for (int i = 0; i < limits.kv_pages; ++i) pages[i] = i;
  const StateSlot slot = 0;
  blocks->ZeroState(slot);
  std::vector<float> hidden(limits.max_rows * model->spec.hidden), logits(static_cast<size_t>(limits.max_rows) * vocab);
  std::vector<int> wanted(limits.max_rows);
  int position = 0;
  const auto step = [&](int rows) {
    const std::vector<TokenId> tokens(rows, 5);
    std::vector<int32_t> positions(rows);
    for (int t = 0; t < rows; ++t) {
      positions[t] = position + t;
      wanted[t] = t;
    }
    const RowGroup group{0, rows, position, pages, slot, {&slot, 1}};
    const StepBatch batch{tokens, positions, {&group, 1}};
    const AllocationCounter allocations;
    RunTrunk(*blocks, batch, blocks->residual());
    blocks->Head(Blocks::HeadOf::kTrunk, absl::MakeConstSpan(wanted).subspan(0, rows), blocks->residual(),
                 hidden.data(), logits.data());
    if (model->spec.mtp) RunMtp(*blocks, batch, hidden.data(), blocks->residual());
    EXPECT_EQ(allocations.count(), 0) << rows << " rows at " << position;
    position += rows;
  };
  for (const int rows : {128, 1, 5, 128, 128, 128, 128, 1, 17, 1}) step(rows);
}

TEST(AllocationTest, NothingIsAllocatedInsideAStep) {
  CheckStepsAllocateNothing(LoadModel(kDemo).value());
  CheckStepsAllocateNothing(LoadModel(std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe").value());
  for (const char* type : {"q8_0", "q4_k_m"}) CheckStepsAllocateNothing(LoadDemoAs(type));
}

}  // namespace
}  // namespace gantry::engine
