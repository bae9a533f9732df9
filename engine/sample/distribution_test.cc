// What sampling draws, over 1e5 seeds and more, against exact probabilities: with every processor on, and through a
// draft that shares the target's noise.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "engine/sample/sampler.h"

namespace gantry::engine {
namespace {

constexpr int kSeeds = 200'000;

// Exceeded by chance once in a thousand tests; the seeds are fixed, so a pass stays a pass. Wilson and Hilferty's
// approximation, good to a percent from one degree of freedom on.
double ChiSquareLimit(int degrees) {
  const double z = 3.090, v = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1 - v + z * std::sqrt(v), 3);
}

// Tokens of probability zero must not be drawn at all; they are no degree of freedom.
void ExpectDrawnFrom(const std::vector<double>& p, const std::vector<int>& seen, const std::string& what) {
  const double draws = std::accumulate(seen.begin(), seen.end(), 0.0);
  double chi_square = 0;
  int degrees = -1;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(seen[i], 0) << what << ": token " << i;
      continue;
    }
    const double mean = draws * p[i];
    ASSERT_GT(mean, 5) << "too rare for the test";
    chi_square += (seen[i] - mean) * (seen[i] - mean) / mean;
    ++degrees;
  }
  EXPECT_LT(chi_square, ChiSquareLimit(degrees)) << what;
  std::printf("%s: chi-square %.1f over %.0f draws, %d degrees of freedom, limit %.1f\n", what.c_str(), chi_square,
              draws, degrees, ChiSquareLimit(degrees));
}

std::vector<double> Softmax(std::vector<double> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double& x : logits) sum += x = std::exp(x - max);
  for (double& x : logits) x /= sum;
  return logits;
}

// The definition in sampler.h once more, in double and without haste: what is left has its share of the rest, what is
// not has none.
std::vector<double> ExactProbabilities(const std::vector<float>& logits, const SamplingParams& params,
                                       const std::vector<TokenId>& ids, int generated_from) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const auto& [id, bias] : params.logit_bias) x[id] += bias;
  for (TokenId id = 0; id < static_cast<TokenId>(x.size()); ++id) {
    const auto count = std::count(ids.begin() + generated_from, ids.end(), id);
    if (std::count(ids.begin(), ids.end(), id) == 0) continue;
    x[id] = x[id] > 0 ? x[id] / params.repetition_penalty : x[id] * params.repetition_penalty;
    if (count > 0) x[id] -= params.presence_penalty + params.frequency_penalty * static_cast<double>(count);
  }
  if (static_cast<int>(ids.size()) - generated_from < params.min_tokens) {
    for (const TokenId id : params.stop_ids) x[id] = -INFINITY;
  }
  for (double& value : x) value /= params.temperature;

  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  size_t kept = params.top_k > 0 ? std::min<size_t>(params.top_k, order.size()) : order.size();
  const auto mass_of = [&](size_t count) {
    double mass = 0;
    for (size_t i = 0; i < count; ++i) mass += std::exp(x[order[i]]);
    return mass;
  };
  if (params.top_p < 1) {
    const double wanted = params.top_p * mass_of(kept);
    size_t shortest = 1;
    while (shortest < kept && mass_of(shortest) < wanted) ++shortest;
    kept = shortest;
  }
  while (kept > 1 && params.min_p > 0 && std::exp(x[order[kept - 1]] - x[order[0]]) < params.min_p) --kept;
  std::vector<double> left(x.size(), -INFINITY);
  for (size_t i = 0; i < kept; ++i) left[order[i]] = x[order[i]];
  return Softmax(left);
}

TEST(SamplingDistributionTest, EveryProcessorDrawsFromItsExactProbabilities) {
  const std::vector<float> logits = {0.3f, -1.0f, 1.2f, 0.0f, 2.0f, -0.5f, 1.1f, 0.7f, -2.0f, 1.9f};
  const std::vector<TokenId> ids = {4, 2, 2, 9, 9, 9, 1};  // the first two are the prompt
  constexpr int kGeneratedFrom = 2;
  const struct {
    const char* what;
    SamplingParams params;
  } rows[] = {
      {"plain", {}},
      {"temperature", {.temperature = 0.6f}},
      {"top_k", {.top_k = 4}},
      {"top_p", {.top_p = 0.8f}},
      {"min_p", {.min_p = 0.2f}},
      {"presence", {.presence_penalty = 0.9f}},
      {"frequency", {.frequency_penalty = 0.4f}},
      {"repetition", {.repetition_penalty = 1.7f}},
      {"logit_bias", {.logit_bias = {{8, 3.0f}, {4, -1.5f}}}},
      {"min_tokens", {.min_tokens = 10, .stop_ids = {4, 6}}},
      {"all together",
       {.temperature = 1.3f,
        .top_p = 0.95f,
        .top_k = 8,
        .min_p = 0.05f,
        .presence_penalty = 0.3f,
        .frequency_penalty = 0.2f,
        .repetition_penalty = 1.2f,
        .min_tokens = 6,
        .stop_ids = {6},
        .logit_bias = {{8, 2.5f}, {4, -0.5f}}}},
  };
  Sampler sampler(static_cast<int>(logits.size()), static_cast<int>(logits.size()));
  for (const auto& row : rows) {
    SamplingParams params = row.params;
    std::vector<int> seen(logits.size());
    SequenceSampler sequence;
    for (int seed = 0; seed < kSeeds; ++seed) {
      params.seed = static_cast<uint64_t>(seed) << 20;  // both halves of the key
      sequence.Open(params, static_cast<int>(logits.size()), ids, kGeneratedFrom);
      std::vector<float> changed = logits;
      TokenId id = -1;
      ASSERT_TRUE(sampler.Choose(sequence, static_cast<int>(ids.size()), changed.data(), &id).ok());
      ++seen[id];
    }
    ExpectDrawnFrom(ExactProbabilities(logits, row.params, ids, kGeneratedFrom), seen, row.what);
  }
}

// A drafter proposes argmax(log q + noise), the target keeps it iff it is its own argmax(log p + the same noise). What
// comes out is the target's choice, accepted or not, so its distribution is p; and the two agree at least as often as
// (1 - TV) / (1 + TV), TV being half the summed |p - q|.
TEST(SamplingDistributionTest, DraftsWithTheSameNoiseAreAcceptedOftenAndChangeNothing) {
  const struct {
    const char* what;
    std::vector<float> target, draft;
    SamplingParams params;
  } rows[] = {
      {"equal", {1, 0.5f, 0, -1}, {1, 0.5f, 0, -1}, {}},
      {"close", {1, 0.5f, 0, -1, 0.2f}, {0.8f, 0.7f, 0, -0.6f, 0}, {}},
      {"sharper target", {3, 1.5f, 0, -1.5f, 0.6f}, {1, 0.5f, 0, -0.5f, 0.2f}, {}},
      {"far", {2, 0, 0, 0, -1, 1}, {-1, 1, 0, 2, 0, 0}, {}},
      {"nearly disjoint", {4, 4, 0, 0}, {0, 0, 4, 4}, {}},
      {"cold and truncated", {1, 0.5f, 0, -1, 0.2f}, {0.8f, 0.7f, 0.1f, -0.6f, 0}, {.temperature = 0.7f, .top_k = 3}},
  };
  for (const auto& row : rows) {
    const int vocab = static_cast<int>(row.target.size());
    const std::vector<double> p = ExactProbabilities(row.target, row.params, {}, 0);
    const std::vector<double> q = ExactProbabilities(row.draft, row.params, {}, 0);
    double distance = 0;
    for (int i = 0; i < vocab; ++i) distance += std::abs(p[i] - q[i]) / 2;
    Sampler sampler(vocab, vocab);
    SequenceSampler sequence;
    SamplingParams params = row.params;
    std::vector<int> seen(vocab), drafted(vocab), seen_accepted(vocab);
    int accepted = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      params.seed = static_cast<uint64_t>(seed);
      sequence.Open(params, vocab, {}, 0);
      std::vector<float> target = row.target, draft = row.draft;
      TokenId own = -1, proposed = -1;
      ASSERT_TRUE(sampler.Choose(sequence, 17, target.data(), &own).ok());
      ASSERT_TRUE(sampler.Choose(sequence, 17, draft.data(), &proposed).ok());
      const bool accept = proposed == own;
      ++seen[accept ? proposed : own];
      ++drafted[proposed];
      accepted += accept ? 1 : 0;
    }
    ExpectDrawnFrom(p, seen, std::string(row.what) + ", output");
    ExpectDrawnFrom(q, drafted, std::string(row.what) + ", drafts");
    const double rate = static_cast<double>(accepted) / kSeeds, floor = (1 - distance) / (1 + distance);
    // The bound is of the true rate; three deviations for having measured it.
    EXPECT_GE(rate, floor - 3 * std::sqrt(floor * (1 - floor) / kSeeds)) << row.what;
    EXPECT_LE(rate, 1 - distance + 3 * std::sqrt(0.25 / kSeeds)) << row.what << ": no coupling does better";
    std::printf("%s: TV %.3f, accepted %.4f, at least %.4f, at most %.4f\n", row.what, distance, rate, floor,
                1 - distance);
  }
}

// Neighbouring positions and the choices of one request are independent draws.
TEST(SamplingDistributionTest, PositionsAndChoicesAreIndependent) {
  const std::vector<float> logits = {0.5f, 0, 1, -0.5f};
  const std::vector<double> p = ExactProbabilities(logits, {}, {}, 0);
  const struct {
    const char* what;
    int position;
    uint32_t choice;
  } rows[] = {{"next position", 8, 0}, {"64 positions on", 71, 0}, {"next choice", 7, 1}};
  Sampler sampler(4, 4);
  const auto draw = [&](int seed, int position, uint32_t choice) {
    SequenceSampler sequence;
    sequence.Open({.seed = static_cast<uint64_t>(seed), .choice = choice}, 4, {}, 0);
    std::vector<float> changed = logits;
    TokenId id = -1;
    EXPECT_TRUE(sampler.Choose(sequence, position, changed.data(), &id).ok());
    return id;
  };
  for (const auto& row : rows) {
    std::vector<int> seen(16);
    std::vector<double> joint(16);
    for (int i = 0; i < 16; ++i) joint[i] = p[i / 4] * p[i % 4];
    for (int seed = 0; seed < kSeeds; ++seed) ++seen[4 * draw(seed, 7, 0) + draw(seed, row.position, row.choice)];
    ExpectDrawnFrom(joint, seen, row.what);
  }
}

}  // namespace
}  // namespace gantry::engine
