#include "engine/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text::jinja {

Text Text::Substring(size_t begin, size_t end) const {
  Text result;
  result.bytes_ = bytes_.substr(begin, end - begin);
  result.marks_ = marks_.substr(begin, end - begin);
  return result;
}

void Text::Append(const Text& other) {
  bytes_ += other.bytes_;
  marks_ += other.marks_;
}

void Text::Append(absl::string_view bytes, bool trusted) {
  bytes_.append(bytes.data(), bytes.size());
  marks_.append(bytes.size(), trusted ? 1 : 0);
}

Value Value::Undefined(const std::string& name) {
  Value value;
  value.text_ = std::make_shared<Text>(name, true);
  return value;
}
Value Value::None() {
  return Value(Kind::kNone);
}
Value Value::Bool(bool b) {
  Value value(Kind::kBool);
  value.int_ = b ? 1 : 0;
  return value;
}
Value Value::Int(int64_t i) {
  Value value(Kind::kInt);
  value.int_ = i;
  return value;
}
Value Value::Float(double f) {
  Value value(Kind::kFloat);
  value.float_ = f;
  return value;
}
Value Value::String(Text text) {
  Value value(Kind::kString);
  value.text_ = std::make_shared<Text>(std::move(text));
  return value;
}
Value Value::MakeList(List items) {
  Value value(Kind::kList);
  value.list_ = std::make_shared<List>(std::move(items));
  return value;
}
Value Value::MakeTuple(List items) {
  Value value = MakeList(std::move(items));
  value.kind_ = Kind::kTuple;
  return value;
}
Value Value::MakeDict(Dict items) {
  Value value(Kind::kDict);
  value.dict_ = std::make_shared<Dict>(std::move(items));
  return value;
}
Value Value::MakeNamespace(Dict items) {
  Value value = MakeDict(std::move(items));
  value.kind_ = Kind::kNamespace;
  return value;
}
Value Value::Function(Callable callable) {
  Value value(Kind::kCallable);
  value.callable_ = std::make_shared<Callable>(std::move(callable));
  return value;
}

Value Value::FromJson(const nlohmann::ordered_json& json) {
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Bool(json.get<bool>());
    case Type::number_integer:
      return Int(json.get<int64_t>());
    case Type::number_unsigned: {
      const uint64_t number = json.get<uint64_t>();
      return number <= INT64_MAX ? Int(static_cast<int64_t>(number)) : Float(static_cast<double>(number));
    }
    case Type::number_float:
      return Float(json.get<double>());
    case Type::string:
      return String(json.get_ref<const std::string&>(), /*trusted=*/false);
    case Type::array: {
      List items;
      for (const auto& item : json) items.push_back(FromJson(item));
      return MakeList(std::move(items));
    }
    case Type::object: {
      Dict items;
      for (const auto& [key, item] : json.items()) items.emplace_back(String(key, false), FromJson(item));
      return MakeDict(std::move(items));
    }
    default:
      return None();
  }
}

const std::string& Value::undefined_name() const {
  static const std::string unnamed = "value";
  return text_ == nullptr ? unnamed : text_->bytes();
}

bool Value::Truthy() const {
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return int_ != 0;
    case Kind::kFloat:
      return float_ != 0;
    case Kind::kString:
      return !text_->empty();
    case Kind::kList:
    case Kind::kTuple:
      return !list_->empty();
    case Kind::kDict:
      return !dict_->empty();
    case Kind::kNamespace:
    case Kind::kCallable:
      return true;
  }
  return false;
}

bool Value::Equals(const Value& other) const {
  if (is_number() && other.is_number()) {
    if (is_integer() && other.is_integer()) return int_ == other.int_;
    return as_double() == other.as_double();
  }
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return bytes() == other.bytes();
    case Kind::kList:
    case Kind::kTuple:
      return std::equal(list_->begin(), list_->end(), other.list_->begin(), other.list_->end(),
                        [](const Value& a, const Value& b) { return a.Equals(b); });
    case Kind::kDict:
      if (dict_->size() != other.dict_->size()) return false;
      for (const auto& [key, value] : *dict_) {
        const Value* found = other.FindKey(key);
        if (found == nullptr || !found->Equals(value)) return false;
      }
      return true;
    case Kind::kNamespace:
      return dict_ == other.dict_;
    case Kind::kCallable:
      return callable_ == other.callable_;
    default:
      return false;
  }
}

absl::StatusOr<bool> Value::Less(const Value& other) const {
  if (is_number() && other.is_number()) {
    if (is_integer() && other.is_integer()) return int_ < other.int_;
    return as_double() < other.as_double();
  }
  if (is(Kind::kString) && other.is(Kind::kString)) return bytes() < other.bytes();  // UTF-8 keeps code point order
  if (is_sequence() && kind_ == other.kind_) {
    for (size_t i = 0; i < std::min(list_->size(), other.list_->size()); ++i) {
      if (!(*list_)[i].Equals((*other.list_)[i])) return (*list_)[i].Less((*other.list_)[i]);
    }
    return list_->size() < other.list_->size();
  }
  return absl::InvalidArgumentError(absl::StrCat("'<' not supported between ", TypeName(), " and ", other.TypeName()));
}

const Value* Value::FindKey(const Value& key) const {
  for (const auto& [k, v] : *dict_) {
    if (k.Equals(key)) return &v;
  }
  return nullptr;
}

const Value* Value::FindKey(absl::string_view key) const {
  for (const auto& [k, v] : *dict_) {
    if (k.is(Kind::kString) && k.bytes() == key) return &v;
  }
  return nullptr;
}

const char* Value::TypeName() const {
  switch (kind_) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kCallable:
      return "function";
  }
  return "";
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto scientific = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string shortest(buffer, scientific.ptr);
  const size_t e = shortest.find('e');
  const int exponent = std::stoi(shortest.substr(e + 1));
  if (exponent < -4 || exponent >= 16) {
    return absl::StrCat(shortest.substr(0, e), exponent < 0 ? "e-" : "e+", absl::StrFormat("%02d", std::abs(exponent)));
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string text(buffer, fixed.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

namespace {

// Python's repr of a str: single quotes unless it has those and no double ones.
Text StringRepr(const Text& text) {
  const std::string& s = text.bytes();
  const bool double_quotes = s.find('\'') != std::string::npos && s.find('"') == std::string::npos;
  const char quote = double_quotes ? '"' : '\'';
  const bool whole = text.all_trusted();
  Text out(std::string(1, quote), whole);
  for (size_t i = 0; i < s.size(); ++i) {
    const auto c = static_cast<unsigned char>(s[i]);
    const bool trusted = text.trusted(i);
    if (c == '\\' || c == quote) {
      out.Append(std::string("\\") + s[i], trusted);
    } else if (c == '\n') {
      out.Append("\\n", trusted);
    } else if (c == '\r') {
      out.Append("\\r", trusted);
    } else if (c == '\t') {
      out.Append("\\t", trusted);
    } else if (c < 0x20 || c == 0x7f) {
      out.Append(absl::StrFormat("\\x%02x", c), trusted);
    } else {
      out.Append(s.substr(i, 1), trusted);
    }
  }
  out.Append(std::string(1, quote), whole);
  return out;
}

void AppendJsonString(const Text& text, Text* out) {
  const bool whole = text.all_trusted();
  out->Append("\"", whole);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text.bytes()[i]);
    const bool trusted = text.trusted(i);
    switch (c) {
      case '"':
        out->Append("\\\"", trusted);
        break;
      case '\\':
        out->Append("\\\\", trusted);
        break;
      case '\n':
        out->Append("\\n", trusted);
        break;
      case '\r':
        out->Append("\\r", trusted);
        break;
      case '\t':
        out->Append("\\t", trusted);
        break;
      case '\b':
        out->Append("\\b", trusted);
        break;
      case '\f':
        out->Append("\\f", trusted);
        break;
      default:
        if (c < 0x20) {
          out->Append(absl::StrFormat("\\u%04x", c), trusted);
        } else {
          out->Append(absl::string_view(text.bytes()).substr(i, 1), trusted);
        }
    }
  }
  out->Append("\"", whole);
}

absl::Status AppendJson(const Value& value, const DumpOptions& options, int depth, Text* out) {
  // Punctuation of dumped data is as untrusted as the data: nothing in it may become part of a control token.
  constexpr bool kTrusted = false;
  const auto line = [&](int level) {
    if (options.indent >= 0)
      out->Append("\n" + std::string(static_cast<size_t>(options.indent) * level, ' '), kTrusted);
  };
  // With an indent json.dumps cuts the blank after the item separator.
  const std::string item_separator =
      options.indent >= 0 && options.item_separator == ", " ? "," : options.item_separator;
  switch (value.kind()) {
    case Value::Kind::kNone:
      out->Append("null", kTrusted);
      break;
    case Value::Kind::kBool:
      out->Append(value.as_int() ? "true" : "false", kTrusted);
      break;
    case Value::Kind::kInt:
      out->Append(absl::StrCat(value.as_int()), kTrusted);
      break;
    case Value::Kind::kFloat: {
      const double f = value.as_double();
      out->Append(std::isnan(f) ? "NaN" : std::isinf(f) ? (f > 0 ? "Infinity" : "-Infinity") : FloatRepr(f), kTrusted);
      break;
    }
    case Value::Kind::kString:
      AppendJsonString(value.text(), out);
      break;
    case Value::Kind::kList:
    case Value::Kind::kTuple: {
      out->Append("[", kTrusted);
      for (size_t i = 0; i < value.list().size(); ++i) {
        if (i > 0) out->Append(item_separator, kTrusted);
        line(depth + 1);
        GANTRY_RETURN_IF_ERROR(AppendJson(value.list()[i], options, depth + 1, out));
      }
      if (!value.list().empty()) line(depth);
      out->Append("]", kTrusted);
      break;
    }
    case Value::Kind::kDict: {
      Dict items = value.dict();
      if (options.sort_keys) {
        std::stable_sort(items.begin(), items.end(),
                         [](const auto& a, const auto& b) { return a.first.Str().bytes() < b.first.Str().bytes(); });
      }
      out->Append("{", kTrusted);
      for (size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out->Append(item_separator, kTrusted);
        line(depth + 1);
        AppendJsonString(items[i].first.Str(), out);
        out->Append(options.key_separator, kTrusted);
        GANTRY_RETURN_IF_ERROR(AppendJson(items[i].second, options, depth + 1, out));
      }
      if (!items.empty()) line(depth);
      out->Append("}", kTrusted);
      break;
    }
    default:
      return absl::InvalidArgumentError(absl::StrCat("Object of type ", value.TypeName(), " is not JSON serializable"));
  }
  return absl::OkStatus();
}

}  // namespace

Text Value::Str() const {
  switch (kind_) {
    case Kind::kUndefined:
      return Text();
    case Kind::kString:
      return *text_;
    default:
      return Repr();
  }
}

Text Value::Repr() const {
  // Numbers and names are the template's words: they hold nothing a tenant could spell.
  switch (kind_) {
    case Kind::kUndefined:
      return Text("Undefined", true);
    case Kind::kNone:
      return Text("None", true);
    case Kind::kBool:
      return Text(int_ ? "True" : "False", true);
    case Kind::kInt:
      return Text(absl::StrCat(int_), true);
    case Kind::kFloat:
      return Text(FloatRepr(float_), true);
    case Kind::kString:
      return StringRepr(*text_);
    case Kind::kList:
    case Kind::kTuple: {
      const bool tuple = kind_ == Kind::kTuple;
      Text out(tuple ? "(" : "[", false);
      for (size_t i = 0; i < list_->size(); ++i) {
        if (i > 0) out.Append(", ", false);
        out.Append((*list_)[i].Repr());
      }
      if (tuple && list_->size() == 1) out.Append(",", false);
      out.Append(tuple ? ")" : "]", false);
      return out;
    }
    case Kind::kDict: {
      Text out("{", false);
      for (size_t i = 0; i < dict_->size(); ++i) {
        if (i > 0) out.Append(", ", false);
        out.Append((*dict_)[i].first.Repr());
        out.Append(": ", false);
        out.Append((*dict_)[i].second.Repr());
      }
      out.Append("}", false);
      return out;
    }
    case Kind::kNamespace:
      return Text("<Namespace>", true);
    case Kind::kCallable:
      return Text("<function>", true);
  }
  return Text();
}

absl::StatusOr<Text> DumpJson(const Value& value, const DumpOptions& options) {
  Text out;
  GANTRY_RETURN_IF_ERROR(AppendJson(value, options, 0, &out));
  return out;
}

}  // namespace gantry::engine::text::jinja
