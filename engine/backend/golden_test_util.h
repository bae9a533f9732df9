// What every backend must pass: reference outputs made with other people's implementations (tests/data), and the
// promises of blocks.h about bits. A backend's test is a row of calls with its own factory and, for the goldens, its
// own bound.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/backend/forward.h"
#include "engine/format/safetensors.h"
#include "engine/model/model.h"

namespace gantry::engine {

using BlocksFactory =
    std::function<absl::StatusOr<std::unique_ptr<Blocks>>(std::shared_ptr<const Model>, const BlocksLimits&)>;

// Bounds of max |difference| of logits from a backend that keeps keys and values as they are.
//
// float32: what reordered sums cost. float16 rounds each number by at most 2^-11 of itself, evenly: 1.4e-4 root mean
// square of a head's deviation. int8 with one scale a head rounds by half a step of max / 127, and the largest of 64
// normal numbers is 2.5 deviations: 5.6e-3 root mean square, forty times as much. The random models amplify both from
// layer to layer: worst measured 1.7e-2 (qwen3_dense) and 0.52 (mixtral, with equal experts) over logits of a deviation
// of about 1; twice that is the bound. A trained model amplifies less, which shows in int8.
inline constexpr double KvBound(KvType type) {
  return type == KvType::kF32 ? 2e-3 : type == KvType::kF16 ? 3e-2 : 1.0;
}
inline constexpr double kTrainedInt8KvBound = 0.2;

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

// Of tests/data/goldens.
inline GoldenCase Golden(const std::string& family) {
  const std::string directory = absl::StrCat(GANTRY_SOURCE_DIR, "/tests/data/goldens/", family);
  return {family, directory, directory + "/golden.safetensors", ""};
}

// The families without an MTP layer.
inline std::vector<GoldenCase> DecoderGoldens() {
  return {Golden("llama3"), Golden("mixtral"), Golden("qwen3_dense"), Golden("qwen3_moe")};
}

inline std::vector<GoldenCase> Qwen35MoeGoldens() {
  const std::string root = GANTRY_SOURCE_DIR;
  std::vector<GoldenCase> cases = {Golden("qwen3_5_moe")};
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

  std::string mtp_text;
  if ((*model)->spec.mtp) {
    std::vector<TokenId> next(ids.begin() + 1, ids.end());
    std::vector<float> mtp_logits(next.size() * vocab);
    runner.AppendMtp(0, next, hiddens.data(), 0, nullptr, mtp_logits.data());
    const double mtp_difference = MaxDifference(mtp_logits, Floats(*file, "mtp_logits" + golden.suffix));
    EXPECT_LE(mtp_difference, bound);
    mtp_text = absl::StrFormat("MTP %.2e, ", mtp_difference);
  }

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
  std::printf("%s: logits max |difference| %.2e, %sbound %.0e, %d of %zu greedy steps compared\n", golden.name.c_str(),
              logits_difference, mtp_text.c_str(), bound, compared, greedy.size());
}

// Greedy drafting after the prompt and its first token, each MTP output fed back in place of the hidden state: the
// golden's ids, logits within `bound`. REQUIRES: the golden holds `draft` and `draft_logits`.
inline void CheckDraft(const GoldenCase& golden, const BlocksFactory& factory, double bound) {
  SCOPED_TRACE(golden.name);
  const auto model = LoadModel(golden.model).value();
  const SafetensorsFile file = SafetensorsFile::Open(golden.file).value();
  auto blocks = factory(model, TestLimits()).value();
  const int hidden_size = model->spec.hidden, vocab = model->spec.vocab_rows;
  const std::vector<TokenId> ids = Ids(file, "ids");
  SequenceRunner runner(*blocks);
  std::vector<float> hidden(ids.size() * hidden_size);
  runner.Append(ids, 0, hidden.data(), nullptr);
  EXPECT_LE(MaxDifference(hidden, Floats(file, "hidden")), bound);

  std::vector<TokenId> next(ids.begin() + 1, ids.end());
  next.push_back(Ids(file, "greedy")[0]);
  std::vector<float> mtp_hidden(next.size() * hidden_size), logits(next.size() * vocab);
  runner.AppendMtp(0, next, hidden.data(), 0, mtp_hidden.data(), logits.data());
  std::vector<float> m(mtp_hidden.end() - hidden_size, mtp_hidden.end()), row(logits.end() - vocab, logits.end());
  const std::vector<TokenId> expected = Ids(file, "draft");
  std::vector<TokenId> draft;
  std::vector<float> draft_logits;
  for (size_t i = 0; i < expected.size(); ++i) {
    draft.push_back(ArgMax(row.data(), vocab));
    draft_logits.insert(draft_logits.end(), row.begin(), row.end());
    std::vector<float> m_next(hidden_size);
    runner.AppendMtp(static_cast<int>(ids.size() + i), {&draft.back(), 1}, m.data(), 0, m_next.data(), row.data());
    m = m_next;
  }
  EXPECT_EQ(draft, expected);
  EXPECT_LE(MaxDifference(draft_logits, Floats(file, "draft_logits")), bound);
}

// Pseudo-random below `bound`, equal on every machine.
class TestRandom {
 public:
  explicit TestRandom(uint32_t seed) : state_(seed * 2654435761u + 12345u) {}
  int Below(int bound) {
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<int>((static_cast<uint64_t>(state_ >> 8) * static_cast<uint64_t>(bound)) >> 24);
  }
  std::vector<TokenId> Tokens(int count, int vocab) {
    std::vector<TokenId> ids(count);
    for (TokenId& id : ids) id = Below(vocab);
    return ids;
  }

 private:
  uint32_t state_;
};

// Trunk and MTP logits of a prompt over three pages have the same bits for every way to cut it.
inline void CheckChunksKeepBits(const std::string& model_directory, const BlocksFactory& factory) {
  const auto model = LoadModel(model_directory).value();
  const int vocab = model->spec.vocab_rows;
  const std::vector<TokenId> ids = TestRandom(1).Tokens(2 * kKvPageTokens + 2, vocab);
  const auto run = [&](int chunk_rows) {
    BlocksLimits limits = TestLimits();
    limits.max_rows = static_cast<int>(ids.size());
    auto blocks = factory(model, limits).value();
    SequenceRunner runner(*blocks);
    std::vector<float> hidden(ids.size() * model->spec.hidden), logits(2 * ids.size() * vocab);
    runner.Append(ids, chunk_rows, hidden.data(), logits.data());
    runner.AppendMtp(0, ids, hidden.data(), chunk_rows, nullptr, logits.data() + ids.size() * vocab);
    return logits;
  };
  const std::vector<float> whole = run(0);
  for (int chunk_rows : {1, 3, kKvPageTokens - 1, kKvPageTokens, kKvPageTokens + 1}) {
    EXPECT_TRUE(run(chunk_rows) == whole) << "chunks of " << chunk_rows;
  }
}

// Three sequences share batches of random make-up, on scattered pages and state slots. In each round the last rows of a
// group may be wrong guesses, which the next round rolls back by taking up an earlier row's state. Every true row has
// the bits of its sequence run alone.
inline void CheckBatchMatesAndRollbackKeepBits(const std::string& model_directory, const BlocksFactory& factory) {
  constexpr int kSequences = 3, kSlotsEach = 4, kPagesEach = 3, kRowsMax = 12;
  constexpr int kTokens = 2 * kKvPageTokens + 20;
  const auto model = LoadModel(model_directory).value();
  const int hidden = model->spec.hidden, vocab = model->spec.vocab_rows;
  struct Sequence {
    std::vector<TokenId> ids;
    std::vector<float> alone;  // [kTokens, vocab]
    std::vector<KvPage> pages;
    std::vector<StateSlot> slots;  // the current state stands in slots[0]
    int position = 0;
  };
  BlocksLimits limits = TestLimits();
  limits.max_rows = limits.max_head_rows = kSequences * kRowsMax;
  limits.kv_pages = kSequences * kPagesEach;
  limits.state_slots = kSequences * kSlotsEach;
  auto blocks = factory(model, limits).value();
  std::vector<Sequence> sequences(kSequences);
  for (int s = 0; s < kSequences; ++s) {
    Sequence& sequence = sequences[s];
    sequence.ids = TestRandom(s + 1).Tokens(kTokens, vocab);
    sequence.alone.resize(static_cast<size_t>(kTokens) * vocab);
    auto alone_blocks = factory(model, TestLimits()).value();
    SequenceRunner(*alone_blocks).Append(sequence.ids, 0, nullptr, sequence.alone.data());
    for (int i = 0; i < kPagesEach; ++i) sequence.pages.push_back(i * kSequences + (s + i) % kSequences);
    for (int i = 0; i < kSlotsEach; ++i) sequence.slots.push_back(i * kSequences + s);
    blocks->ZeroState(sequence.slots[0]);
  }

  TestRandom random(7);
  const auto done = [](const Sequence& sequence) { return sequence.position == kTokens; };
  for (int round = 0; !std::all_of(sequences.begin(), sequences.end(), done); ++round) {
    std::vector<TokenId> tokens;
    std::vector<int32_t> positions;
    std::vector<RowGroup> groups;
    std::vector<int> guesses;       // per group: wrong rows at its end
    std::vector<Sequence*> owners;  // per group
    std::vector<std::vector<StateSlot>> outs(kSequences);
    for (int i = 0; i < kSequences; ++i) {
      Sequence& sequence = sequences[(round + i) % kSequences];
      const int rows = std::min(random.Below(kRowsMax + 1), kTokens - sequence.position);
      if (rows == 0) continue;  // not in this batch
      std::vector<StateSlot>& out = outs[owners.size()];
      out = sequence.slots;
      std::rotate(out.begin(), out.begin() + random.Below(kSlotsEach), out.end());
      out.resize(std::min(rows, kSlotsEach));
      const int wrong = random.Below(static_cast<int>(out.size()));
      groups.push_back(RowGroup{.first_row = static_cast<int>(tokens.size()),
                                .rows = rows,
                                .position = sequence.position,
                                .pages = sequence.pages,
                                .state_in = sequence.slots[0],
                                .state_out = out});
      for (int t = 0; t < rows; ++t) {
        const TokenId id = sequence.ids[sequence.position + t];
        tokens.push_back(t < rows - wrong ? id : (id + 1) % vocab);
        positions.push_back(sequence.position + t);
      }
      guesses.push_back(wrong);
      owners.push_back(&sequence);
    }
    if (tokens.empty()) continue;
    RunTrunk(*blocks, {tokens, positions, groups}, blocks->residual());
    std::vector<int> rows_wanted(tokens.size());
    for (size_t row = 0; row < rows_wanted.size(); ++row) rows_wanted[row] = static_cast<int>(row);
    std::vector<float> hiddens(tokens.size() * hidden), logits(tokens.size() * vocab);
    blocks->Head(Blocks::HeadOf::kTrunk, rows_wanted, blocks->residual(), hiddens.data(), logits.data());
    for (size_t g = 0; g < groups.size(); ++g) {
      Sequence& sequence = *owners[g];
      const int kept = groups[g].rows - guesses[g];
      for (int t = 0; t < kept; ++t) {
        const float* row = &logits[static_cast<size_t>(groups[g].first_row + t) * vocab];
        ASSERT_TRUE(std::equal(row, row + vocab, &sequence.alone[static_cast<size_t>(sequence.position + t) * vocab]))
            << "round " << round << ", position " << sequence.position + t;
      }
      sequence.position += kept;
      // The state after the last kept row becomes the current one.
      const StateSlot current = outs[g][outs[g].size() - 1 - guesses[g]];
      std::iter_swap(sequence.slots.begin(), std::find(sequence.slots.begin(), sequence.slots.end(), current));
    }
  }
}

// A zeroed slot forgets its last owner; a copied state goes on like the original.
inline void CheckSlotsAreZeroedAndCopied(const std::string& model_directory, const BlocksFactory& factory) {
  const auto model = LoadModel(model_directory).value();
  const int hidden = model->spec.hidden, vocab = model->spec.vocab_rows;
  const std::vector<TokenId> ids = TestRandom(1).Tokens(11, vocab);
  auto blocks = factory(model, TestLimits()).value();
  const auto run = [&](int count) {
    std::vector<float> logits(static_cast<size_t>(count) * vocab);
    SequenceRunner(*blocks).Append(absl::MakeConstSpan(ids).subspan(0, count), 0, nullptr, logits.data());
    return logits;
  };
  const std::vector<float> first = run(11);
  EXPECT_TRUE(run(11) == first) << "the runner zeroes slot 0";

  run(10);
  const StateSlot copy = 2;
  blocks->CopyState(0, copy);
  blocks->ZeroState(0);
  const KvPage pages[] = {0};
  const int32_t position = 10;
  const RowGroup group{.rows = 1, .position = position, .pages = pages, .state_in = copy, .state_out = {&copy, 1}};
  RunTrunk(*blocks, {{&ids[10], 1}, {&position, 1}, {&group, 1}}, blocks->residual());
  std::vector<float> last_hidden(hidden), last(vocab);
  const int row = 0;
  blocks->Head(Blocks::HeadOf::kTrunk, {&row, 1}, blocks->residual(), last_hidden.data(), last.data());
  EXPECT_TRUE(std::equal(last.begin(), last.end(), first.end() - vocab)) << "the copy continues";
}

}  // namespace gantry::engine
