#include "engine/text/jinja/interpreter.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::engine::text::jinja {
namespace {

using K = Value::Kind;
using E = Expression::Kind;

enum class Flow { kNormal, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(const Dict& context, const Limits& limits) : limits_(limits) {
    Dict globals;
    AddGlobals(limits, &globals);
    Push();
    for (const Dict* values : {static_cast<const Dict*>(&globals), &context}) {
      for (const auto& [name, value] : *values) (*scopes_.back())[name.bytes()] = value;
    }
    Push();
  }

  absl::StatusOr<Text> Run(const Body& body) {
    GANTRY_RETURN_IF_ERROR(RunBody(body).status());
    return std::move(output_);
  }

 private:
  using Scope = absl::flat_hash_map<std::string, Value>;

  void Push() { scopes_.push_back(std::make_shared<Scope>()); }
  void Pop() { scopes_.pop_back(); }

  Value Lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = (*scope)->find(name);
      if (found != (*scope)->end()) return found->second;
    }
    return Value::Undefined(name);
  }

  absl::Status Step() {
    if (++steps_ > limits_.steps)
      return absl::ResourceExhaustedError(absl::StrCat("the template takes more than ", limits_.steps, " steps"));
    return absl::OkStatus();
  }

  // Adds the line to messages of the language; what raise_exception says is the template author's own and stays as it
  // is.
  static absl::Status At(int line, const absl::Status& status) {
    if (status.ok() || status.GetPayload(kPlaced).has_value()) return status;
    absl::Status placed(status.code(), absl::StrCat("template line ", line, ": ", status.message()));
    placed.SetPayload(kPlaced, absl::Cord());
    return placed;
  }
  static absl::Status Raised(const absl::Status& status) {
    absl::Status raised = status;
    raised.SetPayload(kPlaced, absl::Cord());
    return raised;
  }

  absl::Status Emit(const Text& text) {
    output_.Append(text);
    if (output_.size() > limits_.text_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("the template writes more than ", limits_.text_bytes, " bytes"));
    }
    return absl::OkStatus();
  }

  // ---- statements ----

  absl::StatusOr<Flow> RunBody(const Body& body) {
    for (const auto& statement : body) {
      absl::StatusOr<Flow> flow = RunStatement(*statement);
      if (!flow.ok()) return At(statement->line, flow.status());
      if (*flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  absl::StatusOr<Flow> RunStatement(const Statement& statement) {
    using S = Statement::Kind;
    GANTRY_RETURN_IF_ERROR(Step());
    switch (statement.kind) {
      case S::kText:
        GANTRY_RETURN_IF_ERROR(Emit(Text(statement.text, /*trusted=*/true)));
        return Flow::kNormal;
      case S::kOutput: {
        GANTRY_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
        GANTRY_RETURN_IF_ERROR(Emit(value.Str()));
        return Flow::kNormal;
      }
      case S::kIf:
        for (const auto& [condition, body] : statement.branches) {
          bool holds = true;
          if (condition != nullptr) {
            GANTRY_ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
            holds = value.Truthy();
          }
          if (holds) return RunBody(body);
        }
        return Flow::kNormal;
      case S::kFor:
        return RunFor(statement);
      case S::kSet:
        GANTRY_RETURN_IF_ERROR(RunSet(statement));
        return Flow::kNormal;
      case S::kMacro:
        (*scopes_.back())[statement.name] = Macro(statement, Value());
        return Flow::kNormal;
      case S::kCallBlock: {
        GANTRY_ASSIGN_OR_RETURN(const Value result, Call(*statement.expression, Macro(statement, Value())));
        GANTRY_RETURN_IF_ERROR(Emit(result.Str()));
        return Flow::kNormal;
      }
      case S::kFilterBlock: {
        GANTRY_ASSIGN_OR_RETURN(Text text, Captured(statement.body));
        GANTRY_ASSIGN_OR_RETURN(const Value result, FilterChain(*statement.expression, Value::String(std::move(text))));
        GANTRY_RETURN_IF_ERROR(Emit(result.Str()));
        return Flow::kNormal;
      }
      case S::kWith: {
        auto scope = std::make_shared<Scope>();
        for (const auto& [name, expression] : statement.parameters) {
          GANTRY_ASSIGN_OR_RETURN((*scope)[name], Evaluate(*expression));
        }
        scopes_.push_back(std::move(scope));
        absl::StatusOr<Flow> flow = RunBody(statement.body);
        Pop();
        return flow;
      }
      case S::kScope:
        return RunBody(statement.body);
      case S::kBreak:
        return Flow::kBreak;
      case S::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  absl::StatusOr<Text> Captured(const Body& body) {
    Text outer;
    std::swap(outer, output_);
    Push();
    const absl::StatusOr<Flow> flow = RunBody(body);
    Pop();
    std::swap(outer, output_);
    GANTRY_RETURN_IF_ERROR(flow.status());
    return outer;
  }

  absl::Status Bind(const std::vector<std::string>& targets, const Value& value, Scope* scope) {
    if (targets.size() == 1) {
      (*scope)[targets[0]] = value;
      return absl::OkStatus();
    }
    GANTRY_ASSIGN_OR_RETURN(const List parts, Iterate(value));
    if (parts.size() != targets.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected ", targets.size(), " values to unpack, found ", parts.size()));
    }
    for (size_t i = 0; i < targets.size(); ++i) (*scope)[targets[i]] = parts[i];
    return absl::OkStatus();
  }

  absl::Status RunSet(const Statement& statement) {
    Value value;
    if (statement.expression != nullptr) {
      GANTRY_ASSIGN_OR_RETURN(value, Evaluate(*statement.expression));
    } else {
      GANTRY_ASSIGN_OR_RETURN(Text text, Captured(statement.body));
      value = Value::String(std::move(text));
      if (statement.filter != nullptr) {
        GANTRY_ASSIGN_OR_RETURN(value, FilterChain(*statement.filter, value));
      }
    }
    if (statement.attribute.empty()) return Bind(statement.targets, value, scopes_.back().get());
    const Value target = Lookup(statement.targets[0]);
    if (!target.is(K::kNamespace)) return absl::InvalidArgumentError("cannot assign attribute on non-namespace object");
    for (auto& [key, old] : target.mutable_namespace()) {
      if (key.bytes() == statement.attribute) {
        old = value;
        return absl::OkStatus();
      }
    }
    target.mutable_namespace().emplace_back(Value::String(statement.attribute, true), value);
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> RunFor(const Statement& statement) {
    GANTRY_ASSIGN_OR_RETURN(const Value iterated, Evaluate(*statement.expression));
    GANTRY_ASSIGN_OR_RETURN(List items, Iterate(iterated));
    if (statement.filter != nullptr) {
      List kept;
      for (const Value& item : items) {
        Push();
        absl::Status status = Bind(statement.targets, item, scopes_.back().get());
        absl::StatusOr<Value> holds = status.ok() ? Evaluate(*statement.filter) : absl::StatusOr<Value>(status);
        Pop();
        if (!holds.ok()) return holds.status();
        if (holds->Truthy()) kept.push_back(item);
      }
      items = std::move(kept);
    }
    if (items.empty()) return RunBody(statement.other);
    const auto count = static_cast<int64_t>(items.size());
    Value last_changed;
    for (int64_t i = 0; i < count; ++i) {
      GANTRY_RETURN_IF_ERROR(Step());
      Push();
      Scope& scope = *scopes_.back();
      const auto number = [](const char* name, int64_t value) {
        return std::make_pair(Value::String(name, true), Value::Int(value));
      };
      Dict loop = {number("index", i + 1),
                   number("index0", i),
                   number("revindex", count - i),
                   number("revindex0", count - i - 1),
                   number("length", count),
                   number("depth", 1),
                   number("depth0", 0)};
      loop.emplace_back(Value::String("first", true), Value::Bool(i == 0));
      loop.emplace_back(Value::String("last", true), Value::Bool(i + 1 == count));
      if (i > 0) loop.emplace_back(Value::String("previtem", true), items[i - 1]);
      if (i + 1 < count) loop.emplace_back(Value::String("nextitem", true), items[i + 1]);
      loop.emplace_back(Value::String("cycle", true), Value::Function([i](const Arguments& a) -> absl::StatusOr<Value> {
                          if (a.positional.empty()) return absl::InvalidArgumentError("no items for cycling given");
                          return a.positional[static_cast<size_t>(i) % a.positional.size()];
                        }));
      loop.emplace_back(Value::String("changed", true),
                        Value::Function([&last_changed](const Arguments& a) -> absl::StatusOr<Value> {
                          const Value now = Value::MakeTuple(a.positional);
                          const bool changed = last_changed.is(K::kUndefined) || !now.Equals(last_changed);
                          last_changed = now;
                          return Value::Bool(changed);
                        }));
      scope["loop"] = Value::MakeNamespace(std::move(loop));
      absl::Status bound = Bind(statement.targets, items[i], &scope);
      absl::StatusOr<Flow> flow = bound.ok() ? RunBody(statement.body) : absl::StatusOr<Flow>(bound);
      Pop();
      if (!flow.ok()) return flow;
      if (*flow == Flow::kBreak) break;
    }
    return Flow::kNormal;
  }

  // A macro sees globals, the template's own top level and its parameters.
  Value Macro(const Statement& statement, const Value&) {
    return Value::Function([this, &statement](const Arguments& arguments) -> absl::StatusOr<Value> {
      if (depth_ >= limits_.depth) return absl::ResourceExhaustedError("macros call each other too deeply");
      auto scope = std::make_shared<Scope>();
      if (arguments.positional.size() > statement.parameters.size()) {
        return absl::InvalidArgumentError(absl::StrCat("macro '", statement.name, "' takes not more than ",
                                                       statement.parameters.size(), " argument(s)"));
      }
      for (const auto& [name, value] : arguments.named) {
        const bool known =
            name == "caller" || std::any_of(statement.parameters.begin(), statement.parameters.end(),
                                            [&n = name](const auto& parameter) { return parameter.first == n; });
        if (!known)
          return absl::InvalidArgumentError(
              absl::StrCat("macro '", statement.name, "' takes no keyword argument '", name, "'"));
        (*scope)[name] = value;
      }
      std::vector<std::shared_ptr<Scope>> outer = scopes_;
      scopes_.resize(2);
      scopes_.push_back(scope);
      ++depth_;
      absl::StatusOr<Text> text = [&]() -> absl::StatusOr<Text> {
        for (size_t i = 0; i < statement.parameters.size(); ++i) {
          const auto& [name, fallback] = statement.parameters[i];
          if (i < arguments.positional.size()) {
            (*scope)[name] = arguments.positional[i];
          } else if (!scope->contains(name)) {
            if (fallback != nullptr) {
              GANTRY_ASSIGN_OR_RETURN((*scope)[name], Evaluate(*fallback));
            } else {
              (*scope)[name] = Value::Undefined(name);
            }
          }
        }
        return Captured(statement.body);
      }();
      --depth_;
      scopes_ = std::move(outer);
      GANTRY_RETURN_IF_ERROR(text.status());
      return Value::String(std::move(*text));
    });
  }

  // ---- expressions ----

  absl::StatusOr<Value> Evaluate(const Expression& expression) {
    GANTRY_RETURN_IF_ERROR(Step());
    absl::StatusOr<Value> value = EvaluateKind(expression);
    if (!value.ok()) return At(expression.line, value.status());
    if (value->is(K::kString) && value->text().size() > limits_.text_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("template line ", expression.line, ": a text of more than ", limits_.text_bytes, " bytes"));
    }
    return value;
  }

  absl::StatusOr<List> EvaluateAll(const std::vector<ExpressionPtr>& expressions, size_t from) {
    List values;
    for (size_t i = from; i < expressions.size(); ++i) {
      GANTRY_ASSIGN_OR_RETURN(Value value, Evaluate(*expressions[i]));
      values.push_back(std::move(value));
    }
    return values;
  }

  absl::StatusOr<Arguments> EvaluateArguments(const Expression& expression) {
    Arguments arguments;
    GANTRY_ASSIGN_OR_RETURN(arguments.positional, EvaluateAll(expression.children, 1));
    for (const auto& [name, child] : expression.named) {
      GANTRY_ASSIGN_OR_RETURN(Value value, Evaluate(*child));
      arguments.named.emplace_back(name, std::move(value));
    }
    return arguments;
  }

  absl::StatusOr<Value> Call(const Expression& expression, const Value& caller) {
    GANTRY_ASSIGN_OR_RETURN(const Value callee, Evaluate(*expression.children[0]));
    GANTRY_ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expression));
    if (!caller.is(K::kUndefined)) arguments.named.emplace_back("caller", caller);
    if (callee.is(K::kUndefined))
      return absl::InvalidArgumentError(absl::StrCat("'", callee.undefined_name(), "' is undefined"));
    if (!callee.is(K::kCallable))
      return absl::InvalidArgumentError(absl::StrCat("'", callee.TypeName(), "' object is not callable"));
    absl::StatusOr<Value> result = callee.callable()(arguments);
    const Expression& target = *expression.children[0];
    if (!result.ok() && target.kind == E::kName && target.name == "raise_exception") return Raised(result.status());
    return result;
  }

  // The filters of a filter block or set block, applied to `value` in place of the chain's innermost literal.
  absl::StatusOr<Value> FilterChain(const Expression& expression, const Value& value) {
    if (expression.kind != E::kFilter) return value;
    GANTRY_ASSIGN_OR_RETURN(const Value inner, FilterChain(*expression.children[0], value));
    GANTRY_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression));
    return ApplyFilter(expression.name, inner, arguments, limits_);
  }

  absl::StatusOr<Value> EvaluateKind(const Expression& expression) {
    const auto child = [&](size_t i) -> absl::StatusOr<Value> {
      if (expression.children[i] == nullptr) return Value();
      return Evaluate(*expression.children[i]);
    };
    switch (expression.kind) {
      case E::kLiteral:
        return expression.value;
      case E::kName:
        return Lookup(expression.name);
      case E::kList: {
        GANTRY_ASSIGN_OR_RETURN(List items, EvaluateAll(expression.children, 0));
        return Value::MakeList(std::move(items));
      }
      case E::kTuple: {
        GANTRY_ASSIGN_OR_RETURN(List items, EvaluateAll(expression.children, 0));
        return Value::MakeTuple(std::move(items));
      }
      case E::kDict: {
        Dict items;
        for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
          GANTRY_ASSIGN_OR_RETURN(Value key, child(i));
          GANTRY_ASSIGN_OR_RETURN(Value value, child(i + 1));
          const auto same =
              std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first.Equals(key); });
          if (same != items.end()) {
            same->second = std::move(value);
          } else {
            items.emplace_back(std::move(key), std::move(value));
          }
        }
        return Value::MakeDict(std::move(items));
      }
      case E::kAttribute: {
        GANTRY_ASSIGN_OR_RETURN(const Value object, child(0));
        return GetAttribute(object, expression.name, limits_);
      }
      case E::kItem: {
        GANTRY_ASSIGN_OR_RETURN(const Value object, child(0));
        GANTRY_ASSIGN_OR_RETURN(const Value key, child(1));
        GANTRY_ASSIGN_OR_RETURN(const Value item, GetItem(object, key));
        if (!item.is(K::kUndefined) || !key.is(K::kString)) return item;
        const Value method = FindMethod(object, key.bytes(), limits_);
        return method.is(K::kUndefined) ? item : method;
      }
      case E::kSlice: {
        GANTRY_ASSIGN_OR_RETURN(const Value object, child(0));
        GANTRY_ASSIGN_OR_RETURN(const Value begin, child(1));
        GANTRY_ASSIGN_OR_RETURN(const Value end, child(2));
        GANTRY_ASSIGN_OR_RETURN(const Value step, child(3));
        return Slice(object, begin, end, step);
      }
      case E::kCall:
        return Call(expression, Value());
      case E::kFilter: {
        GANTRY_ASSIGN_OR_RETURN(const Value value, child(0));
        GANTRY_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression));
        return ApplyFilter(expression.name, value, arguments, limits_);
      }
      case E::kTest: {
        GANTRY_ASSIGN_OR_RETURN(const Value value, child(0));
        GANTRY_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression));
        GANTRY_ASSIGN_OR_RETURN(const bool holds, ApplyTest(expression.name, value, arguments));
        return Value::Bool(holds != expression.negated);
      }
      case E::kNot: {
        GANTRY_ASSIGN_OR_RETURN(const Value value, child(0));
        return Value::Bool(!value.Truthy());
      }
      case E::kNegate:
      case E::kPositive: {
        GANTRY_ASSIGN_OR_RETURN(const Value value, child(0));
        if (!value.is_number())
          return absl::InvalidArgumentError(absl::StrCat("bad operand type for unary -: '", value.TypeName(), "'"));
        return Arithmetic(expression.kind == E::kNegate ? "-" : "+", Value::Int(0), value, limits_);
      }
      case E::kBinary: {
        GANTRY_ASSIGN_OR_RETURN(const Value left, child(0));
        if (expression.name == "and" && !left.Truthy()) return left;
        if (expression.name == "or" && left.Truthy()) return left;
        GANTRY_ASSIGN_OR_RETURN(const Value right, child(1));
        if (expression.name == "and" || expression.name == "or") return right;
        return Arithmetic(expression.name, left, right, limits_);
      }
      case E::kCompare: {
        GANTRY_ASSIGN_OR_RETURN(Value left, child(0));
        for (size_t i = 0; i < expression.operators.size(); ++i) {
          GANTRY_ASSIGN_OR_RETURN(Value right, child(i + 1));
          GANTRY_ASSIGN_OR_RETURN(const bool holds, Compare(expression.operators[i], left, right));
          if (!holds) return Value::Bool(false);
          left = std::move(right);
        }
        return Value::Bool(true);
      }
      case E::kConditional: {
        GANTRY_ASSIGN_OR_RETURN(const Value condition, child(1));
        if (condition.Truthy()) return child(0);
        return child(2);
      }
    }
    return Value();
  }

  static absl::StatusOr<bool> Compare(const std::string& op, const Value& left, const Value& right) {
    if (op == "==") return left.Equals(right);
    if (op == "!=") return !left.Equals(right);
    if (op == "in") return Contains(right, left);
    if (op == "not in") {
      GANTRY_ASSIGN_OR_RETURN(const bool contained, Contains(right, left));
      return !contained;
    }
    if (op == "<") return left.Less(right);
    if (op == ">") return right.Less(left);
    // a <= b is a < b or a == b, which differs from not b < a for NaN.
    GANTRY_ASSIGN_OR_RETURN(const bool less, op == "<=" ? left.Less(right) : right.Less(left));
    return less || left.Equals(right);
  }

  static constexpr char kPlaced[] = "gantry/template-line";

  const Limits limits_;
  std::vector<std::shared_ptr<Scope>> scopes_;  // globals and context, top level, then inner ones
  Text output_;
  int64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<Text> Render(const Body& body, const Dict& context, const Limits& limits) {
  return Interpreter(context, limits).Run(body);
}

}  // namespace gantry::engine::text::jinja
