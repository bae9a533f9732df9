// Logits of llama.cpp for given ids, as raw float32 [tokens, vocab]: the other side of `gantry-engine logits`. Built by
// build.sh against llama.cpp's own library, not part of the project's build.
//
//   llama_logits --model M.gguf --ids ids.json --out F [--greedy N] [--threads T] [--kv f32|f16] [--flash 0|1]
//                [--tensor NAME --tensor-out F]
//   llama_logits --model M.gguf --tokenize text
//
// The second form prints the ids of a text, without special tokens, as a JSON array.
// --greedy N goes on after the ids with the likeliest id N times; the file then holds the logits that each of these was
// chosen from, and they are printed as a JSON array. --tensor writes what the named node of the graph computed in every
// layer (float32, in the order of computing): `ffn_moe_logits` are the routers' outputs.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "llama_logits: %s\n", message.c_str());
  std::exit(1);
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Die(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<llama_token> ReadIds(const std::string& path) {
  std::vector<llama_token> ids;
  bool inside = false;
  for (const char c : ReadText(path)) {
    const bool digit = c >= '0' && c <= '9';
    if (digit && !inside) ids.push_back(0);
    if (digit) ids.back() = 10 * ids.back() + (c - '0');
    inside = digit;
  }
  if (ids.empty()) Die(path + ": expected a JSON array of token ids");
  return ids;
}

void Print(const std::vector<llama_token>& ids) {
  for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i == 0 ? "[" : ", ", ids[i]);
  std::printf("]\n");
}

struct File {
  explicit File(const std::string& path) : file(std::fopen(path.c_str(), "wb")) {
    if (file == nullptr) Die(path + ": cannot be written");
  }
  ~File() { std::fclose(file); }
  void Write(const float* values, size_t count) const {
    if (std::fwrite(values, sizeof(float), count, file) != count) Die("writing failed");
  }
  std::FILE* file;
};

struct Tap {
  std::string prefix;  // "NAME-": nodes carry the number of their layer
  const File* out = nullptr;
};

bool OnNode(ggml_tensor* node, bool ask, void* data) {
  const Tap& tap = *static_cast<Tap*>(data);
  const bool wanted = std::strncmp(node->name, tap.prefix.c_str(), tap.prefix.size()) == 0;
  if (ask || !wanted) return ask ? wanted : true;
  if (node->type != GGML_TYPE_F32 || !ggml_is_contiguous(node)) Die(std::string(node->name) + ": not plain float32");
  std::vector<float> values(ggml_nelements(node));
  ggml_backend_tensor_get(node, values.data(), 0, values.size() * sizeof(float));
  tap.out->Write(values.data(), values.size());
  return true;
}

void Decode(llama_context* context, std::vector<llama_token> ids, int position, bool all_logits) {
  llama_batch batch = llama_batch_init(static_cast<int32_t>(ids.size()), 0, 1);
  batch.n_tokens = static_cast<int32_t>(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    batch.token[i] = ids[i];
    batch.pos[i] = position + static_cast<int>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = all_logits || i + 1 == ids.size();
  }
  if (llama_decode(context, batch) != 0) Die("llama_decode failed");
  llama_batch_free(batch);
}

using Options = std::map<std::string, std::string>;

llama_model* Load(const std::string& path) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
  if (model == nullptr) Die(path + ": cannot be loaded");
  return model;
}

void Tokenize(const llama_vocab* vocab, const std::string& text) {
  std::vector<llama_token> ids(text.size() + 1);
  const int count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                                   static_cast<int32_t>(ids.size()), /*add_special=*/false, /*parse_special=*/false);
  if (count < 0) Die("the text has no tokens");
  ids.resize(count);
  Print(ids);
}

void Logits(llama_model* model, Options options) {
  const std::vector<llama_token> ids = ReadIds(options["--ids"]);
  const int greedy = std::stoi(options["--greedy"]);
  const auto tokens = static_cast<int>(ids.size());
  llama_context_params params = llama_context_default_params();
  params.n_ctx = tokens + greedy;
  params.n_batch = params.n_ubatch = tokens;
  params.n_threads = params.n_threads_batch = std::stoi(options["--threads"]);
  params.type_k = params.type_v = options["--kv"] == "f16" ? GGML_TYPE_F16 : GGML_TYPE_F32;
  params.flash_attn_type = options["--flash"] == "1" ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  std::unique_ptr<File> tensor_out;
  Tap tap;
  if (!options["--tensor"].empty()) {
    tensor_out = std::make_unique<File>(options["--tensor-out"]);
    tap = {options["--tensor"] + "-", tensor_out.get()};
    params.cb_eval = OnNode;
    params.cb_eval_user_data = &tap;
  }
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) Die("no context");
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const File out(options["--out"]);

  Decode(context, ids, 0, greedy == 0);
  for (int i = 0; greedy == 0 && i < tokens; ++i) out.Write(llama_get_logits_ith(context, i), vocab);
  std::vector<llama_token> chosen;
  for (int i = 0; i < greedy; ++i) {
    if (i > 0) Decode(context, {chosen.back()}, tokens + i - 1, false);
    const float* logits = llama_get_logits_ith(context, -1);
    out.Write(logits, vocab);
    chosen.push_back(static_cast<llama_token>(std::max_element(logits, logits + vocab) - logits));
  }
  if (greedy > 0) Print(chosen);
  llama_free(context);
}

}  // namespace

int main(int argc, char** argv) {
  Options options = {{"--model", ""}, {"--ids", ""},    {"--out", ""},    {"--greedy", "0"},    {"--threads", "2"},
                     {"--kv", "f32"}, {"--flash", "0"}, {"--tensor", ""}, {"--tensor-out", ""}, {"--tokenize", ""}};
  for (int i = 1; i < argc; i += 2) {
    if (!options.contains(argv[i]) || i + 1 == argc) Die(std::string("unknown option ") + argv[i]);
    options[argv[i]] = argv[i + 1];
  }
  llama_model* model = Load(options["--model"]);
  if (options["--tokenize"].empty()) {
    Logits(model, options);
  } else {
    Tokenize(llama_model_get_vocab(model), ReadText(options["--tokenize"]));
  }
  llama_model_free(model);
  return 0;
}
