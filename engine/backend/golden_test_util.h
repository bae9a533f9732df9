// Reference outputs made with other people's implementations (tests/data), and the comparison every backend must pass.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/forward.h"
#include "engine/format/safetensors.h"
#include "engine/model/model.h"

namespace gantry::engine {

using BlocksFactory =
    std::function<absl::StatusOr<std::unique_ptr<Blocks>>(std::shared_ptr<const Model>, const BlocksLimits&)>;

inline BlocksLimits TestLimits() {
  return BlocksLimits{.max_rows = 128, .max_head_rows = 128, .kv_pages = 4, .state_slots = 4, .threads = 2};
}

inline std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor& tensor = *file.Find(name).value();
  const auto* data = static_cast<const float*>(tensor.data);
  return std::vector<float>(data, data + tensor.elements());
}

inline std::vector<TokenId> Ids(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor& tensor = *file.Find(name).value();
  const auto* data = static_cast<const int64_t*>(tensor.data);
  return std::vector<TokenId>(data, data + tensor.elements());
}

inline int ArgMax(const float* row, int size) {
  return static_cast<int>(std::max_element(row, row + size) - row);
}

// Non-finite counts as infinitely far.
inline double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double max = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= 1e30)) return INFINITY;
    max = std::max(max, difference);
  }
  return max;
}

struct GoldenCase {
  std::string name;    // for messages
  std::string model;   // directory
  std::string file;    // golden.safetensors
  std::string suffix;  // ".0" where one file holds several prompts
};

inline std::vector<GoldenCase> Qwen35MoeGoldens() {
  const std::string root = GANTRY_SOURCE_DIR;
  std::vector<GoldenCase> cases = {{"qwen3_5_moe", root + "/tests/data/goldens/qwen3_5_moe",
                                    root + "/tests/data/goldens/qwen3_5_moe/golden.safetensors", ""}};
  for (int p = 0; p < 3; ++p) {
    cases.push_back({absl::StrCat("demo.", p), root + "/models/demo", root + "/models/demo/golden.safetensors",
                     absl::StrCat(".", p)});
  }
  return cases;
}

// Logits and MTP logits of the prompt within `bound`; teacher-forced over the greedy continuation, the same argmax
// wherever the golden margin exceeds twice the bound.
inline void CheckGolden(const GoldenCase& golden, const BlocksFactory& factory, double bound) {
  SCOPED_TRACE(golden.name);
  const auto model = LoadModel(golden.model);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto file = SafetensorsFile::Open(golden.file);
  ASSERT_TRUE(file.ok()) << file.status();
  auto blocks = factory(*model, TestLimits());
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  const int hidden = (*model)->spec.hidden, vocab = (*model)->spec.vocab_rows;

  const std::vector<TokenId> ids = Ids(*file, "ids" + golden.suffix);
  const std::vector<TokenId> greedy = Ids(*file, "greedy" + golden.suffix);
  const std::vector<float> margin = Floats(*file, "margin" + golden.suffix);
  SequenceRunner runner(**blocks);
  std::vector<float> hiddens(ids.size() * hidden), logits(ids.size() * vocab);
  runner.Append(ids, 0, hiddens.data(), logits.data());
  const double logits_difference = MaxDifference(logits, Floats(*file, "logits" + golden.suffix));
  EXPECT_LE(logits_difference, bound);

  std::vector<TokenId> next(ids.begin() + 1, ids.end());
  std::vector<float> mtp_logits(next.size() * vocab);
  runner.AppendMtp(0, next, hiddens.data(), 0, nullptr, mtp_logits.data());
  const double mtp_difference = MaxDifference(mtp_logits, Floats(*file, "mtp_logits" + golden.suffix));
  EXPECT_LE(mtp_difference, bound);

  int compared = 0;
  std::vector<float> row(logits.end() - vocab, logits.end());
  for (size_t i = 0; i < greedy.size(); ++i) {
    if (margin[i] > 2 * bound) {
      EXPECT_EQ(ArgMax(row.data(), vocab), greedy[i]) << "greedy step " << i << " with margin " << margin[i];
      ++compared;
    }
    runner.Append({&greedy[i], 1}, 0, nullptr, row.data());
  }
  EXPECT_GT(compared, 0);
  std::printf("%s: logits max |difference| %.2e, MTP %.2e, bound %.0e, %d of %zu greedy steps compared\n",
              golden.name.c_str(), logits_difference, mtp_difference, bound, compared, greedy.size());
}

}  // namespace gantry::engine
