// Two backends side by side over a golden's prompt and continuation: each cell (instruction set, KV type, weight type)
// answers to the reference backend within its own bound, strictly where both computed the same thing.
//
// Mixtures need care: where two experts nearly tie, a difference in the last bits sends a token to another one, and
// from there on the cell computes something else, rightly. So the cell runs twice: freely, where the argmax must agree
// wherever the margin exceeds twice the bound; and, if a choice differed, with the reference's choices forced on it
// (RoutingTape), where every logit must lie within the bound.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/golden_test_util.h"
#include "engine/backend/routing_tape.h"

namespace gantry::engine {

// The instruction sets that this machine has and GANTRY_CPU_ISA can name.
inline std::vector<const char*> CpuIsas() {
  std::vector<const char*> isas = {"scalar"};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    isas.push_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      isas.push_back("avx512");
    }
  }
#endif
  return isas;
}

// Cells are many and bits do not depend on threads: one.
inline BlocksLimits CellLimits(KvType kv_type = KvType::kF32) {
  BlocksLimits limits = TestLimits();
  limits.kv_type = kv_type;
  limits.threads = 1;
  return limits;
}

// `factory` on one instruction set.
inline BlocksFactory WithIsa(const char* isa, BlocksFactory factory) {
  return [isa, factory = std::move(factory)](std::shared_ptr<const Model> model, const BlocksLimits& limits) {
    setenv("GANTRY_CPU_ISA", isa, 1);
    auto blocks = factory(std::move(model), limits);
    unsetenv("GANTRY_CPU_ISA");
    return blocks;
  };
}

// Logits of every position, then MTP logits of every position but the last if there is an MTP layer; and who computed
// them.
struct TapedRun {
  std::vector<float> logits;
  RoutingTape tape;
};

// `forced`: null to choose freely.
inline TapedRun RunTaped(Blocks& blocks, const std::vector<TokenId>& ids, const RoutingTape* forced) {
  const ModelSpec& spec = blocks.spec();
  const size_t count = ids.size();
  TapedRun run{{}, forced != nullptr ? *forced : RoutingTape(spec, static_cast<int>(count))};
  run.tape.mode = forced != nullptr ? RoutingTape::Mode::kReplay : RoutingTape::Mode::kRecord;
  blocks.SetRouting(&run.tape);
  SequenceRunner runner(blocks);
  std::vector<float> hidden(count * spec.hidden);
  run.logits.resize((spec.mtp ? 2 * count - 1 : count) * spec.vocab_rows);
  runner.Append(ids, 0, hidden.data(), run.logits.data());
  if (spec.mtp) {
    const std::vector<TokenId> next(ids.begin() + 1, ids.end());
    runner.AppendMtp(0, next, hidden.data(), 0, nullptr, run.logits.data() + count * spec.vocab_rows);
  }
  blocks.SetRouting(nullptr);
  return run;
}

// What the cells of one model are compared with.
struct CellOracle {
  std::string name;
  std::shared_ptr<const Model> model;
  std::vector<TokenId> ids;  // prompt and continuation
  int prompt = 0;
  TapedRun run;
};

inline CellOracle MakeCellOracle(const std::string& name, std::shared_ptr<const Model> model,
                                 const std::vector<TokenId>& prompt, const std::vector<TokenId>& continuation,
                                 const BlocksFactory& reference) {
  std::vector<TokenId> ids = prompt;
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  auto blocks = reference(model, CellLimits()).value();
  TapedRun run = RunTaped(*blocks, ids, nullptr);
  return CellOracle{name, std::move(model), std::move(ids), static_cast<int>(prompt.size()), std::move(run)};
}

// `model`: the golden's own or another form of it; null: load the golden's.
inline CellOracle MakeCellOracle(const GoldenCase& golden, std::shared_ptr<const Model> model,
                                 const BlocksFactory& reference) {
  const SafetensorsFile file = SafetensorsFile::Open(golden.file).value();
  if (model == nullptr) model = LoadModel(golden.model).value();
  return MakeCellOracle(golden.name, std::move(model), Ids(file, "ids" + golden.suffix),
                        Ids(file, "greedy" + golden.suffix), reference);
}

// First minus second of a row of logits.
inline double Margin(const float* row, int size) {
  const int best = ArgMax(row, size);
  float second = -INFINITY;
  for (int i = 0; i < size; ++i) {
    if (i != best) second = std::max(second, row[i]);
  }
  return static_cast<double>(row[best]) - second;
}

// Between `factory`'s logits and the oracle's, with the oracle's experts and keys and values in float32.
inline double DifferenceWithEqualExperts(const CellOracle& oracle, const BlocksFactory& factory) {
  auto blocks = factory(oracle.model, CellLimits()).value();
  return MaxDifference(RunTaped(*blocks, oracle.ids, &oracle.run.tape).logits, oracle.run.logits);
}

// Returns the free run's logits, so that cells that promise equal bits can be compared.
inline std::vector<float> CheckCell(CellOracle& oracle, const std::string& cell, const BlocksFactory& factory,
                                    KvType kv_type, double bound) {
  SCOPED_TRACE(absl::StrCat(oracle.name, " ", cell));
  const BlocksLimits limits = CellLimits(kv_type);
  auto blocks = factory(oracle.model, limits);
  EXPECT_TRUE(blocks.ok()) << blocks.status();
  if (!blocks.ok()) return {};
  TapedRun free = RunTaped(**blocks, oracle.ids, nullptr);
  const int vocab = oracle.model->spec.vocab_rows;
  int compared = 0;
  for (size_t position = oracle.prompt - 1; position < oracle.ids.size(); ++position) {
    const float* expected = &oracle.run.logits[position * vocab];
    if (Margin(expected, vocab) <= 2 * bound) continue;
    EXPECT_EQ(ArgMax(&free.logits[position * vocab], vocab), ArgMax(expected, vocab)) << "position " << position;
    ++compared;
  }
  const int differences = RoutingDifferences(oracle.run.tape, free.tape);
  const double freely = MaxDifference(free.logits, oracle.run.logits);
  double strictly = freely;
  if (differences > 0) {
    auto again = factory(oracle.model, limits).value();
    strictly = MaxDifference(RunTaped(*again, oracle.ids, &oracle.run.tape).logits, oracle.run.logits);
  }
  EXPECT_LE(strictly, bound);
  std::printf(
      "%s %s: max |difference| %.2e free, %.2e with equal experts (%d choices differed), bound %.1e; argmax of "
      "%d of %zu steps compared\n",
      oracle.name.c_str(), cell.c_str(), freely, strictly, differences, bound, compared,
      oracle.ids.size() - oracle.prompt + 1);
  return free.logits;
}

}  // namespace gantry::engine
