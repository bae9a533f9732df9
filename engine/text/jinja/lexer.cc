#include "engine/text/jinja/lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text::jinja {
namespace {

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag(at_);
      std::string text = source_.substr(at_, tag - at_);
      if (tag == std::string::npos) {
        EmitText(text);
        break;
      }
      const char kind = source_[tag + 1];
      const char mark = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (mark == '-') {
        text.resize(LengthWithoutTrailingSpace(text));
      } else if (kind != '{' && mark != '+') {
        StripLineStart(&text);
      }
      EmitText(text);
      line_ +=
          static_cast<int>(std::count(source_.begin() + static_cast<int64_t>(at_ + std::min(text.size(), tag - at_)),
                                      source_.begin() + static_cast<int64_t>(tag), '\n'));
      at_ = tag + 2;
      if (mark == '-' || (mark == '+' && kind != '{')) ++at_;
      if (kind == '#') {
        GANTRY_RETURN_IF_ERROR(SkipComment());
      } else if (kind == '%' && IsRaw()) {
        GANTRY_RETURN_IF_ERROR(TakeRaw());
      } else {
        GANTRY_RETURN_IF_ERROR(TakeTag(kind == '{'));
      }
    }
    Emit(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  size_t FindTag(size_t from) const {
    for (size_t i = source_.find('{', from); i != std::string::npos && i + 1 < source_.size();
         i = source_.find('{', i + 1)) {
      if (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#') return i;
    }
    return std::string::npos;
  }

  static size_t LengthWithoutTrailingSpace(const std::string& text) {
    size_t n = text.size();
    while (n > 0 && absl::ascii_isspace(static_cast<unsigned char>(text[n - 1]))) --n;
    return n;
  }

  // lstrip_blocks: blanks between the start of a line and a block tag go.
  void StripLineStart(std::string* text) const {
    const size_t newline = text->rfind('\n');
    const size_t line_begin = newline == std::string::npos ? 0 : newline + 1;
    if (newline == std::string::npos && !line_starting_) return;
    if (std::all_of(text->begin() + static_cast<int64_t>(line_begin), text->end(),
                    [](unsigned char c) { return absl::ascii_isspace(c); })) {
      text->resize(line_begin);
    }
  }

  void EmitText(const std::string& text) {
    if (text.empty()) return;
    Emit(Token::Kind::kText, text);
    line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }

  void Emit(Token::Kind kind, std::string text) { tokens_.push_back(Token{kind, std::move(text), line_}); }

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("template line ", line_, ": ", what));
  }

  // After a closing tag: `-` eats all blanks, a block or comment eats one newline (trim_blocks) unless it ends with
  // `+`.
  void AfterTag(bool output, char mark) {
    line_starting_ = false;
    if (mark == '-') {
      while (at_ < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at_]))) {
        line_starting_ = source_[at_] == '\n';
        line_ += line_starting_;
        ++at_;
      }
    } else if (!output && mark != '+' && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
      ++line_;
      line_starting_ = true;
    }
  }

  absl::Status SkipComment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Error("a comment is not closed");
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<int64_t>(at_), source_.begin() + static_cast<int64_t>(end), '\n'));
    const char mark = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    AfterTag(/*output=*/false, mark);
    return absl::OkStatus();
  }

  bool IsRaw() const {
    const absl::string_view rest = absl::StripLeadingAsciiWhitespace(absl::string_view(source_).substr(at_));
    if (!absl::StartsWith(rest, "raw")) return false;
    const absl::string_view after = absl::StripLeadingAsciiWhitespace(rest.substr(3));
    return absl::StartsWith(after, "%}") || absl::StartsWith(after, "-%}") || absl::StartsWith(after, "+%}");
  }

  absl::Status TakeRaw() {
    const size_t open_end = source_.find("%}", at_);
    const char open_mark = source_[open_end - 1];
    at_ = open_end + 2;
    AfterTag(/*output=*/false, open_mark);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      size_t i = tag + 2;
      const char mark = source_[i];
      if (mark == '-' || mark == '+') ++i;
      const absl::string_view rest = absl::StripLeadingAsciiWhitespace(absl::string_view(source_).substr(i));
      if (!absl::StartsWith(rest, "endraw")) continue;
      std::string text = source_.substr(at_, tag - at_);
      if (mark == '-') text.resize(LengthWithoutTrailingSpace(text));
      EmitText(text);
      const size_t close = source_.find("%}", tag);
      if (close == std::string::npos) break;
      const char close_mark = source_[close - 1];
      at_ = close + 2;
      AfterTag(/*output=*/false, close_mark);
      return absl::OkStatus();
    }
    return Error("raw is not closed by endraw");
  }

  absl::Status TakeTag(bool output) {
    Emit(output ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, "");
    const absl::string_view close = output ? "}}" : "%}";
    int braces = 0;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '\n') ++line_;
      if (absl::ascii_isspace(static_cast<unsigned char>(c))) {
        ++at_;
        continue;
      }
      const absl::string_view rest = absl::string_view(source_).substr(at_);
      if (braces == 0) {
        const bool marked = (c == '-' || c == '+') && absl::StartsWith(rest.substr(1), close);
        if (marked || absl::StartsWith(rest, close)) {
          at_ += close.size() + marked;
          Emit(output ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd, "");
          AfterTag(output, marked ? c : '\0');
          return absl::OkStatus();
        }
      }
      if (c == '{' || c == '(' || c == '[') ++braces;
      if (c == '}' || c == ')' || c == ']') --braces;
      GANTRY_RETURN_IF_ERROR(TakeToken(rest));
    }
    return Error(absl::StrCat("a tag is not closed by ", close));
  }

  absl::Status TakeToken(absl::string_view rest) {
    const auto c = static_cast<unsigned char>(rest[0]);
    if (c == '"' || c == '\'') return TakeString(rest);
    if (absl::ascii_isdigit(c)) {
      size_t n = 1;
      bool is_float = false;
      while (n < rest.size() &&
             (absl::ascii_isalnum(static_cast<unsigned char>(rest[n])) || rest[n] == '_' || rest[n] == '.' ||
              ((rest[n] == '-' || rest[n] == '+') && (rest[n - 1] == 'e' || rest[n - 1] == 'E')))) {
        // `1.foo` and `1..2` are no floats.
        if (rest[n] == '.' && (n + 1 >= rest.size() || !absl::ascii_isdigit(static_cast<unsigned char>(rest[n + 1]))))
          break;
        is_float = is_float || rest[n] == '.' || rest[n] == 'e' || rest[n] == 'E';
        ++n;
      }
      Emit(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, absl::StrReplaceAll(rest.substr(0, n), {{"_", ""}}));
      at_ += n;
      return absl::OkStatus();
    }
    if (absl::ascii_isalpha(c) || c == '_' || c >= 0x80) {
      size_t n = 1;
      while (n < rest.size() && (absl::ascii_isalnum(static_cast<unsigned char>(rest[n])) || rest[n] == '_' ||
                                 static_cast<unsigned char>(rest[n]) >= 0x80)) {
        ++n;
      }
      Emit(Token::Kind::kName, std::string(rest.substr(0, n)));
      at_ += n;
      return absl::OkStatus();
    }
    for (const absl::string_view op : {"**", "//", "==", "!=", "<=", ">="}) {
      if (absl::StartsWith(rest, op)) {
        Emit(Token::Kind::kOperator, std::string(op));
        at_ += op.size();
        return absl::OkStatus();
      }
    }
    if (absl::string_view("+-*/%~<>=()[]{},.:|").find(static_cast<char>(c)) == absl::string_view::npos) {
      return Error(absl::StrCat("unexpected character `", rest.substr(0, 1), "`"));
    }
    Emit(Token::Kind::kOperator, std::string(1, static_cast<char>(c)));
    ++at_;
    return absl::OkStatus();
  }

  absl::Status TakeString(absl::string_view rest) {
    const char quote = rest[0];
    std::string value;
    for (size_t i = 1; i < rest.size(); ++i) {
      if (rest[i] == quote) {
        Emit(Token::Kind::kString, value);
        line_ += static_cast<int>(std::count(rest.begin(), rest.begin() + static_cast<int64_t>(i), '\n'));
        at_ += i + 1;
        return absl::OkStatus();
      }
      if (rest[i] != '\\' || i + 1 >= rest.size()) {
        value.push_back(rest[i]);
        continue;
      }
      const char escape = rest[++i];
      const auto hex = [&](size_t digits) {
        char32_t code = 0;
        for (size_t k = 1; k <= digits; ++k) {
          if (i + k >= rest.size() || !absl::ascii_isxdigit(static_cast<unsigned char>(rest[i + k]))) return false;
          const char d = absl::ascii_tolower(static_cast<unsigned char>(rest[i + k]));
          code = code * 16 + static_cast<char32_t>(d <= '9' ? d - '0' : d - 'a' + 10);
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
        AppendUtf8(code, &value);
        i += digits;
        return true;
      };
      switch (escape) {
        case 'n':
          value.push_back('\n');
          break;
        case 't':
          value.push_back('\t');
          break;
        case 'r':
          value.push_back('\r');
          break;
        case 'b':
          value.push_back('\b');
          break;
        case 'f':
          value.push_back('\f');
          break;
        case '\\':
        case '\'':
        case '"':
          value.push_back(escape);
          break;
        case '\n':
          break;
        case 'x':
        case 'u':
        case 'U':
          if (!hex(escape == 'x' ? 2 : escape == 'u' ? 4 : 8)) return Error("a string has a malformed escape");
          break;
        default:
          value.push_back('\\');
          value.push_back(escape);
      }
    }
    return Error("a string is not closed");
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  GANTRY_RETURN_IF_ERROR(CheckUtf8(source));
  std::string text = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  // jinja2 drops one newline at the end of a template (keep_trailing_newline is off).
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace gantry::engine::text::jinja
