#include "engine/cli/bench_text.h"

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/model/model_text.h"
#include "engine/text/tokenizer.h"

namespace gantry::engine::cli {
namespace {

constexpr size_t kTextBytesMax = 16 << 20;
constexpr int kRandomIds = 1 << 14;
// Far enough apart that sequences of a batch are at different places, and prime to most lengths.
constexpr size_t kSequenceStride = 101;

constexpr char kPassage[] =
    R"(The harbour lay quiet before dawn. Two fishermen mended a net by the light of a lamp and spoke of the weather, as
their fathers had. The barometer had fallen since midnight; a ring stood round the moon. "Wind from the south-west by
noon," said the elder, "and rain behind it." The younger counted 14 boats at the quay, where on Monday there had been
23. He wrote the number down, under the date, in a book with a green cover: boats, catch in kilograms, price per crate.
Then the ferry's horn sounded twice, a door opened somewhere above the market, and the smell of bread came down the
hill. What would a stranger have noticed first? Perhaps the gulls, perhaps the cold, perhaps only how few words were
needed between people who had known each other for 40 years.

A tide table is a simple program. For each day it adds sums of cosines, whose periods were found by watching the sea
for a long time: 12.42 hours for the moon, 12 for the sun, 25.82 and 23.93 for their wanderings north and south.
    height(t) = mean + sum(amplitude[i] * cos(speed[i] * t - phase[i]) for i in range(n))
With n = 4 the error is about 20 cm; with n = 37 it is less than a hand. Storms are not in it.
)";

}  // namespace

std::vector<TokenId> BenchText::Prompt(int sequence, int tokens) const {
  std::vector<TokenId> prompt;
  for (int i = 0; i < tokens; ++i) prompt.push_back(ids[(sequence * kSequenceStride + i) % ids.size()]);
  return prompt;
}

absl::StatusOr<BenchText> ReadBenchText(const std::string& model_path, const std::string& text_path, int vocab_rows) {
  BenchText out;
  const absl::StatusOr<ModelText> model_text = ReadModelText(model_path);
  if (!model_text.ok()) {
    if (!text_path.empty()) return model_text.status();
    out.source = "random ids";
    uint64_t random = 88172645463325252ull;
    for (int i = 0; i < kRandomIds; ++i) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      out.ids.push_back(static_cast<TokenId>(random % static_cast<uint64_t>(vocab_rows)));
    }
    return out;
  }
  GANTRY_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::FromJson(model_text->tokenizer_json, model_path));
  std::string text = kPassage;
  out.source = "built-in passage";
  if (!text_path.empty()) {
    GANTRY_ASSIGN_OR_RETURN(text, ReadSmallFile(text_path, kTextBytesMax));
    out.source = text_path;
  }
  GANTRY_ASSIGN_OR_RETURN(out.ids, tokenizer->Encode(text, /*parse_special=*/false));
  if (out.ids.empty()) return absl::InvalidArgumentError(absl::StrCat(text_path, ": the text has no tokens"));
  out.vocab_used = tokenizer->size();
  return out;
}

}  // namespace gantry::engine::cli
