#include "engine/backend/reference/reference_blocks.h"

#include <gtest/gtest.h>

#include "engine/backend/golden_test_util.h"

namespace gantry::engine {
namespace {

constexpr double kBound = 2e-3;
const std::string kTiny = std::string(GANTRY_SOURCE_DIR) + "/tests/data/goldens/qwen3_5_moe";

struct Golden {
  Golden() : model(LoadModel(kTiny).value()), file(SafetensorsFile::Open(kTiny + "/golden.safetensors").value()) {}
  std::unique_ptr<Blocks> MakeBlocks() { return MakeReferenceBlocks(model, TestLimits()).value(); }
  std::shared_ptr<const Model> model;
  SafetensorsFile file;
};

TEST(ReferenceBlocksTest, LogitsAndMtpLogitsEqualOtherPeoplesImplementations) {
  for (const GoldenCase& golden : Qwen35MoeGoldens()) CheckGolden(golden, MakeReferenceBlocks, kBound);
}

TEST(ReferenceBlocksTest, HiddenStatesEqualTheGolden) {
  Golden golden;
  auto blocks = golden.MakeBlocks();
  SequenceRunner runner(*blocks);
  const std::vector<TokenId> ids = Ids(golden.file, "ids");
  std::vector<float> hidden(ids.size() * golden.model->spec.hidden);
  runner.Append(ids, 0, hidden.data(), nullptr);
  EXPECT_LE(MaxDifference(hidden, Floats(golden.file, "hidden")), kBound);
}

TEST(ReferenceBlocksTest, ThreeTokenDraftEqualsTheGolden) {
  Golden golden;
  auto blocks = golden.MakeBlocks();
  SequenceRunner runner(*blocks);
  const int hidden_size = golden.model->spec.hidden, vocab = golden.model->spec.vocab_rows;
  const std::vector<TokenId> ids = Ids(golden.file, "ids");
  std::vector<float> hidden(ids.size() * hidden_size);
  runner.Append(ids, 0, hidden.data(), nullptr);

  std::vector<TokenId> next(ids.begin() + 1, ids.end());
  next.push_back(Ids(golden.file, "greedy")[0]);
  std::vector<float> mtp_hidden(next.size() * hidden_size), logits(next.size() * vocab);
  runner.AppendMtp(0, next, hidden.data(), 0, mtp_hidden.data(), logits.data());
  std::vector<float> m(mtp_hidden.end() - hidden_size, mtp_hidden.end()), row(logits.end() - vocab, logits.end());
  std::vector<TokenId> draft;
  std::vector<float> draft_logits;
  for (int i = 0; i < 3; ++i) {
    draft.push_back(ArgMax(row.data(), vocab));
    draft_logits.insert(draft_logits.end(), row.begin(), row.end());
    std::vector<float> m_next(hidden_size);
    runner.AppendMtp(static_cast<int>(ids.size()) + i, {&draft.back(), 1}, m.data(), 0, m_next.data(), row.data());
    m = m_next;
  }
  EXPECT_EQ(draft, Ids(golden.file, "draft"));
  EXPECT_LE(MaxDifference(draft_logits, Floats(golden.file, "draft_logits")), kBound);
}

TEST(ReferenceBlocksTest, ChunksAndSingleTokensGiveTheBitsOfTheWholePrompt) {
  Golden golden;
  const std::vector<TokenId> ids = Ids(golden.file, "ids");
  const auto run = [&](int chunk_rows) {
    auto blocks = golden.MakeBlocks();
    SequenceRunner runner(*blocks);
    std::vector<float> logits(ids.size() * golden.model->spec.vocab_rows);
    runner.Append(ids, chunk_rows, nullptr, logits.data());
    return logits;
  };
  const std::vector<float> whole = run(0);
  for (int chunk_rows : {1, 7, 64}) EXPECT_EQ(run(chunk_rows), whole) << "chunks of " << chunk_rows;
}

// After a verification of four rows the state of any of them can be taken up again.
TEST(ReferenceBlocksTest, StateAfterAnyOfTheLastRowsContinuesLikePlainDecoding) {
  Golden golden;
  const int vocab = golden.model->spec.vocab_rows;
  const std::vector<TokenId> ids = Ids(golden.file, "ids");
  for (int keep = 1; keep <= 4; ++keep) {
    auto blocks = golden.MakeBlocks();
    SequenceRunner runner(*blocks);
    runner.Append(absl::MakeConstSpan(ids).subspan(0, 60), 0, nullptr, nullptr);
    // Rows 60..63 verified at once; slot 0 is read and, after row 60, written as well.
    const KvPage pages[] = {0, 1, 2, 3};
    const StateSlot outs[] = {0, 1, 2, 3};
    const int32_t positions[] = {60, 61, 62, 63};
    RowGroup group{.first_row = 0, .rows = 4, .position = 60, .pages = pages, .state_in = 0, .state_out = outs};
    RunTrunk(*blocks, {absl::MakeConstSpan(ids).subspan(60, 4), positions, {&group, 1}}, blocks->residual());
    // Keep `keep` rows, then go on with the token after them.
    const StateSlot after = keep - 1;
    const int32_t position = 60 + keep;
    RowGroup one{
        .first_row = 0, .rows = 1, .position = position, .pages = pages, .state_in = after, .state_out = {&after, 1}};
    RunTrunk(*blocks, {absl::MakeConstSpan(ids).subspan(position, 1), {&position, 1}, {&one, 1}}, blocks->residual());
    std::vector<float> hidden(golden.model->spec.hidden), logits(vocab);
    const int row = 0;
    blocks->Head(Blocks::HeadOf::kTrunk, {&row, 1}, blocks->residual(), hidden.data(), logits.data());

    auto plain_blocks = golden.MakeBlocks();
    SequenceRunner plain(*plain_blocks);
    std::vector<float> plain_logits((position + 1) * vocab);
    plain.Append(absl::MakeConstSpan(ids).subspan(0, position + 1), 0, nullptr, plain_logits.data());
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(), plain_logits.end() - vocab)) << keep << " rows kept";
  }
}

TEST(ReferenceBlocksTest, LimitsThatHoldNoSequenceAreRefused) {
  Golden golden;
  EXPECT_EQ(MakeReferenceBlocks(golden.model, BlocksLimits{}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gantry::engine
