// Megabytes per second and core of encoding and decoding prose. usage: text_benchmark [TOKENIZER_JSON [TEXT_FILE]]
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/text/tokenizer.h"

int main(int argc, char** argv) {
  using gantry::engine::text::Tokenizer;
  const std::string path = argc > 1 ? argv[1] : "models/demo/tokenizer.json";
  const auto tokenizer = Tokenizer::FromFile(path);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "text_benchmark: %s\n", std::string(tokenizer.status().message()).c_str());
    return 1;
  }
  std::ifstream file(argc > 2 ? argv[2] : "LICENSE");
  const std::string sample((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::string text;
  while (text.size() < (4u << 20) && !sample.empty()) text += sample;
  double best_encode = 1e9, best_decode = 1e9;
  size_t tokens = 0;
  for (int round = 0; round < 5; ++round) {
    const absl::Time begin = absl::Now();
    const auto ids = (*tokenizer)->Encode(text, false);
    const absl::Time middle = absl::Now();
    if (!ids.ok()) return 1;
    const std::string decoded = (*tokenizer)->Decode(*ids, false);
    const absl::Time end = absl::Now();
    if (decoded != text) {
      std::fprintf(stderr, "text_benchmark: decoding does not give the text back\n");
      return 1;
    }
    tokens = ids->size();
    best_encode = std::min(best_encode, absl::ToDoubleSeconds(middle - begin));
    best_decode = std::min(best_decode, absl::ToDoubleSeconds(end - middle));
  }
  const double megabytes = text.size() / 1e6;
  std::printf("encode %.1f MB/s, decode %.1f MB/s, %.2f bytes a token (%s, %.1f MB of prose, best of 5)\n",
              megabytes / best_encode, megabytes / best_decode, static_cast<double>(text.size()) / tokens, path.c_str(),
              megabytes);
  return 0;
}
