// Values of the template language, with the semantics of the Python objects that jinja2 works on.
//
// Strings carry provenance byte by byte: whether the template wrote it (trusted) or data did (messages, tools,
// arguments). Every operation keeps it; what depends on several bytes at once is untrusted as soon as one of them is.
// Values share their contents; lists and dicts are never changed after making, except a namespace and the loop that
// builds one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine::text::jinja {

// Text with a mark per byte: 1 = the template's own.
class Text {
 public:
  Text() = default;
  Text(absl::string_view bytes, bool trusted) : bytes_(bytes), marks_(bytes.size(), trusted ? 1 : 0) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool trusted(size_t i) const { return marks_[i] != 0; }
  bool all_trusted() const { return marks_.find('\0') == std::string::npos; }

  Text Substring(size_t begin, size_t end) const;
  void Append(const Text& other);
  void Append(absl::string_view bytes, bool trusted);

 private:
  std::string bytes_;
  std::string marks_;
};

class Value;
using List = std::vector<Value>;
using Dict = std::vector<std::pair<Value, Value>>;  // insertion order; keys unique

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};
using Callable = std::function<absl::StatusOr<Value>(const Arguments&)>;

class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kTuple, kDict, kNamespace, kCallable };

  Value() = default;  // undefined
  static Value Undefined(const std::string& name);
  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(Text text);
  static Value String(absl::string_view bytes, bool trusted) { return String(Text(bytes, trusted)); }
  static Value MakeList(List items);
  static Value MakeTuple(List items);
  static Value MakeDict(Dict items);
  static Value MakeNamespace(Dict items);
  static Value Function(Callable callable);
  // Every string in it is untrusted.
  static Value FromJson(const nlohmann::ordered_json& json);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return kind_ == Kind::kBool || kind_ == Kind::kInt || kind_ == Kind::kFloat; }
  bool is_integer() const { return kind_ == Kind::kBool || kind_ == Kind::kInt; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  bool is_mapping() const { return kind_ == Kind::kDict || kind_ == Kind::kNamespace; }

  int64_t as_int() const { return int_; }
  double as_double() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const Text& text() const { return *text_; }
  const std::string& bytes() const { return text_->bytes(); }
  const List& list() const { return *list_; }
  const Dict& dict() const { return *dict_; }
  Dict& mutable_namespace() const { return *dict_; }
  const Callable& callable() const { return *callable_; }
  const std::string& undefined_name() const;

  bool Truthy() const;
  // Python's ==; numbers of different types compare by value.
  bool Equals(const Value& other) const;
  // Python's <; INVALID_ARGUMENT for types that do not compare.
  absl::StatusOr<bool> Less(const Value& other) const;
  const Value* FindKey(const Value& key) const;  // of a mapping
  const Value* FindKey(absl::string_view key) const;

  const char* TypeName() const;  // as Python's type(x).__name__
  Text Str() const;              // str(x); '' for undefined
  Text Repr() const;             // repr(x)

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::kUndefined;
  int64_t int_ = 0;
  double float_ = 0;
  std::shared_ptr<const Text> text_;  // also an undefined value's name
  std::shared_ptr<const List> list_;
  std::shared_ptr<Dict> dict_;
  std::shared_ptr<const Callable> callable_;
};

// json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort_keys); indent < 0: one line.
struct DumpOptions {
  int indent = -1;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
absl::StatusOr<Text> DumpJson(const Value& value, const DumpOptions& options);

// Python's repr of a float: shortest text that reads back, "1.0", "1e-07", "1e+16".
std::string FloatRepr(double value);

}  // namespace gantry::engine::text::jinja
