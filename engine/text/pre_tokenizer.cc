#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pre_tokenizer.h"

#include <pcre2.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"

namespace gantry::engine::text {
namespace {

constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytesMax = 8 << 20;

// Unicode White_Space. PCRE2's own \s adds U+180E, which left that set in Unicode 6.3.
constexpr char kSpace[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

// \s inside and outside of character classes; \S outside of them (no known tokenizer has it inside).
std::string WithUnicodeSpaces(const std::string& expression) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char next = expression[++i];
      if (next == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpace, in_class ? "" : "]");
      } else if (next == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpace, "]");
      } else {
        out.push_back(c);
        out.push_back(next);
      }
      continue;
    }
    if (c == '[' && !in_class)
      in_class = true;
    else if (c == ']' && in_class)
      in_class = false;
    out.push_back(c);
  }
  return out;
}

struct MatchScratch {
  MatchScratch()
      : context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 * 1024, kJitStackBytesMax, nullptr)),
        data(pcre2_match_data_create(1, nullptr)) {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchScratch() {
    pcre2_match_data_free(data);
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
  }
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
  pcre2_match_data* data;
};

// Per thread, because PCRE2 writes into it while matching.
MatchScratch& Scratch() {
  thread_local MatchScratch scratch;
  return scratch;
}

const std::map<std::string, std::vector<std::string>>& Families() {
  static const auto* families = [] {
    const std::string contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    const std::string tail = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
    auto* f = new std::map<std::string, std::vector<std::string>>;
    (*f)["qwen35"] = {contractions + R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" + tail};
    (*f)["qwen2"] = {contractions + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + tail};
    (*f)["llama-bpe"] = {contractions + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + tail};
    (*f)["gpt-2"] = {Gpt2Expression()};
    (*f)["smollm"] = {R"(\p{N})", Gpt2Expression()};
    (*f)["deepseek-v3"] = {
        R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)" +
            tail};
    // clang-format off
    (*f)["deepseek-llm"] = {
        R"([\r\n])",
        "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-"
        "ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
        "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
        R"(\s+$)",
        "[一-龥ࠀ-一가-퟿]+",
        R"(\p{N}+)"};
    // clang-format on
    // What files without a name were made with.
    (*f)["default"] = {R"([\p{P}\$\+<=>\^~\|]+)",
                       R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", R"(\p{N}+)",
                       "[0-9][0-9][0-9]"};
    (*f)["llama3"] = (*f)["llama-v3"] = (*f)["llama-bpe"];
    (*f)["deepseek-r1-qwen"] = (*f)["qwen2"];
    (*f)["starcoder"] = (*f)["refact"] = (*f)["smollm"];
    return f;
  }();
  return *families;
}

}  // namespace

const std::string& Gpt2Expression() {
  static const auto* expression =
      new std::string(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return *expression;
}

struct PreTokenizer::Expression {
  ~Expression() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::FromExpressions(
    const std::vector<std::string>& expressions) {
  auto result = std::unique_ptr<PreTokenizer>(new PreTokenizer());
  for (const std::string& source : expressions) {
    const std::string pattern = WithUnicodeSpaces(source);
    int error = 0;
    PCRE2_SIZE offset = 0;
    auto expression = std::make_unique<Expression>();
    expression->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (expression->code == nullptr) {
      PCRE2_UCHAR message[128] = {};
      pcre2_get_error_message(error, message, sizeof(message));
      return absl::InvalidArgumentError(absl::StrCat("pre-tokeniser expression `", source,
                                                     "`: ", reinterpret_cast<char*>(message), " near offset ", offset));
    }
    // Without JIT (an unusual machine) matching is slower and otherwise the same.
    pcre2_jit_compile(expression->code, PCRE2_JIT_COMPLETE);
    result->expressions_.push_back(std::move(expression));
  }
  return result;
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::FromFamily(const std::string& name) {
  GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> expressions, FamilyExpressions(name));
  return FromExpressions(expressions);
}

absl::StatusOr<std::vector<std::string>> PreTokenizer::FamilyExpressions(const std::string& name) {
  const auto found = Families().find(name);
  if (found != Families().end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [family, expressions] : Families()) names.push_back(family);
  return absl::InvalidArgumentError(
      absl::StrCat("pre-tokeniser `", name, "` is not supported; supported are: ", absl::StrJoin(names, ", ")));
}

absl::Status PreTokenizer::Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
  MatchScratch& scratch = Scratch();
  std::vector<absl::string_view> current = {text}, next;
  if (text.empty()) return absl::OkStatus();
  for (const auto& expression : expressions_) {
    next.clear();
    for (const absl::string_view piece : current) {
      size_t done = 0;
      while (done < piece.size()) {
        const int matched = pcre2_match(expression->code, reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(),
                                        done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, scratch.data, scratch.context);
        if (matched == PCRE2_ERROR_NOMATCH) break;
        if (matched < 0) {
          return absl::InvalidArgumentError(
              absl::StrCat("the text cannot be split into words within the work limit (PCRE2 error ", matched, ")"));
        }
        const PCRE2_SIZE* span = pcre2_get_ovector_pointer(scratch.data);
        if (span[0] > done) next.push_back(piece.substr(done, span[0] - done));
        next.push_back(piece.substr(span[0], span[1] - span[0]));
        done = span[1];
      }
      if (done < piece.size()) next.push_back(piece.substr(done));
    }
    std::swap(current, next);
  }
  pieces->insert(pieces->end(), current.begin(), current.end());
  return absl::OkStatus();
}

}  // namespace gantry::engine::text
