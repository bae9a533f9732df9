// Attention far into a context, without computing what stands before: a sequence whose group begins at position
// 200,000, its earlier pages being a few real ones that the page table names again and again.
//
// Every backend is asked the same question, so what differs is the angles at high positions, the folding of thousands
// of pages, and the indexing of pages beyond 3,125.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "engine/backend/golden_test_util.h"

namespace gantry::engine {

struct LongContext {
  int position = 200'000;  // of the first row; what stands before it in its page are zeros
  int rows = 3;
  // Pages [0, shared) hold keys and values of `shared` * 64 tokens computed at positions [0, ...); the history is these
  // in random order. Fresh pages follow for the rows themselves.
  int shared = 4;
};

// The trunk's logits of `rows` tokens at position, position + 1, ...
inline std::vector<float> LogitsFarIn(const std::shared_ptr<const Model>& model, const BlocksFactory& factory,
                                      const LongContext& context) {
  const int fresh = (context.position + context.rows - 1) / kKvPageTokens - context.position / kKvPageTokens + 1;
  BlocksLimits limits = TestLimits();
  limits.kv_pages = context.shared + fresh;
  limits.kv_type = KvType::kF32;
  limits.threads = 1;
  auto blocks = factory(model, limits).value();
  const ModelSpec& spec = model->spec;
  TestRandom random(11);
  const std::vector<TokenId> history = random.Tokens(context.shared * kKvPageTokens, spec.vocab_rows);
  SequenceRunner(*blocks).Append(history, 0, nullptr, nullptr);

  std::vector<KvPage> pages(context.position / kKvPageTokens);
  for (KvPage& page : pages) page = random.Below(context.shared);
  for (int i = 0; i < fresh; ++i) pages.push_back(context.shared + i);
  const std::vector<TokenId> tokens = random.Tokens(context.rows, spec.vocab_rows);
  std::vector<int32_t> positions(context.rows);
  std::iota(positions.begin(), positions.end(), context.position);
  const StateSlot slot = 0;
  const RowGroup group{.first_row = 0,
                       .rows = context.rows,
                       .position = context.position,
                       .pages = pages,
                       .state_in = slot,
                       .state_out = {&slot, 1}};
  RunTrunk(*blocks, {tokens, positions, {&group, 1}}, blocks->residual());
  std::vector<int> wanted(context.rows);
  std::iota(wanted.begin(), wanted.end(), 0);
  std::vector<float> hidden(static_cast<size_t>(context.rows) * spec.hidden);
  std::vector<float> logits(static_cast<size_t>(context.rows) * spec.vocab_rows);
  blocks->Head(Blocks::HeadOf::kTrunk, wanted, blocks->residual(), hidden.data(), logits.data());
  return logits;
}

}  // namespace gantry::engine
