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

To bake a plain loaf: 500 g of flour, 340 g of water, 10 g of salt, 2 g of dried yeast. Mix, wait an hour, fold it four
times, cover the bowl and leave it overnight in a cool room. Next day heat the oven with an iron pot inside, as hot as it
goes; shape the dough on a floured board, let it rise under a cloth until a pressed thumb leaves a slow dent, then bake
it for 30 minutes with the lid on and 15 without. Tap the bottom: a hollow sound means done. Resist cutting while warm.

SELECT port, count(*) AS visits FROM arrivals WHERE year >= 1998 GROUP BY port ORDER BY visits DESC LIMIT 5;
Above is how a clerk today might ask what took her grandmother three evenings with ledgers, blotting paper and a ruler.
Neither of them would trust a total that nobody had checked twice, and both were right: of 1,204 entries copied by hand
in March, 17 were wrong, eleven of those by one digit, and two cancelled each other so neatly that only a torn receipt
gave them away. Errors are seldom random. They follow habits: a seven without its bar, a column added from memory, lunch.

Dear Ines, thank you for your letter and for the seeds. I have put the beans along the south wall and the poppies where
the old pear stood, though the hens may have other plans. Our new bridge opens in June, if the engineers stop arguing
about paint. Father asks every day whether the post has come and pretends not to mind when it hasn't. Write soon, tell us
how your thesis goes; is the professor still so fond of commas? We laughed aloud at your story of the goat and the dean.

Granite cools slowly underground, so its crystals grow large enough to see; basalt, poured out upon the sea floor, sets
within hours and shows almost none. Between these two lie most questions a beginner will ask about volcanic rock. Hold
the specimen to daylight, turn it, look for the glint of mica, scratch it with a copper coin, then with a steel nail.
Weigh it dry, weigh it hanging in water, divide: 2.65 suggests quartz, 3.0 something darker, 5 and more perhaps an ore.

"Checkmate," whispered the girl, though nobody had taught her the word. Her uncle studied the board for a long minute.
His rook could not return, the pawn was pinned, and whichever square the king might try already belonged to a bishop he
had forgotten since the opening. He tipped the piece over gently, shook hands across the table and reached for his hat.
Outside, snow had begun; trams rang at the corner, and every lamp along the avenue wore a small round halo of its own.
)";

}  // namespace

std::vector<TokenId> BenchText::Ids(int sequence, int from, int count) const {
  std::vector<TokenId> out;
  const size_t begin = sequence * kSequenceStride + static_cast<size_t>(from);
  for (int i = 0; i < count; ++i) out.push_back(ids[(begin + static_cast<size_t>(i)) % ids.size()]);
  return out;
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
