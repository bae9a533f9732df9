#include "engine/text/jinja/parser.h"

#include <initializer_list>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/jinja/lexer.h"

namespace gantry::engine::text::jinja {
namespace {

constexpr int kNestingMax = 200;

using Kind = Expression::Kind;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    GANTRY_ASSIGN_OR_RETURN(Body body, ParseBody({}));
    return body;
  }

 private:
  const Token& peek(int ahead = 0) const {
    return tokens_[std::min(at_ + static_cast<size_t>(ahead), tokens_.size() - 1)];
  }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool IsOperator(absl::string_view op) const { return peek().kind == Token::Kind::kOperator && peek().text == op; }
  bool IsName(absl::string_view name) const { return peek().kind == Token::Kind::kName && peek().text == name; }
  bool TakeOperator(absl::string_view op) {
    if (!IsOperator(op)) return false;
    Take();
    return true;
  }
  bool TakeName(absl::string_view name) {
    if (!IsName(name)) return false;
    Take();
    return true;
  }

  absl::Status Error(absl::string_view what) const {
    const Token& token = peek();
    const std::string found = token.kind == Token::Kind::kEnd        ? "the end of the template"
                              : token.kind == Token::Kind::kBlockEnd ? "%}"
                              : token.kind == Token::Kind::kOutputEnd
                                  ? "}}"
                                  : absl::StrCat("`", token.text.substr(0, 40), "`");
    return absl::InvalidArgumentError(absl::StrCat("template line ", token.line, ": ", what, ", found ", found));
  }
  absl::Status Expect(absl::string_view op) {
    if (TakeOperator(op)) return absl::OkStatus();
    return Error(absl::StrCat("expected `", op, "`"));
  }
  absl::Status ExpectBlockEnd() {
    if (peek().kind != Token::Kind::kBlockEnd) return Error("expected %}");
    Take();
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> ExpectName() {
    if (peek().kind != Token::Kind::kName) return Error("expected a name");
    return Take().text;
  }

  ExpressionPtr Node(Kind kind) const {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = peek().line;
    return node;
  }
  template <typename... Children>
  ExpressionPtr Node(Kind kind, std::string name, Children... children) const {
    ExpressionPtr node = Node(kind);
    node->name = std::move(name);
    (node->children.push_back(std::move(children)), ...);
    return node;
  }

  // Counts nesting for as long as it lives.
  struct Nesting {
    explicit Nesting(int* counter) : depth(counter) { ++*depth; }
    ~Nesting() { --*depth; }
    int* depth;
  };

  // ---- statements ----

  // Until one of `ends` opens a block tag; that tag's name stays to be taken.
  absl::StatusOr<Body> ParseBody(std::initializer_list<absl::string_view> ends) {
    Nesting nesting(&depth_);
    if (depth_ > kNestingMax) return Error("the template is nested too deeply");
    Body body;
    while (peek().kind != Token::Kind::kEnd) {
      const Token& token = peek();
      auto statement = std::make_unique<Statement>();
      statement->line = token.line;
      if (token.kind == Token::Kind::kText) {
        statement->kind = Statement::Kind::kText;
        statement->text = Take().text;
        body.push_back(std::move(statement));
        continue;
      }
      if (token.kind == Token::Kind::kOutputBegin) {
        Take();
        statement->kind = Statement::Kind::kOutput;
        GANTRY_ASSIGN_OR_RETURN(statement->expression, ParseTuple());
        if (peek().kind != Token::Kind::kOutputEnd) return Error("expected }}");
        Take();
        body.push_back(std::move(statement));
        continue;
      }
      Take();  // {%
      for (const absl::string_view end : ends) {
        if (IsName(end)) return body;
      }
      GANTRY_RETURN_IF_ERROR(ParseBlock(statement.get()));
      body.push_back(std::move(statement));
    }
    if (ends.size() > 0) return Error(absl::StrCat("expected {% ", *(ends.end() - 1), " %}"));
    return body;
  }

  absl::Status ParseBlock(Statement* statement) {
    using S = Statement::Kind;
    GANTRY_ASSIGN_OR_RETURN(const std::string word, ExpectName());
    if (word == "if") return ParseIf(statement);
    if (word == "for") return ParseFor(statement);
    if (word == "set") return ParseSet(statement);
    if (word == "macro") return ParseMacro(statement);
    if (word == "break" || word == "continue") {
      if (loops_ == 0) return Error(absl::StrCat(word, " stands outside of a loop"));
      statement->kind = word == "break" ? S::kBreak : S::kContinue;
      return ExpectBlockEnd();
    }
    if (word == "generation") {
      statement->kind = S::kScope;
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      return ParseBodyTo("endgeneration", &statement->body);
    }
    if (word == "call") {
      statement->kind = S::kCallBlock;
      if (TakeOperator("(")) GANTRY_RETURN_IF_ERROR(ParseParameters(statement));
      GANTRY_ASSIGN_OR_RETURN(statement->expression, ParseExpression());
      if (statement->expression->kind != Kind::kCall) return Error("expected a call");
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      return ParseBodyTo("endcall", &statement->body);
    }
    if (word == "filter") {
      statement->kind = S::kFilterBlock;
      GANTRY_ASSIGN_OR_RETURN(statement->expression, ParseFilters(Node(Kind::kLiteral), /*first_without_bar=*/true));
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      return ParseBodyTo("endfilter", &statement->body);
    }
    if (word == "with") {
      statement->kind = S::kWith;
      while (peek().kind != Token::Kind::kBlockEnd) {
        if (!statement->parameters.empty()) GANTRY_RETURN_IF_ERROR(Expect(","));
        GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
        GANTRY_RETURN_IF_ERROR(Expect("="));
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
        statement->parameters.emplace_back(std::move(name), std::move(value));
      }
      Take();
      return ParseBodyTo("endwith", &statement->body);
    }
    return absl::InvalidArgumentError(absl::StrCat("template line ", statement->line, ": unknown tag `", word, "`"));
  }

  absl::Status ParseBodyTo(absl::string_view end, Body* body) {
    GANTRY_ASSIGN_OR_RETURN(*body, ParseBody({end}));
    Take();
    return ExpectBlockEnd();
  }

  absl::Status ParseIf(Statement* statement) {
    statement->kind = Statement::Kind::kIf;
    bool more = true;
    while (more) {
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseTuple());
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      GANTRY_ASSIGN_OR_RETURN(Body body, ParseBody({"elif", "else", "endif"}));
      statement->branches.emplace_back(std::move(condition), std::move(body));
      more = TakeName("elif");
    }
    if (TakeName("else")) {
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      GANTRY_ASSIGN_OR_RETURN(Body body, ParseBody({"endif"}));
      statement->branches.emplace_back(nullptr, std::move(body));
    }
    Take();
    return ExpectBlockEnd();
  }

  absl::StatusOr<std::vector<std::string>> ParseTargets() {
    std::vector<std::string> targets;
    const bool parenthesised = TakeOperator("(");
    do {
      GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
      targets.push_back(std::move(name));
    } while (TakeOperator(","));
    if (parenthesised) GANTRY_RETURN_IF_ERROR(Expect(")"));
    return targets;
  }

  absl::Status ParseFor(Statement* statement) {
    statement->kind = Statement::Kind::kFor;
    GANTRY_ASSIGN_OR_RETURN(statement->targets, ParseTargets());
    if (!TakeName("in")) return Error("expected `in`");
    // Without the conditional: `for x in xs if cond` filters.
    GANTRY_ASSIGN_OR_RETURN(statement->expression, ParseTuple(/*conditional=*/false));
    if (TakeName("if")) {
      GANTRY_ASSIGN_OR_RETURN(statement->filter, ParseExpression());
    }
    if (IsName("recursive")) return Error("recursive loops are not supported");
    GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
    ++loops_;
    absl::StatusOr<Body> body = ParseBody({"else", "endfor"});
    --loops_;
    if (!body.ok()) return body.status();
    statement->body = std::move(*body);
    if (TakeName("else")) {
      GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
      GANTRY_ASSIGN_OR_RETURN(statement->other, ParseBody({"endfor"}));
    }
    Take();
    return ExpectBlockEnd();
  }

  absl::Status ParseSet(Statement* statement) {
    statement->kind = Statement::Kind::kSet;
    GANTRY_ASSIGN_OR_RETURN(statement->targets, ParseTargets());
    if (statement->targets.size() == 1 && TakeOperator(".")) {
      GANTRY_ASSIGN_OR_RETURN(statement->attribute, ExpectName());
    }
    if (TakeOperator("=")) {
      GANTRY_ASSIGN_OR_RETURN(statement->expression, ParseTuple());
      return ExpectBlockEnd();
    }
    if (IsOperator("|")) {
      GANTRY_ASSIGN_OR_RETURN(statement->filter, ParseFilters(Node(Kind::kLiteral), false));
    }
    GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
    return ParseBodyTo("endset", &statement->body);
  }

  absl::Status ParseMacro(Statement* statement) {
    statement->kind = Statement::Kind::kMacro;
    GANTRY_ASSIGN_OR_RETURN(statement->name, ExpectName());
    GANTRY_RETURN_IF_ERROR(Expect("("));
    GANTRY_RETURN_IF_ERROR(ParseParameters(statement));
    GANTRY_RETURN_IF_ERROR(ExpectBlockEnd());
    const int outer_loops = loops_;
    loops_ = 0;
    const absl::Status status = ParseBodyTo("endmacro", &statement->body);
    loops_ = outer_loops;
    return status;
  }

  absl::Status ParseParameters(Statement* statement) {
    while (!IsOperator(")")) {
      if (!statement->parameters.empty()) GANTRY_RETURN_IF_ERROR(Expect(","));
      GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
      ExpressionPtr fallback;
      if (TakeOperator("=")) {
        GANTRY_ASSIGN_OR_RETURN(fallback, ParseExpression());
      }
      statement->parameters.emplace_back(std::move(name), std::move(fallback));
    }
    return Expect(")");
  }

  // ---- expressions, loosest first ----

  absl::StatusOr<ExpressionPtr> ParseTuple(bool conditional = true) {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr first, conditional ? ParseExpression() : ParseOr());
    if (!IsOperator(",")) return first;
    ExpressionPtr tuple = Node(Kind::kTuple, "", std::move(first));
    while (TakeOperator(",")) {
      if (IsOperator(")") || peek().kind == Token::Kind::kBlockEnd || peek().kind == Token::Kind::kOutputEnd) break;
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr next, conditional ? ParseExpression() : ParseOr());
      tuple->children.push_back(std::move(next));
    }
    return tuple;
  }

  absl::StatusOr<ExpressionPtr> ParseExpression() {
    Nesting nesting(&depth_);
    if (depth_ > kNestingMax) return Error("the expression is nested too deeply");
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
    while (TakeName("if")) {
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
      ExpressionPtr otherwise;
      if (TakeName("else")) {
        GANTRY_ASSIGN_OR_RETURN(otherwise, ParseExpression());
      }
      value = Node(Kind::kConditional, "", std::move(value), std::move(condition), std::move(otherwise));
    }
    return value;
  }

  absl::StatusOr<ExpressionPtr> ParseOr() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
    while (TakeName("or")) {
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
      left = Node(Kind::kBinary, "or", std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseAnd() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
    while (TakeName("and")) {
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
      left = Node(Kind::kBinary, "and", std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseNot() {
    Nesting nesting(&depth_);
    if (depth_ > kNestingMax) return Error("the expression is nested too deeply");
    if (IsName("not") && !(peek(1).kind == Token::Kind::kName && peek(1).text == "in")) {
      Take();
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseNot());
      return Node(Kind::kNot, "", std::move(value));
    }
    return ParseCompare();
  }

  absl::StatusOr<ExpressionPtr> ParseCompare() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseSum());
    ExpressionPtr chain;
    while (true) {
      std::string op;
      for (const absl::string_view candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (TakeOperator(candidate)) {
          op = std::string(candidate);
          break;
        }
      }
      if (op.empty() && TakeName("in")) op = "in";
      if (op.empty() && IsName("not") && peek(1).kind == Token::Kind::kName && peek(1).text == "in") {
        Take();
        Take();
        op = "not in";
      }
      if (op.empty()) break;
      if (chain == nullptr) chain = Node(Kind::kCompare, "", std::move(left));
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseSum());
      chain->operators.push_back(std::move(op));
      chain->children.push_back(std::move(right));
    }
    if (chain != nullptr) return chain;
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseSum() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseConcatenation());
    while (IsOperator("+") || IsOperator("-")) {
      std::string op = Take().text;
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseConcatenation());
      left = Node(Kind::kBinary, std::move(op), std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseConcatenation() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseProduct());
    while (TakeOperator("~")) {
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseProduct());
      left = Node(Kind::kBinary, "~", std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseProduct() {
    GANTRY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseUnary(/*filters=*/true));
    while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
      std::string op = Take().text;
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseUnary(true));
      left = Node(Kind::kBinary, std::move(op), std::move(left), std::move(right));
    }
    return left;
  }

  absl::StatusOr<ExpressionPtr> ParseUnary(bool filters) {
    Nesting nesting(&depth_);
    if (depth_ > kNestingMax) return Error("the expression is nested too deeply");
    ExpressionPtr value;
    if (TakeOperator("-")) {
      GANTRY_ASSIGN_OR_RETURN(value, ParseUnary(false));
      value = Node(Kind::kNegate, "", std::move(value));
    } else if (TakeOperator("+")) {
      GANTRY_ASSIGN_OR_RETURN(value, ParseUnary(false));
      value = Node(Kind::kPositive, "", std::move(value));
    } else {
      GANTRY_ASSIGN_OR_RETURN(value, ParsePrimary());
      GANTRY_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
      if (TakeOperator("**")) {
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr power, ParseUnary(false));
        value = Node(Kind::kBinary, "**", std::move(value), std::move(power));
      }
    }
    if (filters) return ParseFilters(std::move(value), false);
    return value;
  }

  absl::StatusOr<ExpressionPtr> ParsePrimary() {
    const Token token = peek();
    switch (token.kind) {
      case Token::Kind::kString: {
        std::string text;
        while (peek().kind == Token::Kind::kString) text += Take().text;  // neighbours are one string
        return Literal(Value::String(text, /*trusted=*/true));
      }
      case Token::Kind::kInteger: {
        int64_t value = 0;
        if (!absl::SimpleAtoi(token.text, &value)) return Error("the number is out of range");
        Take();
        return Literal(Value::Int(value));
      }
      case Token::Kind::kFloat: {
        double value = 0;
        if (!absl::SimpleAtod(token.text, &value)) return Error("the number is malformed");
        Take();
        return Literal(Value::Float(value));
      }
      case Token::Kind::kName: {
        Take();
        if (token.text == "true" || token.text == "True") return Literal(Value::Bool(true));
        if (token.text == "false" || token.text == "False") return Literal(Value::Bool(false));
        if (token.text == "none" || token.text == "None") return Literal(Value::None());
        return Node(Kind::kName, token.text);
      }
      default:
        break;
    }
    if (TakeOperator("(")) {
      if (TakeOperator(")")) return Node(Kind::kTuple);
      GANTRY_ASSIGN_OR_RETURN(ExpressionPtr inner, ParseTuple());
      GANTRY_RETURN_IF_ERROR(Expect(")"));
      return inner;
    }
    if (TakeOperator("[")) {
      ExpressionPtr list = Node(Kind::kList);
      while (!IsOperator("]")) {
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
        list->children.push_back(std::move(item));
        if (!TakeOperator(",")) break;
      }
      GANTRY_RETURN_IF_ERROR(Expect("]"));
      return list;
    }
    if (TakeOperator("{")) {
      ExpressionPtr dict = Node(Kind::kDict);
      while (!IsOperator("}")) {
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
        GANTRY_RETURN_IF_ERROR(Expect(":"));
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
        dict->children.push_back(std::move(key));
        dict->children.push_back(std::move(item));
        if (!TakeOperator(",")) break;
      }
      GANTRY_RETURN_IF_ERROR(Expect("}"));
      return dict;
    }
    return Error("expected an expression");
  }

  ExpressionPtr Literal(Value value) const {
    ExpressionPtr node = Node(Kind::kLiteral);
    node->value = std::move(value);
    return node;
  }

  absl::StatusOr<ExpressionPtr> ParsePostfix(ExpressionPtr value) {
    while (true) {
      if (TakeOperator(".")) {
        if (peek().kind == Token::Kind::kInteger) {
          ExpressionPtr index = Literal(Value::Int(0));
          if (!absl::SimpleAtoi(peek().text, &tmp_)) return Error("the index is out of range");
          index->value = Value::Int(tmp_);
          Take();
          value = Node(Kind::kItem, "", std::move(value), std::move(index));
          continue;
        }
        GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
        value = Node(Kind::kAttribute, std::move(name), std::move(value));
      } else if (TakeOperator("[")) {
        GANTRY_ASSIGN_OR_RETURN(value, ParseSubscript(std::move(value)));
      } else if (TakeOperator("(")) {
        ExpressionPtr call = Node(Kind::kCall, "", std::move(value));
        GANTRY_RETURN_IF_ERROR(ParseArguments(call.get()));
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> ParseSubscript(ExpressionPtr value) {
    ExpressionPtr parts[3];
    int colons = 0;
    while (!IsOperator("]")) {
      if (TakeOperator(":")) {
        if (++colons > 2) return Error("a slice has at most three parts");
        continue;
      }
      if (parts[colons] != nullptr) return Error("expected `]`");
      GANTRY_ASSIGN_OR_RETURN(parts[colons], ParseTuple());
    }
    Take();
    if (colons == 0) {
      if (parts[0] == nullptr) return Error("expected an index");
      return Node(Kind::kItem, "", std::move(value), std::move(parts[0]));
    }
    return Node(Kind::kSlice, "", std::move(value), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  }

  // After `(`, up to and including `)`.
  absl::Status ParseArguments(Expression* call) {
    while (!IsOperator(")")) {
      if (peek().kind == Token::Kind::kName && peek(1).kind == Token::Kind::kOperator && peek(1).text == "=") {
        std::string name = Take().text;
        Take();
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
        call->named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call->named.empty()) return Error("a positional argument follows a named one");
        GANTRY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
        call->children.push_back(std::move(value));
      }
      if (!TakeOperator(",")) break;
    }
    return Expect(")");
  }

  // Filters and tests bind tighter than arithmetic and looser than attributes.
  absl::StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr value, bool first_without_bar) {
    while (true) {
      if (first_without_bar || TakeOperator("|")) {
        first_without_bar = false;
        GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
        ExpressionPtr filter = Node(Kind::kFilter, std::move(name), std::move(value));
        if (TakeOperator("(")) GANTRY_RETURN_IF_ERROR(ParseArguments(filter.get()));
        value = std::move(filter);
        continue;
      }
      if (TakeName("is")) {
        const bool negated = TakeName("not");
        GANTRY_ASSIGN_OR_RETURN(std::string name, ExpectName());
        ExpressionPtr test = Node(Kind::kTest, std::move(name), std::move(value));
        test->negated = negated;
        if (TakeOperator("(")) {
          GANTRY_RETURN_IF_ERROR(ParseArguments(test.get()));
        } else if (StartsTestArgument()) {
          GANTRY_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
          GANTRY_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
          test->children.push_back(std::move(argument));
        }
        value = std::move(test);
        continue;
      }
      // A filter's result may be called or subscripted only in parentheses, as in jinja2.
      return value;
    }
  }

  // `x is divisibleby 3`: one argument without parentheses.
  bool StartsTestArgument() const {
    const Token& token = peek();
    if (token.kind == Token::Kind::kString || token.kind == Token::Kind::kInteger || token.kind == Token::Kind::kFloat)
      return true;
    if (token.kind == Token::Kind::kOperator) return token.text == "[" || token.text == "{";
    if (token.kind != Token::Kind::kName) return false;
    for (const absl::string_view word : {"and", "or", "else", "if", "in", "is", "not", "recursive"}) {
      if (token.text == word) return false;
    }
    return true;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  int64_t tmp_ = 0;
};

}  // namespace

absl::StatusOr<Body> Parse(absl::string_view source) {
  GANTRY_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace gantry::engine::text::jinja
