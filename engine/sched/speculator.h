// Which drafts each sequence verifies in the next round, and which it has made for the one after.
//
// N-gram drafts go first where the end of a sequence occurred before; else what the MTP layer drafted at the end of the
// round before. In adaptive mode both are used as far as spec/depth_control.h finds that they pay.
//
// Threads: one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/spec/depth_control.h"
#include "engine/spec/spec_mode.h"

namespace gantry::engine {

class Speculator {
 public:
  // `catch_up_rows`: entries of the MTP layer that one round may compute beside those of fresh tokens.
  Speculator(const SpecMode& mode, int max_sequences, int catch_up_rows);

  // What one sequence's drafts have been worth, and where its MTP layer stands.
  struct Track {
    Acceptance mtp, ngram;
    bool can_draft = false;
    int waiting = 0;  // entries that the MTP layer has not computed yet
    int held = 0;     // drafts that the backend holds
    bool by_ngram = false;
    const ReplayRun* replay = nullptr;                  // what this sequence's drafts come from, if there is one
    std::array<TokenId, kDraftDepthMax> replayed = {};  // of this round
  };
  // For a sequence of these ids; the track is used with this speculator alone.
  Track Start(absl::Span<const TokenId> ids) const;

  int depth_max() const { return depth_; }

  // Once a round, before its sequences: those that decode.
  void BeginRound(absl::Span<Track* const> decoding);
  // Fills in drafts, depth and the care for the MTP layer. `room`: ids that the sequence may still generate, those of
  // this round included.
  void PlanDecode(absl::Span<const TokenId> ids, int room, Track* track, SequencePlan* plan);
  void PlanPrefill(SequencePlan* plan) const;

  void Take(const SequencePlan& plan, const SequenceResult& result, int processed, Track* track);
  // Once a round, after its sequences.
  void EndRound(const RoundResult& result, bool prefilled);

 private:
  void Replace(absl::Span<const TokenId> ids, int room, Track* track, SequencePlan* plan) const;

  const int depth_;
  const bool mtp_, ngram_, adaptive_;
  const std::optional<Replay> replay_;
  const int catch_up_rows_;
  DepthControl control_;
  std::vector<const Acceptance*> drafters_;
  // Of the round being planned.
  int decoding_ = 0;
  int round_depth_ = 0;
  int rows_ = 0;
  int catch_up_left_ = 0;
  int drafting_ = 0;
  int tokens_ = 0;
};

}  // namespace gantry::engine
