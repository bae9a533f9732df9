#include "services/worker/model_files.h"

#include <openssl/evp.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/format/config_json.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace gantry::worker {
namespace {

constexpr size_t kTokenizerBytesMax = 256 << 20;

absl::Status ReadDefaultSampling(const std::string& directory, v1::DefaultSampling* sampling) {
  const std::string path = directory + "/generation_config.json";
  if (access(path.c_str(), F_OK) != 0) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const engine::ConfigObject config, engine::ConfigObject::ReadFile(path));
  if (config.Has("temperature")) {
    GANTRY_ASSIGN_OR_RETURN(const double value, config.NumberOr("temperature", 1, 0, 2));
    sampling->set_temperature(static_cast<float>(value));
  }
  if (config.Has("top_p")) {
    GANTRY_ASSIGN_OR_RETURN(const double value, config.NumberOr("top_p", 1, 1e-6, 1));
    sampling->set_top_p(static_cast<float>(value));
  }
  if (config.Has("top_k")) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t value, config.IntOr("top_k", 0, 0, 1 << 30));
    sampling->set_top_k(static_cast<uint32_t>(value));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Sha256(absl::string_view bytes) {
  std::string digest(32, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr, EVP_sha256(),
             nullptr);
  return digest;
}

absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& served_name, const engine::Card& card) {
  ModelFiles files;
  v1::ModelCard& out = files.card;
  GANTRY_ASSIGN_OR_RETURN(std::string tokenizer,
                          engine::ReadSmallFile(card.model_path + "/tokenizer.json", kTokenizerBytesMax));
  GANTRY_ASSIGN_OR_RETURN(std::string chat_template, engine::text::ReadChatTemplateSource(card.model_path));
  // A template that does not parse is an error of the installation: say so now, not to the first tenant.
  if (const auto parsed = engine::text::ChatTemplate::Parse(chat_template); !parsed.ok()) {
    return Annotate(parsed.status(), absl::StrCat(card.model_path, ": chat template"));
  }
  out.set_name(served_name);
  out.set_family(card.spec.family);
  out.set_tokenizer_sha256(Sha256(tokenizer));
  out.set_template_sha256(Sha256(chat_template));
  for (const engine::TokenId id : card.spec.stop_ids) out.add_stop_ids(static_cast<uint32_t>(id));
  out.set_context_tokens(static_cast<uint32_t>(card.max_context));
  out.set_vocab_rows(static_cast<uint32_t>(card.spec.vocab_rows));
  out.set_parameters(static_cast<uint64_t>(card.parameters));
  out.set_weight_bytes(static_cast<uint64_t>(card.weight_bytes));
  out.set_numerics_id(card.numerics_id);
  GANTRY_RETURN_IF_ERROR(ReadDefaultSampling(card.model_path, out.mutable_default_sampling()));
  out.set_card_hash(Sha256(out.SerializeAsString()));
  out.set_created_us(absl::ToUnixMicros(absl::Now()));
  files.blobs[out.tokenizer_sha256()] = std::move(tokenizer);
  files.blobs[out.template_sha256()] = std::move(chat_template);
  return files;
}

absl::StatusOr<int> TokenizerSize(const std::string& model_directory) {
  GANTRY_ASSIGN_OR_RETURN(const auto tokenizer, engine::text::Tokenizer::FromFile(model_directory + "/tokenizer.json"));
  return tokenizer->size();
}

}  // namespace gantry::worker
