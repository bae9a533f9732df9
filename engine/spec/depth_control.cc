#include "engine/spec/depth_control.h"

#include <algorithm>

namespace gantry::engine {
namespace {

// Before anything is measured: a row more costs this share of a row alone, and the MTP layer that of the trunk.
constexpr double kRowShare = 0.4, kMtpShare = 0.15;
// Rounds without speculation before the first with it, for every number of sequences.
constexpr int kPlainRounds = 3;

}  // namespace

void Acceptance::Observe(int drafted, int accepted, double weight) {
  for (int j = 0; j < std::min(accepted, kDraftDepthMax); ++j) given_[j] += weight * (1 - given_[j]);
  if (accepted < drafted && accepted < kDraftDepthMax) given_[accepted] -= weight * given_[accepted];
}

void Acceptance::Relax(double prior, double weight) {
  for (double& value : given_) value += weight * (prior - value);
}

double Acceptance::Expected(int depth) const {
  double all = 1, sum = 0;
  for (int j = 0; j < std::min(depth, kDraftDepthMax); ++j) sum += all *= given_[j];
  return sum;
}

void DepthControl::Mean::Add(double sample) {
  ++count;
  // What disturbs a measurement makes it longer: slow samples weigh less, and none counts more than twice the mean.
  if (count == 1) {
    ms = sample;
  } else if (sample < ms) {
    ms += 0.3 * (sample - ms);
  } else {
    ms += 0.1 * (std::min(sample, 2 * ms) - ms);
  }
}

DepthControl::DepthControl(int depth_max, int max_sequences)
    : depth_max_(depth_max),
      verify_(max_sequences * (1 + kDraftDepthMax) + 1),
      mtp_((max_sequences + 1) * (kDraftDepthMax + 1)) {}

double DepthControl::VerifyMs(int rows) const {
  int below = std::min<int>(rows, static_cast<int>(verify_.size()) - 1), above = below;
  while (below > 0 && verify_[below].count == 0) --below;
  while (above < static_cast<int>(verify_.size()) && verify_[above].count == 0) ++above;
  const bool has_below = below > 0, has_above = above < static_cast<int>(verify_.size());
  if (has_below && below == rows) return verify_[below].ms;
  if (has_below && has_above) {
    const double share = static_cast<double>(rows - below) / (above - below);
    return verify_[below].ms + share * (verify_[above].ms - verify_[below].ms);
  }
  if (has_below) return verify_[below].ms * (1 + kRowShare * (rows - below) / below);
  return has_above ? verify_[above].ms / (1 + kRowShare * (above - rows) / rows) : 1.0;
}

double DepthControl::MtpMs(int drafters, int depth) const {
  if (depth == 0) return 0;
  const int stride = kDraftDepthMax + 1;
  // The nearest measured depth.
  for (int distance = 0; distance <= kDraftDepthMax; ++distance) {
    for (const int d : {depth - distance, depth + distance}) {
      if (d < 1 || d > kDraftDepthMax || mtp_[drafters * stride + d].count == 0) continue;
      return mtp_[drafters * stride + d].ms * depth / d;
    }
  }
  return kMtpShare * VerifyMs(drafters) * depth;
}

double DepthControl::Rate(int sequences, absl::Span<const Acceptance* const> drafters, int depth) const {
  double tokens = sequences;
  for (const Acceptance* acceptance : drafters) tokens += acceptance->Expected(depth);
  const int count = static_cast<int>(drafters.size());
  return tokens / (VerifyMs(sequences + count * depth) + MtpMs(count, depth));
}

int DepthControl::Choose(int sequences, absl::Span<const Acceptance* const> drafters) {
  probe_ms_ = balance_ms_ / 4;
  if (drafters.empty() || depth_max_ == 0 || !solvent() || verify_[sequences].count < kPlainRounds) return 0;
  const double plain = Rate(sequences, drafters, 0);
  int best = 0;
  double best_rate = plain * kMargin;
  for (int depth = 1; depth <= depth_max_; ++depth) {
    const double rate = Rate(sequences, drafters, depth);
    if (rate > best_rate) {
      best = depth;
      best_rate = rate;
    }
  }
  if (best > 0) {
    probing_ = false;
    return best;
  }
  // What looks like a loss is tried again when the balance is full, until half of it is spent.
  if (balance_ms_ >= full_ms_) probing_ = true;
  if (balance_ms_ < full_ms_ / 2) probing_ = false;
  return probing_ ? 1 : 0;
}

int DepthControl::WorthVerifying(int sequences, int rows, int drafts, const Acceptance& acceptance) const {
  if (!solvent() || verify_[sequences].count < kPlainRounds) return 0;
  int best = 0;
  double most = 0;
  for (int count = 1; count <= drafts; ++count) {
    const double cost = VerifyMs(rows + count) - VerifyMs(rows);
    const double gain = acceptance.Expected(count) * PlainMsPerToken(sequences) - kMargin * cost;
    if (gain > most) {
      best = count;
      most = gain;
    }
  }
  return best;
}

bool DepthControl::WorthCatchingUp(int sequences, int mtp_rows, int tokens, const Acceptance& acceptance) {
  if (!solvent()) return false;
  const double row_ms = mtp_row_.count > 0 ? mtp_row_.ms : kMtpShare * VerifyMs(1);
  const double cost = row_ms * mtp_rows;
  const double plain = PlainMsPerToken(sequences);
  double gain = 0;
  for (int depth = 1; depth <= depth_max_; ++depth) {
    const double drafted = (VerifyMs(sequences * (1 + depth)) + MtpMs(sequences, depth)) / sequences;
    gain = std::max(gain, plain - drafted / (1 + acceptance.Expected(depth)));
  }
  if (cost < 0.5 * gain * tokens) return true;
  // A probe needs some entries too: they may cost a quarter of what there is to lose.
  if (!probing_ || cost >= probe_ms_) return false;
  probe_ms_ -= cost;
  return true;
}

void DepthControl::Observe(const Round& round) {
  const bool caught_up = round.mtp_rows > round.sequences * (1 + depth_max_);
  verify_[std::min<int>(round.rows, static_cast<int>(verify_.size()) - 1)].Add(round.verify_ms);
  if (caught_up) {
    mtp_row_.Add(round.mtp_ms / round.mtp_rows);
  } else if (round.depth > 0) {
    mtp_[round.drafters * (kDraftDepthMax + 1) + round.depth].Add(round.mtp_ms);
  }
  const double took = round.verify_ms + round.mtp_ms;
  if (verify_[round.sequences].count < kPlainRounds) return;
  const bool first = full_ms_ == 0;
  const int shares = std::min(round.sequences, kStakeShares);
  full_ms_ = kBalanceRounds / shares * VerifyMs(round.sequences);
  if (first) balance_ms_ = full_ms_;
  balance_ms_ += kStake / shares * took;
  if (round.rows > round.sequences || round.mtp_rows > 0) {
    balance_ms_ += round.tokens * PlainMsPerToken(round.sequences) - took;
  }
  balance_ms_ = std::clamp(balance_ms_, -full_ms_, full_ms_);
}

}  // namespace gantry::engine
