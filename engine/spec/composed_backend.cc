#include "engine/spec/composed_backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/forward.h"
#include "engine/base/check.h"
#include "engine/sample/sampler.h"
#include "engine/spec/hidden_pool.h"

namespace gantry::engine {
namespace {

// Logits are computed this many rows at a time: beyond it the head's weights are read often enough.
constexpr int kHeadRows = 32;
// Room for hidden states that wait for the MTP layer, beside a block for each sequence.
constexpr int64_t kHiddenPoolBytes = int64_t{8} << 20;

struct Sequence {
  bool open = false;
  SequenceSampler sampler;
  StateSlot state = kNoStateSlot;
  std::vector<TokenId> drafts;  // for the positions after the last id
  // The MTP layer holds positions [1, mtp_position); what it needs for those after waits, one hidden state each.
  bool can_draft = false;
  int mtp_position = kMtpFirstKey;
  HiddenPool::Queue waiting;
};

class Stopwatch {
 public:
  double ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// A sequence's place in this round.
struct Part {
  const SequencePlan* plan = nullptr;
  Sequence* sequence = nullptr;
  SequenceResult* result = nullptr;
  int first_row = 0, rows = 0;
  int first_hidden = -1;            // of its rows in hidden_, when they are wanted
  int first_state = 0, states = 0;  // in states_: where the states after its last `states` rows go
  int drafted = 0;                  // rows after the first that are drafts
  int kept_rows = 0;                // rows whose input is part of the accepted prefix
  bool stopped = false;             // a stop id was committed: nothing follows
  int mtp_row = -1;                 // its last row in the pass of the MTP layer

  bool decodes() const { return plan->prefill_rows == 0; }
  bool ends_prompt() const {
    return !decodes() && plan->position + plan->prefill_rows == static_cast<int>(plan->ids.size());
  }
  // The id at an absolute position: known before, or committed in this round.
  TokenId IdAt(int position) const {
    const int known = static_cast<int>(plan->ids.size());
    return position < known ? plan->ids[position] : result->ids[position - known];
  }
};

class ComposedBackend final : public Backend {
 public:
  ComposedBackend(std::unique_ptr<Blocks> blocks, ComposedOptions options, int vocab_used)
      : blocks_(std::move(blocks)),
        options_(std::move(options)),
        recurrent_(blocks_->costs().state_slot_bytes > 0),
        sequences_(options_.max_sequences),
        results_(options_.max_sequences),
        hidden_pool_(options_.max_sequences, HiddenBlocks(), options_.mtp ? blocks_->spec().hidden : 0) {
    const int64_t hidden = blocks_->spec().hidden;
    for (int i = 0; i < options_.max_sequences; ++i) {
      sequences_[i].drafts.reserve(kDraftDepthMax);
      hidden_pool_.Prepare(&sequences_[i].waiting);
      results_[i].ids.reserve(1 + kDraftDepthMax);
      results_[i].logprobs.reserve(1 + kDraftDepthMax);
    }
    const int slots = options_.max_sequences + options_.draft_slots;
    free_slots_.resize(slots);
    std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
    const size_t rows_max = static_cast<size_t>(blocks_->limits().max_rows);
    for (auto* ids : {&tokens_, &mtp_tokens_}) ids->reserve(rows_max);
    for (auto* positions : {&positions_, &mtp_positions_}) positions->reserve(rows_max);
    for (auto* groups : {&groups_, &mtp_groups_}) groups->reserve(options_.max_sequences);
    states_.reserve(rows_max);
    parts_.reserve(options_.max_sequences);
    drafting_.reserve(options_.max_sequences);
    wanted_.reserve(rows_max);
    experts_read_.resize(spec().trunk_layers());
    if (options_.mtp) {
      hidden_.resize(rows_max * hidden);
      mtp_hidden_.resize(rows_max * hidden);
      snapshot_hidden_.resize(static_cast<size_t>(options_.snapshots) * hidden);
    }
    draft_hidden_.resize(static_cast<size_t>(options_.max_sequences) * hidden);
    logits_.resize(static_cast<size_t>(blocks_->limits().max_head_rows) * spec().vocab_rows);
    head_hidden_.resize(static_cast<size_t>(blocks_->limits().max_head_rows) * hidden);
    samplers_.reserve(blocks_->threads());
    for (int i = 0; i < blocks_->threads(); ++i) samplers_.emplace_back(spec().vocab_rows, vocab_used);
    raw_logits_.resize(samplers_.size() * spec().vocab_rows);
    turns_.reserve(blocks_->limits().max_head_rows);
    choices_.resize(blocks_->limits().max_head_rows);
  }

  const ModelSpec& spec() const override { return blocks_->spec(); }
  const std::string& numerics_id() const override { return blocks_->numerics_id(); }
  int max_sequences() const override { return options_.max_sequences; }
  int max_rows() const override { return options_.max_rows; }
  int max_draft_depth() const override { return options_.draft_depth_max; }
  CacheCosts costs() const override { return blocks_->costs(); }

  absl::Status Open(SequenceSlot slot, const SequenceStart& start) override {
    Sequence& sequence = sequences_[slot];
    GANTRY_CHECK(!sequence.open, "a slot is opened once");
    if (absl::Status status = start.sampling.Validate(spec().vocab_rows); !status.ok()) return status;
    sequence.open = true;
    sequence.sampler.Open(start.sampling, spec().vocab_rows, start.ids, start.generated_from);
    sequence.drafts.clear();
    sequence.state = free_slots_.back();
    free_slots_.pop_back();
    sequence.can_draft = options_.mtp;
    sequence.mtp_position = kMtpFirstKey;
    if (start.cached == 0) {
      blocks_->ZeroState(sequence.state);
      return absl::OkStatus();
    }
    if (recurrent_) blocks_->CopyState(SnapshotState(start.snapshot), sequence.state);
    sequence.can_draft = options_.mtp && start.cached_mtp;
    if (sequence.can_draft) {
      // The entry of the first position after the cached ones needs the hidden state before it.
      sequence.mtp_position = start.cached;
      GANTRY_CHECK(hidden_pool_.Push(&sequence.waiting, SnapshotHidden(start.snapshot)), "an empty queue has room");
    }
    return absl::OkStatus();
  }

  void Close(SequenceSlot slot) override {
    Sequence& sequence = sequences_[slot];
    GANTRY_CHECK(sequence.open, "a slot is closed once");
    sequence.open = false;
    free_slots_.push_back(sequence.state);
    hidden_pool_.Clear(&sequence.waiting);
  }

  void ZeroPage(KvPage page) override { blocks_->ZeroPage(page); }

  absl::StatusOr<Ticket> Enqueue(const RoundPlan& plan) override {
    const Stopwatch round;
    Arrange(plan);
    RunTrunk(*blocks_, {tokens_, positions_, groups_}, blocks_->residual());
    for (int layer = 0; layer < spec().trunk_layers(); ++layer) experts_read_[layer] = blocks_->ExpertsRead(layer);
    result_.experts_read = experts_read_;
    CheckPrefills();
    KeepHidden();
    for (Part& part : parts_) {
      if (part.plan->want_prompt_logprobs && !part.decodes() && part.result->status.ok()) PromptLogprobs(part);
    }
    SampleAndAccept();
    SelectStates();
    result_.verify_ms = round.ms();
    result_.mtp_rows = result_.draft_steps = 0;
    result_.steps_ms = 0;
    if (options_.mtp) FollowWithMtp();
    for (Part& part : parts_) Report(part);
    result_.device_ms = round.ms();
    return ++ticket_;
  }

  absl::StatusOr<const RoundResult*> Wait(Ticket ticket) override {
    GANTRY_CHECK(ticket == ticket_, "a ticket is waited for before the next round");
    return &result_;
  }

 private:
  int HiddenBlocks() const {
    if (!options_.mtp) return options_.max_sequences;
    const int64_t block = int64_t{HiddenPool::kBlockRows} * spec().hidden * static_cast<int64_t>(sizeof(float));
    return options_.max_sequences + static_cast<int>(kHiddenPoolBytes / block);
  }
  StateSlot SnapshotState(SnapshotSlot snapshot) const {
    return options_.max_sequences + options_.draft_slots + snapshot;
  }
  float* SnapshotHidden(SnapshotSlot snapshot) {
    return snapshot_hidden_.data() + static_cast<size_t>(snapshot) * spec().hidden;
  }
  float* LogitsRow(size_t index) { return logits_.data() + index * spec().vocab_rows; }

  // ---- trunk ----

  // Lays the plan out as rows and groups.
  void Arrange(const RoundPlan& plan) {
    tokens_.clear();
    positions_.clear();
    groups_.clear();
    parts_.clear();
    states_.clear();
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const SequencePlan& wish = plan.sequences[i];
      Sequence& sequence = sequences_[wish.slot];
      GANTRY_CHECK(sequence.open, "a planned sequence is open");
      SequenceResult& result = results_[i];
      result.slot = wish.slot;
      result.status = absl::OkStatus();
      result.ids.clear();
      result.logprobs.clear();
      result.prompt_logprobs.clear();
      result.drafted = result.accepted = 0;
      result.snapshot_taken = false;
      Part part{.plan = &wish, .sequence = &sequence, .result = &result, .first_row = static_cast<int>(tokens_.size())};
      if (wish.prefill_rows == 0) {
        GANTRY_CHECK(wish.position + 1 == static_cast<int>(wish.ids.size()) && wish.max_new_ids >= 1,
                     "a decoding sequence has one id to process and may grow");
        tokens_.push_back(wish.ids.back());
        if (!wish.drafts.empty()) sequence.drafts.assign(wish.drafts.begin(), wish.drafts.end());
        // Drafts beyond what may be committed would be verified for nothing; without state slots they cannot be.
        part.drafted = std::min({static_cast<int>(sequence.drafts.size()), wish.max_new_ids - 1, wish.drafts_max,
                                 options_.draft_depth_max});
        if (recurrent_) part.drafted = std::min(part.drafted, static_cast<int>(free_slots_.size()));
        sequence.drafts.resize(part.drafted);
        tokens_.insert(tokens_.end(), sequence.drafts.begin(), sequence.drafts.end());
      } else {
        const auto ids = wish.ids.subspan(wish.position, wish.prefill_rows);
        tokens_.insert(tokens_.end(), ids.begin(), ids.end());
        sequence.drafts.clear();
      }
      part.rows = static_cast<int>(tokens_.size()) - part.first_row;
      part.kept_rows = part.rows;
      for (int row = 0; row < part.rows; ++row) positions_.push_back(wish.position + row);
      // A verification may be rolled back to any of its rows; a chunk of the prompt never is. The last state goes where
      // the first came from.
      part.first_state = static_cast<int>(states_.size());
      for (int k = 0; recurrent_ && k < part.drafted; ++k) {
        states_.push_back(free_slots_.back());
        free_slots_.pop_back();
      }
      states_.push_back(sequence.state);
      part.states = static_cast<int>(states_.size()) - part.first_state;
      parts_.push_back(part);
    }
    // states_ has its final place only now.
    for (const Part& part : parts_) {
      groups_.push_back(
          RowGroup{.first_row = part.first_row,
                   .rows = part.rows,
                   .position = part.plan->position,
                   .pages = part.plan->pages,
                   .state_in = part.sequence->state,
                   .state_out = absl::MakeConstSpan(states_).subspan(part.first_state, recurrent_ ? part.states : 0)});
    }
    result_.sequences = absl::MakeConstSpan(results_).first(plan.sequences.size());
    result_.rows = static_cast<int>(tokens_.size());
    GANTRY_CHECK(result_.rows <= options_.max_rows, "the scheduler keeps to the rows of a round");
  }

  // A chunk's rows are not sampled, so nobody would notice what is wrong with them before they were in the cache.
  void CheckPrefills() {
    for (Part& part : parts_) {
      if (!part.decodes() && !blocks_->RowsAreFinite(blocks_->residual(), part.first_row, part.rows)) {
        part.result->status = absl::InternalError("activations are not finite");
      }
    }
  }

  // Post-norm hidden states of the rows that the MTP layer or a snapshot will need.
  void KeepHidden() {
    if (!options_.mtp) return;
    wanted_.clear();
    for (Part& part : parts_) {
      const bool follows = part.plan->mtp != MtpCare::kDrop && part.sequence->can_draft;
      if (!follows && part.plan->snapshot == kNoSnapshot) continue;
      part.first_hidden = static_cast<int>(wanted_.size());
      for (int row = 0; row < part.rows; ++row) wanted_.push_back(part.first_row + row);
    }
    if (!wanted_.empty()) {
      blocks_->Head(Blocks::HeadOf::kTrunk, wanted_, blocks_->residual(), hidden_.data(), nullptr);
    }
  }
  const float* HiddenOf(const Part& part, int row) const {
    return hidden_.data() + static_cast<size_t>(part.first_hidden + row) * spec().hidden;
  }

  void PromptLogprobs(Part& part) {
    const int last = static_cast<int>(part.plan->ids.size()) - 1 - part.plan->position;
    const int count = std::min(part.rows, last), portion = blocks_->limits().max_head_rows;
    for (int begin = 0; begin < count; begin += portion) {
      const int end = std::min(count, begin + portion);
      wanted_.resize(end - begin);
      std::iota(wanted_.begin(), wanted_.end(), part.first_row + begin);
      blocks_->Head(Blocks::HeadOf::kTrunk, wanted_, blocks_->residual(), head_hidden_.data(), logits_.data());
      for (int row = begin; row < end; ++row) {
        samplers_[0].Logprobs(LogitsRow(row - begin), part.plan->ids[part.plan->position + row + 1],
                              part.sequence->sampler.params().top_logprobs,
                              &part.result->prompt_logprobs.emplace_back());
      }
    }
  }

  // ---- sampling and acceptance ----

  // Logits of all rows that are sampled, in as few passes over the head's weights as its buffer allows.
  void SampleAndAccept() {
    wanted_.clear();
    for (Part& part : parts_) {
      if (part.decodes()) {
        part.kept_rows = 0;
        for (int row = 0; row < part.rows; ++row) wanted_.push_back(part.first_row + row);
      } else if (part.ends_prompt() && part.result->status.ok()) {
        wanted_.push_back(part.first_row + part.rows - 1);
      }
    }
    const absl::Span<const int> wanted(wanted_);
    const size_t portion = static_cast<size_t>(blocks_->limits().max_head_rows);
    auto part = parts_.begin();
    for (size_t begin = 0; begin < wanted.size(); begin += portion) {
      const auto rows = wanted.subspan(begin, portion);
      blocks_->Head(Blocks::HeadOf::kTrunk, rows, blocks_->residual(), head_hidden_.data(), logits_.data());
      turns_.clear();
      for (size_t i = 0; i < rows.size(); ++i) {
        while (rows[i] >= part->first_row + part->rows) ++part;
        if (turns_.empty() || turns_.back().part != &*part) turns_.push_back({&*part, i, 0});
        ++turns_.back().count;
      }
      // One sequence's rows are taken one after the other, those of different ones at once.
      blocks_->ParallelFor(static_cast<int>(turns_.size()), [&](int index, int thread) {
        const Turn& turn = turns_[index];
        for (size_t i = turn.first; i < turn.first + turn.count; ++i) {
          TakeRow(*turn.part, rows[i] - turn.part->first_row, LogitsRow(i), thread);
        }
      });
    }
    for (Part& ended : parts_) {
      if (ended.decodes()) ended.result->drafted = ended.drafted;
    }
  }

  // Row by row: the choice after it, as long as the row's own input was chosen.
  void TakeRow(Part& part, int row, float* logits, int thread) {
    SequenceResult& result = *part.result;
    if (!part.decodes()) {
      Commit(part, row, logits, thread);
      return;
    }
    if (part.kept_rows != row || part.stopped || !result.status.ok()) return;
    if (row > 0) {
      if (result.ids.back() != part.sequence->drafts[row - 1]) return;
      if (static_cast<int>(result.ids.size()) >= part.plan->max_new_ids) return;
      ++result.accepted;
    }
    if (Commit(part, row, logits, thread)) part.kept_rows = row + 1;
  }

  // Chooses the id after `row` and commits it; false when the sequence failed.
  bool Commit(Part& part, int row, float* logits, int thread) {
    float* raw_logits = raw_logits_.data() + static_cast<size_t>(thread) * spec().vocab_rows;
    SequenceSampler& sampler = part.sequence->sampler;
    const SamplingParams& params = sampler.params();
    if (params.logprobs) std::copy_n(logits, spec().vocab_rows, raw_logits);
    TokenId id = -1;
    part.result->status = samplers_[thread].Choose(sampler, part.plan->position + row + 1, logits, &id);
    if (!part.result->status.ok()) return false;
    if (const TokenId forced = sampler.Forced(); forced >= 0) id = forced;
    if (params.logprobs) {
      samplers_[thread].Logprobs(raw_logits, id, params.top_logprobs, &part.result->logprobs.emplace_back());
    }
    sampler.Commit(id);
    part.result->ids.push_back(id);
    part.stopped = sampler.IsStop(id);
    return true;
  }

  // The state after the last kept row becomes the sequence's, snapshots are copied, the other slots go back.
  void SelectStates() {
    for (Part& part : parts_) {
      Sequence& sequence = *part.sequence;
      const SequencePlan& plan = *part.plan;
      const auto state_after = [&](int row) { return states_[part.first_state + row - (part.rows - part.states)]; };
      if (plan.snapshot != kNoSnapshot && part.result->status.ok()) {
        const int row = plan.snapshot_at - 1 - plan.position;
        const bool has_state = !recurrent_ || (row >= part.rows - part.states && row < part.rows);
        if (row >= 0 && row < part.kept_rows && has_state) {
          if (recurrent_) blocks_->CopyState(state_after(row), SnapshotState(plan.snapshot));
          if (options_.mtp) std::copy_n(HiddenOf(part, row), spec().hidden, SnapshotHidden(plan.snapshot));
          part.result->snapshot_taken = true;
        }
      }
      const StateSlot kept = !recurrent_ || part.kept_rows == 0 ? sequence.state : state_after(part.kept_rows - 1);
      for (int i = 0; i < part.states; ++i) {
        const StateSlot slot = states_[part.first_state + i];
        if (slot != kept) free_slots_.push_back(slot);
      }
      sequence.state = kept;
    }
  }

  // ---- the MTP layer ----

  // Queues what the round made known, runs the layer over what may run now, and drafts where it has caught up.
  void FollowWithMtp() {
    for (Part& part : parts_) {
      part.sequence->drafts.clear();
      if (part.sequence->can_draft && part.result->status.ok() && !part.stopped) Queue(part);
    }
    MtpPass();
    drafting_.clear();
    wanted_.clear();
    for (Part& part : parts_) {
      const bool caught_up = part.mtp_row >= 0 && part.sequence->waiting.size() == 0;
      if (!caught_up || part.plan->draft_depth == 0 || part.result->ids.empty()) continue;
      drafting_.push_back(&part);
      wanted_.push_back(part.mtp_row);
    }
    Draft();
  }

  void Queue(Part& part) {
    Sequence& sequence = *part.sequence;
    const auto drop = [&] {
      sequence.can_draft = false;
      hidden_pool_.Clear(&sequence.waiting);
    };
    if (part.plan->mtp == MtpCare::kDrop) return drop();
    for (int row = 0; row < part.kept_rows; ++row) {
      if (hidden_pool_.Push(&sequence.waiting, HiddenOf(part, row))) continue;
      if (part.plan->mtp == MtpCare::kHold) return drop();
      while (sequence.waiting.size() > 0) CatchUp(part);
      GANTRY_CHECK(hidden_pool_.Push(&sequence.waiting, HiddenOf(part, row)), "an empty queue has room");
    }
  }

  // One sequence alone, as much as fits.
  void CatchUp(Part& part) {
    BeginMtp();
    AddMtp(part, std::min(part.sequence->waiting.size(), blocks_->limits().max_rows));
    RunMtpRows();
  }

  // All sequences together, each as much as its plan allows.
  void MtpPass() {
    BeginMtp();
    for (Part& part : parts_) {
      part.mtp_row = -1;
      const int room = blocks_->limits().max_rows - static_cast<int>(mtp_tokens_.size());
      const int rows = std::min({part.sequence->waiting.size(), part.plan->mtp_rows, room});
      if (rows <= 0 || !part.sequence->can_draft || !part.result->status.ok() || part.stopped) continue;
      AddMtp(part, rows);
      part.mtp_row = static_cast<int>(mtp_tokens_.size()) - 1;
    }
    RunMtpRows();
  }

  void BeginMtp() {
    mtp_tokens_.clear();
    mtp_positions_.clear();
    mtp_groups_.clear();
  }
  // The next rows of the MTP layer for one sequence: the id at a position with the hidden state before it.
  void AddMtp(Part& part, int rows) {
    Sequence& sequence = *part.sequence;
    mtp_groups_.push_back(RowGroup{.first_row = static_cast<int>(mtp_tokens_.size()),
                                   .rows = rows,
                                   .position = sequence.mtp_position,
                                   .pages = part.plan->pages,
                                   .first_key = kMtpFirstKey});
    for (int i = 0; i < rows; ++i) {
      std::copy_n(hidden_pool_.Row(sequence.waiting, i), spec().hidden,
                  mtp_hidden_.data() + mtp_tokens_.size() * spec().hidden);
      mtp_tokens_.push_back(part.IdAt(sequence.mtp_position));
      mtp_positions_.push_back(sequence.mtp_position++);
    }
    hidden_pool_.Pop(&sequence.waiting, rows);
  }
  void RunMtpRows() {
    if (mtp_tokens_.empty()) return;
    result_.mtp_rows += static_cast<int>(mtp_tokens_.size());
    RunMtp(*blocks_, {mtp_tokens_, mtp_positions_, mtp_groups_}, mtp_hidden_.data(), blocks_->residual());
  }

  // drafting_: parts that want one more draft; wanted_: their rows.
  void Draft() {
    const int hidden = spec().hidden;
    std::optional<Stopwatch> steps;  // from the first draft on
    for (int depth = 1; !drafting_.empty(); ++depth) {
      ChooseDrafts();
      result_.draft_steps = depth;
      if (steps) result_.steps_ms = steps->ms();
      if (depth == 1) steps.emplace();
      // Deeper drafts read the MTP layer's own output in place of the trunk's.
      BeginMtp();
      size_t kept = 0;
      for (size_t i = 0; i < drafting_.size(); ++i) {
        Part& part = *drafting_[i];
        if (static_cast<int>(part.sequence->drafts.size()) < depth) continue;  // its logits were not finite: no draft
        if (depth >= std::min(part.plan->draft_depth, options_.draft_depth_max)) continue;
        std::memmove(draft_hidden_.data() + kept * hidden, draft_hidden_.data() + i * hidden, sizeof(float) * hidden);
        const int position = part.sequence->mtp_position - 1 + depth;
        mtp_tokens_.push_back(part.sequence->drafts.back());
        mtp_positions_.push_back(position);
        mtp_groups_.push_back(RowGroup{.first_row = static_cast<int>(kept),
                                       .rows = 1,
                                       .position = position,
                                       .pages = part.plan->pages,
                                       .first_key = kMtpFirstKey});
        drafting_[kept++] = &part;
      }
      drafting_.resize(kept);
      if (kept == 0) break;
      RunMtp(*blocks_, {mtp_tokens_, mtp_positions_, mtp_groups_}, draft_hidden_.data(), blocks_->residual());
      wanted_.resize(kept);
      std::iota(wanted_.begin(), wanted_.end(), 0);
    }
    // Tentative commits were only for the drafts' own penalties.
    for (Part& part : parts_) {
      for (auto id = part.sequence->drafts.rbegin(); id != part.sequence->drafts.rend(); ++id)
        part.sequence->sampler.Undo(*id);
    }
  }

  void ChooseDrafts() {
    const absl::Span<const int> wanted(wanted_);
    const size_t portion = static_cast<size_t>(blocks_->limits().max_head_rows);
    for (size_t begin = 0; begin < wanted.size(); begin += portion) {
      const auto rows = wanted.subspan(begin, portion);
      blocks_->Head(Blocks::HeadOf::kMtp, rows, blocks_->residual(), draft_hidden_.data() + begin * spec().hidden,
                    logits_.data());
      blocks_->ParallelFor(static_cast<int>(rows.size()), [&](int i, int thread) {
        const Sequence& sequence = *drafting_[begin + i]->sequence;
        const int position = sequence.mtp_position + static_cast<int>(sequence.drafts.size());
        const absl::Status chosen = samplers_[thread].Choose(sequence.sampler, position, LogitsRow(i), &choices_[i]);
        if (!chosen.ok()) choices_[i] = -1;
      });
      for (size_t i = 0; i < rows.size(); ++i) {
        Sequence& sequence = *drafting_[begin + i]->sequence;
        const TokenId id = choices_[i];
        if (id < 0) continue;
        sequence.drafts.push_back(id);
        sequence.sampler.Commit(id);
      }
    }
  }

  // ---- results ----

  void Report(Part& part) {
    SequenceResult& result = *part.result;
    const Sequence& sequence = *part.sequence;
    result.can_draft = sequence.can_draft;
    result.mtp_position = sequence.can_draft ? sequence.mtp_position : 0;
    result.drafts = sequence.drafts;
    if (absl::IsInternal(result.status)) Explain(part);
  }

  // Runs a failed sequence's rows once more, looking after every block. Its state may have been overwritten by the
  // round, but only in layers after the one where the trouble began.
  void Explain(Part& part) {
    wanted_.clear();
    RowGroup group = groups_[&part - parts_.data()];
    group.first_row = 0;
    group.state_in = part.sequence->state;
    group.state_out = {};
    const StepBatch batch{.tokens = absl::MakeConstSpan(tokens_).subspan(part.first_row, part.rows),
                          .positions = absl::MakeConstSpan(positions_).subspan(part.first_row, part.rows),
                          .groups = absl::MakeConstSpan(&group, 1)};
    const NonFinite found = FindNonFinite(*blocks_, batch, blocks_->residual());
    const int position = part.plan->position + std::max(found.row, 0);
    part.result->status =
        absl::InternalError(absl::StrCat("activations are not finite: ", found.row < 0 ? "the head" : found.block,
                                         ", at position ", position, "; the other sequences are not affected"));
  }

  std::unique_ptr<Blocks> blocks_;
  const ComposedOptions options_;
  const bool recurrent_;
  std::vector<Sampler> samplers_;  // one for each thread
  std::vector<Sequence> sequences_;
  std::vector<SequenceResult> results_;
  std::vector<StateSlot> free_slots_;
  HiddenPool hidden_pool_;
  std::vector<float> snapshot_hidden_;  // [snapshots, H]
  Ticket ticket_ = 0;
  RoundResult result_;

  // Scratch of one round.
  std::vector<Part> parts_;
  std::vector<Part*> drafting_;
  std::vector<TokenId> tokens_, mtp_tokens_;
  std::vector<int32_t> positions_, mtp_positions_;
  std::vector<RowGroup> groups_, mtp_groups_;
  std::vector<StateSlot> states_;
  struct Turn {
    Part* part;
    size_t first, count;  // of its rows among those with logits
  };
  std::vector<Turn> turns_;
  std::vector<TokenId> choices_;
  std::vector<int> wanted_, experts_read_;
  std::vector<float> hidden_, mtp_hidden_, draft_hidden_, head_hidden_, logits_, raw_logits_;
};

}  // namespace

BlocksLimits LimitsFor(const ComposedOptions& options, int kv_pages, int threads) {
  return BlocksLimits{.max_rows = options.max_rows,
                      .max_head_rows = std::min(kHeadRows, options.max_rows),
                      .kv_pages = kv_pages,
                      .state_slots = options.max_sequences + options.draft_slots + options.snapshots,
                      .threads = threads};
}

absl::StatusOr<std::unique_ptr<Backend>> MakeComposedBackend(std::unique_ptr<Blocks> blocks, ComposedOptions options) {
  const ModelSpec& spec = blocks->spec();
  if (options.mtp && !spec.mtp) {
    return absl::InvalidArgumentError("speculation by MTP was asked for, but the model has no MTP layer");
  }
  const int vocab_used = options.vocab_used == 0 ? spec.vocab_rows : options.vocab_used;
  if (vocab_used > spec.vocab_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has ", vocab_used, " ids, the model only ", spec.vocab_rows, " vocabulary rows"));
  }
  return std::make_unique<ComposedBackend>(std::move(blocks), std::move(options), vocab_used);
}

}  // namespace gantry::engine
