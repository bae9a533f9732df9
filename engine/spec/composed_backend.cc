#include "engine/spec/composed_backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/backend/forward.h"
#include "engine/base/check.h"
#include "engine/sample/sampler.h"

namespace gantry::engine {
namespace {

// Prompt logprobs need logits of every prompt row; they are computed this many rows at a time.
constexpr int kPromptLogitRows = 16;

struct Sequence {
  bool open = false;
  SequenceSampler sampler;
  TokenId anchor = -1;           // committed, not yet processed by the trunk
  std::vector<TokenId> drafts;   // for the positions after the anchor
  int current_slot = 0;          // index into slots
  std::vector<StateSlot> slots;  // 1 + depth
};

// A sequence's place in this round.
struct Part {
  const SequencePlan* plan = nullptr;
  Sequence* sequence = nullptr;
  SequenceResult* result = nullptr;
  int first_row = 0, rows = 0;
  int drafted = 0;       // rows after the first that are drafts
  int kept_rows = 0;     // rows whose input is part of the accepted prefix
  bool stopped = false;  // a stop id was committed: nothing follows
  int mtp_first_row = 0, mtp_rows = 0;
};

class ComposedBackend final : public Backend {
 public:
  ComposedBackend(std::unique_ptr<Blocks> blocks, const ComposedOptions& options, int vocab_used)
      : blocks_(std::move(blocks)),
        options_(options),
        sampler_(blocks_->spec().vocab_rows, vocab_used),
        sequences_(options.max_sequences) {
    const ModelSpec& spec = blocks_->spec();
    const int per_sequence = StateSlotsPerSequence(options);
    for (int i = 0; i < options.max_sequences; ++i) {
      sequences_[i].slots.resize(per_sequence);
      std::iota(sequences_[i].slots.begin(), sequences_[i].slots.end(), i * per_sequence);
      sequences_[i].drafts.reserve(options.draft_depth_max);
    }
    const int rows_max = blocks_->limits().max_rows;
    tokens_.reserve(rows_max);
    positions_.reserve(rows_max);
    groups_.reserve(options.max_sequences);
    parts_.reserve(options.max_sequences);
    wanted_.reserve(rows_max);
    hidden_.resize(static_cast<size_t>(rows_max) * spec.hidden);
    mtp_hidden_.resize(static_cast<size_t>(rows_max) * spec.hidden);
    draft_hidden_.resize(static_cast<size_t>(options.max_sequences) * spec.hidden);
    logits_.resize(static_cast<size_t>(blocks_->limits().max_head_rows) * spec.vocab_rows);
    head_hidden_.resize(static_cast<size_t>(blocks_->limits().max_head_rows) * spec.hidden);
    result_.sequences.reserve(options.max_sequences);
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
    sequence.anchor = -1;
    sequence.drafts.clear();
    sequence.current_slot = 0;
    blocks_->ZeroState(sequence.slots[0]);
    return absl::OkStatus();
  }

  void Close(SequenceSlot slot) override { sequences_[slot].open = false; }

  absl::StatusOr<Ticket> Enqueue(const RoundPlan& plan) override {
    const auto begin = std::chrono::steady_clock::now();
    if (absl::Status status = Arrange(plan); !status.ok()) return status;
    RunTrunk(*blocks_, {tokens_, positions_, groups_}, blocks_->residual());
    SampleAndAccept();
    if (options_.draft_depth_max > 0) Draft();
    result_.device_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    return ++ticket_;
  }

  absl::StatusOr<const RoundResult*> Wait(Ticket ticket) override {
    GANTRY_CHECK(ticket == ticket_, "a ticket is waited for before the next round");
    return &result_;
  }

 private:
  // Lays the plan out as rows and groups.
  absl::Status Arrange(const RoundPlan& plan) {
    tokens_.clear();
    positions_.clear();
    groups_.clear();
    parts_.clear();
    result_.sequences.clear();
    result_.sequences.resize(plan.sequences.size());
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const SequencePlan& wish = plan.sequences[i];
      Sequence& sequence = sequences_[wish.slot];
      GANTRY_CHECK(sequence.open, "a planned sequence is open");
      Part part{.plan = &wish,
                .sequence = &sequence,
                .result = &result_.sequences[i],
                .first_row = static_cast<int>(tokens_.size())};
      part.result->slot = wish.slot;
      if (wish.prefill.empty()) {
        GANTRY_CHECK(sequence.anchor >= 0 && wish.max_new_ids >= 1, "a decoding sequence has an anchor and may grow");
        tokens_.push_back(sequence.anchor);
        // Drafts beyond what may be committed would be verified for nothing.
        part.drafted = std::min<int>(sequence.drafts.size(), wish.max_new_ids - 1);
        tokens_.insert(tokens_.end(), sequence.drafts.begin(), sequence.drafts.begin() + part.drafted);
      } else {
        tokens_.insert(tokens_.end(), wish.prefill.begin(), wish.prefill.end());
      }
      part.rows = static_cast<int>(tokens_.size()) - part.first_row;
      part.kept_rows = part.rows;
      for (int row = 0; row < part.rows; ++row) positions_.push_back(wish.position + row);
      // A verification may be rolled back to any of its rows; a chunk of the prompt never is.
      const int states = wish.prefill.empty() ? part.rows : 1;
      groups_.push_back(RowGroup{.first_row = part.first_row,
                                 .rows = part.rows,
                                 .position = wish.position,
                                 .pages = wish.pages,
                                 .state_in = sequence.slots[sequence.current_slot],
                                 .state_out = absl::MakeConstSpan(sequence.slots).subspan(0, states)});
      parts_.push_back(part);
    }
    result_.rows = static_cast<int>(tokens_.size());
    if (result_.rows > options_.max_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("a round of ", result_.rows, " rows, at most ", options_.max_rows));
    }
    return absl::OkStatus();
  }

  float* LogitsRow(size_t index) { return logits_.data() + index * spec().vocab_rows; }

  void SampleAndAccept() {
    const Residual residual = blocks_->residual();
    if (options_.draft_depth_max > 0) {
      // The MTP layer reads the post-norm hidden of every row.
      wanted_.resize(tokens_.size());
      std::iota(wanted_.begin(), wanted_.end(), 0);
      blocks_->Head(Blocks::HeadOf::kTrunk, wanted_, residual, hidden_.data(), nullptr);
    }
    for (Part& part : parts_) {
      if (part.plan->want_prompt_logprobs && !part.plan->prefill.empty()) PromptLogprobs(part);
    }
    // Logits of all rows that are sampled, in one pass over the head's weights.
    wanted_.clear();
    for (const Part& part : parts_) {
      if (part.plan->prefill.empty()) {
        for (int row = 0; row < part.rows; ++row) wanted_.push_back(part.first_row + row);
      } else if (part.plan->prefill_ends_prompt) {
        wanted_.push_back(part.first_row + part.rows - 1);
      }
    }
    if (!wanted_.empty()) blocks_->Head(Blocks::HeadOf::kTrunk, wanted_, residual, head_hidden_.data(), logits_.data());
    size_t next = 0;
    for (Part& part : parts_) {
      Sequence& sequence = *part.sequence;
      if (!part.plan->prefill.empty()) {
        sequence.current_slot = 0;
        if (part.plan->prefill_ends_prompt) Commit(part, part.rows - 1, LogitsRow(next++));
        continue;
      }
      const size_t first = next;
      next += part.rows;
      part.kept_rows = 0;
      for (int row = 0; row < part.rows; ++row) {
        if (!Commit(part, row, LogitsRow(first + row))) break;
        part.kept_rows = row + 1;
        const bool limit = static_cast<int>(part.result->ids.size()) >= part.plan->max_new_ids;
        const bool agreed = row < part.drafted && part.result->ids.back() == sequence.drafts[row];
        if (agreed) ++part.result->accepted;
        if (part.stopped || limit || !agreed) break;
      }
      part.result->drafted = part.drafted;
      if (part.kept_rows > 0) sequence.current_slot = part.kept_rows - 1;
    }
  }

  // Chooses the token after `row` and commits it; false when the sequence failed.
  bool Commit(Part& part, int row, float* logits) {
    Sequence& sequence = *part.sequence;
    const SamplingParams& params = sequence.sampler.params();
    const int position = part.plan->position + row + 1;
    LogprobRow raw;
    std::vector<float>& kept = raw_logits_;
    if (params.logprobs) kept.assign(logits, logits + spec().vocab_rows);
    TokenId id = -1;
    part.result->status = sampler_.Choose(sequence.sampler, position, logits, &id);
    if (!part.result->status.ok()) return false;
    if (params.logprobs) {
      sampler_.Logprobs(kept.data(), id, params.top_logprobs, &raw);
      part.result->logprobs.push_back(TokenLogprobs{.logprob = raw.logprob, .top = std::move(raw.top)});
    }
    sequence.sampler.Commit(id);
    sequence.anchor = id;
    part.result->ids.push_back(id);
    part.stopped = sequence.sampler.IsStop(id);
    return true;
  }

  void PromptLogprobs(Part& part) {
    const int count = part.plan->prefill_ends_prompt ? part.rows - 1 : part.rows;
    LogprobRow raw;
    for (int begin = 0; begin < count; begin += kPromptLogitRows) {
      const int end = std::min(count, begin + std::min(kPromptLogitRows, blocks_->limits().max_head_rows));
      wanted_.resize(end - begin);
      std::iota(wanted_.begin(), wanted_.end(), part.first_row + begin);
      blocks_->Head(Blocks::HeadOf::kTrunk, wanted_, blocks_->residual(), head_hidden_.data(), logits_.data());
      for (int row = begin; row < end; ++row) {
        const TokenId following = row + 1 < part.rows ? part.plan->prefill[row + 1] : part.plan->next_prompt_id;
        sampler_.Logprobs(LogitsRow(row - begin), following, part.sequence->sampler.params().top_logprobs, &raw);
        part.result->prompt_logprobs.push_back(TokenLogprobs{.logprob = raw.logprob, .top = std::move(raw.top)});
      }
    }
  }

  // MTP over every slot whose following token is known now, then drafts from the last slot of each decoding sequence.
  void Draft() {
    mtp_tokens_.clear();
    mtp_positions_.clear();
    groups_.clear();
    const int hidden = spec().hidden;
    for (Part& part : parts_) {
      part.mtp_rows = 0;
      part.sequence->drafts.clear();
      if (!part.result->status.ok() || part.stopped || part.kept_rows == 0) continue;
      part.mtp_first_row = static_cast<int>(mtp_tokens_.size());
      part.mtp_rows = part.kept_rows;
      for (int row = 0; row < part.kept_rows; ++row) {
        mtp_tokens_.push_back(Following(part, row));
        mtp_positions_.push_back(part.plan->position + row);
      }
      std::memcpy(mtp_hidden_.data() + static_cast<size_t>(part.mtp_first_row) * hidden,
                  hidden_.data() + static_cast<size_t>(part.first_row) * hidden,
                  sizeof(float) * hidden * part.kept_rows);
      groups_.push_back(RowGroup{.first_row = part.mtp_first_row,
                                 .rows = part.mtp_rows,
                                 .position = part.plan->position,
                                 .pages = part.plan->pages});
    }
    if (mtp_tokens_.empty()) return;
    RunMtp(*blocks_, {mtp_tokens_, mtp_positions_, groups_}, mtp_hidden_.data(), blocks_->residual());

    // drafting_: parts that want one more draft; their MTP row stands in wanted_.
    drafting_.clear();
    wanted_.clear();
    for (Part& part : parts_) {
      if (part.mtp_rows == 0 || part.plan->draft_depth == 0 || part.result->ids.empty()) continue;
      drafting_.push_back(&part);
      wanted_.push_back(part.mtp_first_row + part.mtp_rows - 1);
    }
    for (int depth = 1; !drafting_.empty(); ++depth) {
      blocks_->Head(Blocks::HeadOf::kMtp, wanted_, blocks_->residual(), draft_hidden_.data(), logits_.data());
      ChooseDrafts();
      // Deeper drafts read the MTP layer's own output in place of the trunk's.
      mtp_tokens_.clear();
      mtp_positions_.clear();
      groups_.clear();
      size_t kept = 0;
      for (size_t i = 0; i < drafting_.size(); ++i) {
        Part& part = *drafting_[i];
        if (static_cast<int>(part.sequence->drafts.size()) < depth) continue;  // its logits were not finite: no draft
        if (depth >= std::min(part.plan->draft_depth, options_.draft_depth_max)) continue;
        std::memmove(draft_hidden_.data() + kept * hidden, draft_hidden_.data() + i * hidden, sizeof(float) * hidden);
        const int position = part.plan->position + part.kept_rows - 1 + depth;
        mtp_tokens_.push_back(part.sequence->drafts.back());
        mtp_positions_.push_back(position);
        groups_.push_back(
            RowGroup{.first_row = static_cast<int>(kept), .rows = 1, .position = position, .pages = part.plan->pages});
        drafting_[kept++] = &part;
      }
      drafting_.resize(kept);
      if (kept == 0) break;
      RunMtp(*blocks_, {mtp_tokens_, mtp_positions_, groups_}, draft_hidden_.data(), blocks_->residual());
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
    for (size_t i = 0; i < drafting_.size(); ++i) {
      Part& part = *drafting_[i];
      Sequence& sequence = *part.sequence;
      const int position = part.plan->position + part.kept_rows + 1 + static_cast<int>(sequence.drafts.size());
      TokenId id = -1;
      if (!sampler_.Choose(sequence.sampler, position, LogitsRow(i), &id).ok()) continue;
      sequence.drafts.push_back(id);
      sequence.sampler.Commit(id);
    }
  }

  // The token that follows a kept row: the next prompt token, or the committed one.
  static TokenId Following(const Part& part, int row) {
    const SequencePlan& plan = *part.plan;
    if (plan.prefill.empty()) return part.result->ids[row];
    if (row + 1 < part.rows) return plan.prefill[row + 1];
    return plan.prefill_ends_prompt ? part.result->ids[0] : plan.next_prompt_id;
  }

  std::unique_ptr<Blocks> blocks_;
  ComposedOptions options_;
  Sampler sampler_;
  std::vector<Sequence> sequences_;
  Ticket ticket_ = 0;
  RoundResult result_;

  // Scratch of one round.
  std::vector<Part> parts_;
  std::vector<Part*> drafting_;
  std::vector<TokenId> tokens_, mtp_tokens_;
  std::vector<int32_t> positions_, mtp_positions_;
  std::vector<RowGroup> groups_;
  std::vector<int> wanted_;
  std::vector<float> hidden_, mtp_hidden_, draft_hidden_, head_hidden_, logits_, raw_logits_;
};

}  // namespace

int StateSlotsPerSequence(const ComposedOptions& options) {
  return 1 + options.draft_depth_max;
}

BlocksLimits LimitsFor(const ComposedOptions& options, int kv_pages, int threads) {
  return BlocksLimits{
      .max_rows = options.max_rows,
      .max_head_rows = std::max(kPromptLogitRows, options.max_sequences * (1 + options.draft_depth_max)),
      .kv_pages = kv_pages,
      .state_slots = options.max_sequences * StateSlotsPerSequence(options),
      .threads = threads};
}

absl::StatusOr<std::unique_ptr<Backend>> MakeComposedBackend(std::unique_ptr<Blocks> blocks,
                                                             const ComposedOptions& options) {
  const ModelSpec& spec = blocks->spec();
  if (options.draft_depth_max > 0 && !spec.mtp) {
    return absl::InvalidArgumentError("speculation by MTP was asked for, but the model has no MTP layer");
  }
  const int vocab_used = options.vocab_used == 0 ? spec.vocab_rows : options.vocab_used;
  if (vocab_used > spec.vocab_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has ", vocab_used, " ids, the model only ", spec.vocab_rows, " vocabulary rows"));
  }
  return std::make_unique<ComposedBackend>(std::move(blocks), options, vocab_used);
}

}  // namespace gantry::engine
