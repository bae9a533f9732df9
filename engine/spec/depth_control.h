// How deep to speculate: from measured acceptance and measured cost, down to not at all.
//
// A round of B sequences, m of which draft to depth d, gives B + sum of expected accepted drafts for V(B + m d) + D(m,
// d) milliseconds, V being what the trunk takes for so many rows and D what the MTP layer takes to follow and draft.
// The depth with the best rate is chosen. All is learned from the rounds themselves: V and D as running means,
// acceptance per sequence and over all.
//
// What is not known has to be tried, and a model of costs can be wrong. So a balance is kept in milliseconds: every
// round of decoding pays in kStake of its time, every round that speculates is charged what it took beyond what its
// tokens would have taken without. While the balance is spent, nothing speculates; when it is full, a depth that looks
// like a loss may be tried again. Speculation therefore costs at most kStake of the time (and kBalanceRounds rounds
// once). One round of many sequences tells as much as many rounds of one: both are divided by their number, up to
// kStakeShares, so that a large batch, which has the least to gain, pays next to nothing for knowing that.
//
// Threads: one. Nothing allocates after construction.
#pragma once

#include <array>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"

namespace gantry::engine {

// Probabilities that the draft at depth j + 1 is accepted, given that those before it were.
class Acceptance {
 public:
  explicit Acceptance(double prior = 0.6) { given_.fill(prior); }
  // Each observation weighs `weight`.
  void Observe(int drafted, int accepted, double weight);
  // Towards the prior again, for drafts that were not even tried.
  void Relax(double prior, double weight);
  // Expected number of accepted drafts of so many.
  double Expected(int depth) const;
  double given(int index) const { return given_[index]; }

 private:
  std::array<double, kDraftDepthMax> given_;
};

class DepthControl {
 public:
  static constexpr double kStake = 0.015;
  static constexpr double kBalanceRounds = 16;
  static constexpr int kStakeShares = 8;
  // A depth is worth its risk when its rate is this much better than without.
  static constexpr double kMargin = 1.02;

  DepthControl(int depth_max, int max_sequences);

  // A round without prefill.
  struct Round {
    int sequences = 0;
    int rows = 0;      // of the trunk
    int drafters = 0;  // sequences that the MTP layer drafted for
    int depth = 0;     // to this depth
    int mtp_rows = 0;  // entries of the MTP layer that were computed
    int tokens = 0;    // committed
    double verify_ms = 0;
    double mtp_ms = 0;  // following and drafting
  };
  void Observe(const Round& round);

  // The depth for the next round of so many sequences, of which those with these acceptances can draft; 0 when
  // speculation does not pay or may not be tried.
  int Choose(int sequences, absl::Span<const Acceptance* const> drafters);
  // How many of `drafts` that cost nothing to make are worth verifying beside `rows` others.
  int WorthVerifying(int sequences, int rows, int drafts, const Acceptance& acceptance) const;
  // Whether a sequence that will write `tokens` more ids should pay for `mtp_rows` entries of the MTP layer. What one
  // round pays for probes counts together.
  bool WorthCatchingUp(int sequences, int mtp_rows, int tokens, const Acceptance& acceptance);
  // Speculation of any kind is allowed.
  bool solvent() const { return balance_ms_ > 0; }

  // What all sequences have seen, for those that begin.
  Acceptance mtp, ngram;

 private:
  struct Mean {
    double ms = 0;
    int count = 0;
    void Add(double sample);
  };
  double VerifyMs(int rows) const;
  double MtpMs(int drafters, int depth) const;
  double Rate(int sequences, absl::Span<const Acceptance* const> drafters, int depth) const;
  double PlainMsPerToken(int sequences) const { return VerifyMs(sequences) / sequences; }

  int depth_max_;
  std::vector<Mean> verify_;  // by rows
  std::vector<Mean> mtp_;     // by drafters * (kDraftDepthMax + 1) + depth
  Mean mtp_row_;              // one entry of the MTP layer in a large catch-up
  double balance_ms_ = 0, full_ms_ = 0;
  bool probing_ = false;
  double probe_ms_ = 0;  // what this round may still spend on entries of the MTP layer for a probe
};

}  // namespace gantry::engine
