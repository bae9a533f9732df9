// A parsed template. Plain data, immutable after parsing.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace gantry::engine::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // name
    kList,         // children
    kTuple,        // children
    kDict,         // children: key, value, key, value, ...
    kAttribute,    // children[0] . name
    kItem,         // children[0] [ children[1] ]
    kSlice,        // children[0] [ children[1] : children[2] : children[3] ], null where left out
    kCall,         // children[0] ( children[1...] , named... )
    kFilter,       // children[0] | name ( children[1...] , named... )
    kTest,         // children[0] is name ( children[1...] ); negated: is not
    kNot,          // not children[0]
    kNegate,       // - children[0]
    kPositive,     // + children[0]
    kBinary,       // children[0] name children[1]: + - * / // % ** ~ and or
    kCompare,      // children[0] operators[0] children[1] operators[1] ...: == != < <= > >= in, not in
    kConditional,  // children[0] if children[1] else children[2] (null: undefined)
  };
  Kind kind;
  int line = 0;
  std::string name;
  Value value;
  bool negated = false;
  std::vector<ExpressionPtr> children;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    kText,         // text
    kOutput,       // expression
    kIf,           // branches (condition null: else)
    kFor,          // targets in expression, filter; body, other (nothing iterated)
    kSet,          // targets or attribute target = expression; without expression: the rendered body, through filters
    kMacro,        // name, parameters, body
    kCallBlock,    // expression is a call; body is its caller()
    kFilterBlock,  // expression is a filter chain over the rendered body
    kWith,         // assignments in parameters; body
    kScope,        // body only (generation blocks)
    kBreak,
    kContinue,
  };
  Kind kind;
  int line = 0;
  std::string text, name;
  ExpressionPtr expression, filter;
  std::vector<std::string> targets;
  std::string attribute;  // `set ns.attribute`
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default may be null
  Body body, other;
};

}  // namespace gantry::engine::text::jinja
