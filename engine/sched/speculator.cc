#include "engine/sched/speculator.h"

#include <algorithm>

#include "engine/spec/ngram.h"

namespace gantry::engine {
namespace {

// Ids that must agree before what followed them is a draft; how many are compared, and how far back.
constexpr int kMatchMin = 3, kMatchMax = 24, kMatchWindow = 16'384;
constexpr double kOwnWeight = 1.0 / 12, kAllWeight = 1.0 / 64;
constexpr double kNgramPrior = 0.5;
// A sequence's reply is expected to be no longer than this when its prompt's MTP entries have to pay.
constexpr int kReplyTokens = 512;

}  // namespace

Speculator::Speculator(const SpecMode& mode, int max_sequences, int catch_up_rows)
    : depth_(mode.depth),
      mtp_(mode.mtp),
      ngram_(mode.ngram),
      adaptive_(mode.adaptive),
      replay_(mode.replay),
      catch_up_rows_(catch_up_rows),
      control_(mode.depth, max_sequences) {
  control_.ngram = Acceptance(kNgramPrior);
  drafters_.reserve(max_sequences);
}

Speculator::Track Speculator::Start(absl::Span<const TokenId> ids) const {
  Track track;
  if (replay_) track.replay = replay_->Find(ids);
  track.mtp = control_.mtp;
  track.ngram = control_.ngram;
  track.can_draft = mtp_;
  return track;
}

void Speculator::BeginRound(absl::Span<Track* const> decoding) {
  decoding_ = static_cast<int>(decoding.size());
  rows_ = decoding_;
  catch_up_left_ = catch_up_rows_;
  drafting_ = tokens_ = 0;
  round_depth_ = depth_;
  if (!adaptive_) return;
  drafters_.clear();
  for (const Track* track : decoding) {
    if (track->can_draft) drafters_.push_back(&track->mtp);
    rows_ += track->held;
  }
  round_depth_ = control_.Choose(decoding_, drafters_);
}

void Speculator::PlanPrefill(SequencePlan* plan) const {
  if (mtp_) plan->mtp = adaptive_ ? MtpCare::kHold : MtpCare::kKeep;
}

// Recorded ids in place of the drafts that the backend holds; of its own, without an MTP layer, it holds none.
void Speculator::Replace(absl::Span<const TokenId> ids, int room, Track* track, SequencePlan* plan) const {
  const int drafts = std::min(mtp_ ? track->held : depth_, room - 1);
  int count = 0;
  while (count < drafts) {
    const TokenId id = replay_->Draft(*track->replay, static_cast<int>(ids.size()) + count, count + 1);
    if (id < 0) break;
    track->replayed[count++] = id;
  }
  plan->drafts = absl::MakeConstSpan(track->replayed).first(static_cast<size_t>(count));
  plan->drafts_max = count;
}

void Speculator::PlanDecode(absl::Span<const TokenId> ids, int room, Track* track, SequencePlan* plan) {
  track->by_ngram = false;
  plan->drafts_max = room - 1;
  PlanPrefill(plan);
  if (depth_ == 0) return;
  if (ngram_ && room > 1) {
    const NgramMatch match = FindNgram(ids, kMatchMin, kMatchMax, kMatchWindow, std::min(depth_, room - 1));
    int count = static_cast<int>(match.continuation.size());
    if (adaptive_ && count > 0) {
      const int others = rows_ - track->held;
      count = control_.WorthVerifying(decoding_, others, count, track->ngram);
      if (count == 0) track->ngram.Relax(kNgramPrior, 1.0 / 256);
      if (count > 0) rows_ = others + count;
    }
    if (count > 0) {
      plan->drafts = match.continuation.first(static_cast<size_t>(count));
      track->by_ngram = true;
    }
  }
  if (track->replay != nullptr) Replace(ids, room, track, plan);
  if (!mtp_ || !track->can_draft) return;
  // Where the past repeats itself the next match is likely: an MTP draft would not be looked at.
  const int depth = track->by_ngram ? 0 : std::min(round_depth_, room - 1);
  const int fresh = 1 + depth_;
  if (adaptive_) {
    const bool wanted = depth > 0 && room > 2;
    const bool behind = track->waiting > fresh;
    if (!wanted) return;
    if (behind && !control_.WorthCatchingUp(decoding_, track->waiting, std::min(room, kReplyTokens), track->mtp))
      return;
  }
  plan->draft_depth = depth;
  plan->mtp_rows = std::min(track->waiting, catch_up_left_);
  catch_up_left_ -= plan->mtp_rows;
  plan->mtp_rows += fresh;
  ++drafting_;
}

void Speculator::Take(const SequencePlan& plan, const SequenceResult& result, int processed, Track* track) {
  if (result.drafted > 0) {
    Acceptance& own = track->by_ngram ? track->ngram : track->mtp;
    Acceptance& all = track->by_ngram ? control_.ngram : control_.mtp;
    own.Observe(result.drafted, result.accepted, kOwnWeight);
    all.Observe(result.drafted, result.accepted, kAllWeight);
  }
  track->can_draft = result.can_draft;
  track->held = static_cast<int>(result.drafts.size());
  track->waiting = result.can_draft && mtp_ ? processed - (result.mtp_position - 1) : 0;
  if (plan.prefill_rows == 0) tokens_ += static_cast<int>(result.ids.size());
}

void Speculator::EndRound(const RoundResult& result, bool prefilled) {
  if (!adaptive_ || prefilled) return;
  control_.Observe({.sequences = decoding_,
                    .rows = result.rows,
                    .drafters = drafting_,
                    .depth = round_depth_,
                    .mtp_rows = result.mtp_rows,
                    .tokens = tokens_,
                    .verify_ms = result.verify_ms,
                    .mtp_ms = result.device_ms - result.verify_ms});
}

}  // namespace gantry::engine
