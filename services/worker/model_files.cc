#include "services/worker/model_files.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "engine/model/model_text.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "services/common/digest.h"

namespace gantry::worker {

absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& served_name, const engine::Card& card) {
  ModelFiles files;
  v1::ModelCard& out = files.card;
  GANTRY_ASSIGN_OR_RETURN(engine::ModelText text, engine::ReadModelText(card.model_path));
  if (text.chat_template.empty()) {
    return absl::NotFoundError(absl::StrCat(card.model_path, ": the model has no chat template"));
  }
  // A template that does not parse is an error of the installation: say so now, not to the first tenant.
  if (const auto parsed = engine::text::ChatTemplate::Parse(text.chat_template); !parsed.ok()) {
    return Annotate(parsed.status(), absl::StrCat(card.model_path, ": chat template"));
  }
  out.set_name(served_name);
  out.set_family(card.spec.family);
  out.set_tokenizer_sha256(Sha256(text.tokenizer_json));
  out.set_template_sha256(Sha256(text.chat_template));
  for (const engine::TokenId id : card.spec.stop_ids) out.add_stop_ids(static_cast<uint32_t>(id));
  out.set_context_tokens(static_cast<uint32_t>(card.max_context));
  out.set_vocab_rows(static_cast<uint32_t>(card.spec.vocab_rows));
  out.set_parameters(static_cast<uint64_t>(card.parameters));
  out.set_weight_bytes(static_cast<uint64_t>(card.weight_bytes));
  out.set_numerics_id(card.numerics_id);
  v1::DefaultSampling& sampling = *out.mutable_default_sampling();
  if (text.sampling.temperature) sampling.set_temperature(static_cast<float>(*text.sampling.temperature));
  if (text.sampling.top_p) sampling.set_top_p(static_cast<float>(*text.sampling.top_p));
  if (text.sampling.top_k) sampling.set_top_k(static_cast<uint32_t>(*text.sampling.top_k));
  out.set_card_hash(Sha256(out.SerializeAsString()));
  out.set_created_us(absl::ToUnixMicros(absl::Now()));
  files.blobs[out.tokenizer_sha256()] = std::move(text.tokenizer_json);
  files.blobs[out.template_sha256()] = std::move(text.chat_template);
  return files;
}

absl::StatusOr<int> TokenizerSize(const std::string& model_path) {
  GANTRY_ASSIGN_OR_RETURN(const engine::ModelText text, engine::ReadModelText(model_path));
  GANTRY_ASSIGN_OR_RETURN(const auto tokenizer, engine::text::Tokenizer::FromJson(text.tokenizer_json, model_path));
  return tokenizer->size();
}

}  // namespace gantry::worker
