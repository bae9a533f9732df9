#include "engine/text/jinja/builtins.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "engine/text/jinja/strings.h"
#include "engine/text/unicode.h"

namespace gantry::engine::text::jinja {
namespace {

using K = Value::Kind;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(std::string(what));
}

// Positional argument `index` or the named one; undefined when neither is there.
Value Argument(const Arguments& arguments, size_t index, absl::string_view name) {
  if (index < arguments.positional.size()) return arguments.positional[index];
  for (const auto& [key, value] : arguments.named) {
    if (key == name) return value;
  }
  return Value();
}

absl::StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t index, absl::string_view name,
                                    int64_t fallback) {
  const Value value = Argument(arguments, index, name);
  if (value.is(K::kUndefined)) return fallback;
  if (!value.is_integer()) return Invalid(absl::StrCat(name, ": expected an integer, found ", value.TypeName()));
  return value.as_int();
}

absl::StatusOr<int64_t> Length(const Value& value) {
  switch (value.kind()) {
    case K::kUndefined:
      return 0;
    case K::kString:
      return static_cast<int64_t>(CodePointCount(value.bytes()));
    case K::kList:
    case K::kTuple:
      return static_cast<int64_t>(value.list().size());
    case K::kDict:
      return static_cast<int64_t>(value.dict().size());
    default:
      return Invalid(absl::StrCat("object of type '", value.TypeName(), "' has no len()"));
  }
}

// ---- filters ----

using Filter = absl::StatusOr<Value> (*)(const Value&, const Arguments&, const Limits&);

// "user.name" or an index: what `attribute=` of map, selectattr and sort means.
absl::StatusOr<Value> GetPath(const Value& object, const Value& path, const Limits& limits) {
  if (!path.is(K::kString)) return GetItem(object, path);
  Value current = object;
  std::string rest = path.bytes();
  while (true) {
    const size_t dot = rest.find('.');
    int64_t index = 0;
    const std::string name = rest.substr(0, dot);
    absl::StatusOr<Value> next = absl::SimpleAtoi(name, &index) ? GetItem(current, Value::Int(index))
                                                                : GetItem(current, Value::String(name, true));
    if (!next.ok()) return next;
    current = *next;
    if (dot == std::string::npos) return current;
    rest = rest.substr(dot + 1);
  }
  (void)limits;
}

Arguments Rest(const Arguments& arguments, size_t from) {
  Arguments rest;
  for (size_t i = from; i < arguments.positional.size(); ++i) rest.positional.push_back(arguments.positional[i]);
  rest.named = arguments.named;
  return rest;
}

absl::StatusOr<Value> MapFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  const Value attribute = Argument(arguments, SIZE_MAX, "attribute");
  List out;
  for (const Value& item : items) {
    if (!attribute.is(K::kUndefined)) {
      GANTRY_ASSIGN_OR_RETURN(Value mapped, GetPath(item, attribute, limits));
      const Value fallback = Argument(arguments, SIZE_MAX, "default");
      out.push_back(mapped.is(K::kUndefined) && !fallback.is(K::kUndefined) ? fallback : mapped);
    } else {
      if (arguments.positional.empty() || !arguments.positional[0].is(K::kString))
        return Invalid("map: expected a filter's name or attribute=");
      GANTRY_ASSIGN_OR_RETURN(Value mapped,
                              ApplyFilter(arguments.positional[0].bytes(), item, Rest(arguments, 1), limits));
      out.push_back(std::move(mapped));
    }
  }
  return Value::MakeList(std::move(out));
}

// select, reject (by test) and selectattr, rejectattr (by test of an attribute).
template <bool kKeep, bool kAttribute>
absl::StatusOr<Value> SelectFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  const size_t test_at = kAttribute ? 1 : 0;
  if (kAttribute && arguments.positional.empty()) return Invalid("selectattr: expected an attribute's name");
  List out;
  for (const Value& item : items) {
    Value tested = item;
    if (kAttribute) {
      GANTRY_ASSIGN_OR_RETURN(tested, GetPath(item, arguments.positional[0], limits));
    }
    bool holds = tested.Truthy();
    if (arguments.positional.size() > test_at) {
      if (!arguments.positional[test_at].is(K::kString)) return Invalid("select: expected a test's name");
      GANTRY_ASSIGN_OR_RETURN(holds,
                              ApplyTest(arguments.positional[test_at].bytes(), tested, Rest(arguments, test_at + 1)));
    }
    if (holds == kKeep) out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

absl::StatusOr<Value> SortFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  GANTRY_ASSIGN_OR_RETURN(List items, Iterate(value));
  const bool reverse = Argument(arguments, 0, "reverse").Truthy(),
             case_sensitive = Argument(arguments, 1, "case_sensitive").Truthy();
  const Value attribute = Argument(arguments, 2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) {
    Value key = item;
    if (!attribute.is(K::kUndefined)) {
      GANTRY_ASSIGN_OR_RETURN(key, GetPath(item, attribute, limits));
    }
    if (key.is(K::kString) && !case_sensitive) key = Value::String(ChangeCase(key.text(), Case::kLower));
    keyed.emplace_back(std::move(key), std::move(item));
  }
  absl::Status failed;
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const absl::StatusOr<bool> less = reverse ? b.first.Less(a.first) : a.first.Less(b.first);
    if (!less.ok()) failed = less.status();
    return less.ok() && *less;
  });
  GANTRY_RETURN_IF_ERROR(failed);
  items.clear();
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return Value::MakeList(std::move(items));
}

absl::StatusOr<Value> UniqueFilter(const Value& value, const Arguments&, const Limits&) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  if (items.size() > 10'000) return Invalid("unique: at most 10000 items");
  List out;
  for (const Value& item : items) {
    if (std::none_of(out.begin(), out.end(), [&](const Value& seen) { return seen.Equals(item); })) out.push_back(item);
  }
  return Value::MakeList(std::move(out));
}

absl::StatusOr<Value> JoinFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  const Text separator = Argument(arguments, 0, "d").Str();
  const Value attribute = Argument(arguments, 1, "attribute");
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (!attribute.is(K::kUndefined)) {
      GANTRY_ASSIGN_OR_RETURN(item, GetPath(item, attribute, limits));
    }
    if (i > 0) out.Append(separator);
    out.Append(item.Str());
    if (out.size() > limits.text_bytes) return absl::ResourceExhaustedError("join: the text is too long");
  }
  return Value::String(std::move(out));
}

absl::StatusOr<Value> ToJsonFilter(const Value& value, const Arguments& arguments, const Limits&) {
  DumpOptions options;
  const Value indent = Argument(arguments, 1, "indent");
  if (indent.is_integer()) options.indent = static_cast<int>(std::clamp<int64_t>(indent.as_int(), 0, 16));
  options.sort_keys = Argument(arguments, 3, "sort_keys").Truthy();
  const Value separators = Argument(arguments, 2, "separators");
  if (separators.is_sequence() && separators.list().size() == 2) {
    options.item_separator = separators.list()[0].Str().bytes();
    options.key_separator = separators.list()[1].Str().bytes();
  }
  GANTRY_ASSIGN_OR_RETURN(Text text, DumpJson(value, options));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> IntFilter(const Value& value, const Arguments& arguments, const Limits&) {
  const Value fallback = Argument(arguments, 0, "default");
  if (value.is_integer()) return Value::Int(value.as_int());
  if (value.is(K::kFloat) && std::abs(value.as_double()) < 9e18)
    return Value::Int(static_cast<int64_t>(value.as_double()));
  int64_t number = 0;
  double real = 0;
  if (value.is(K::kString)) {
    if (absl::SimpleAtoi(value.bytes(), &number)) return Value::Int(number);
    if (absl::SimpleAtod(value.bytes(), &real) && std::abs(real) < 9e18) return Value::Int(static_cast<int64_t>(real));
  }
  return fallback.is(K::kUndefined) ? Value::Int(0) : fallback;
}

absl::StatusOr<Value> FloatFilter(const Value& value, const Arguments& arguments, const Limits&) {
  const Value fallback = Argument(arguments, 0, "default");
  double real = 0;
  if (value.is_number()) return Value::Float(value.as_double());
  if (value.is(K::kString) && absl::SimpleAtod(value.bytes(), &real)) return Value::Float(real);
  return fallback.is(K::kUndefined) ? Value::Float(0) : fallback;
}

absl::StatusOr<Value> RoundFilter(const Value& value, const Arguments& arguments, const Limits&) {
  if (!value.is_number()) return Invalid(absl::StrCat("round: expected a number, found ", value.TypeName()));
  GANTRY_ASSIGN_OR_RETURN(const int64_t digits, IntArgument(arguments, 0, "precision", 0));
  const Value method = Argument(arguments, 1, "method");
  const std::string how = method.is(K::kString) ? method.bytes() : "common";
  const double scale = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(digits, -15, 15)));
  const double scaled = value.as_double() * scale;
  // Python rounds halves to even.
  const double rounded = how == "ceil"    ? std::ceil(scaled)
                         : how == "floor" ? std::floor(scaled)
                                          : std::nearbyint(scaled);
  return Value::Float(rounded / scale);
}

absl::StatusOr<Value> SumFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  const Value attribute = Argument(arguments, 0, "attribute"), start = Argument(arguments, 1, "start");
  Value total = start.is(K::kUndefined) ? Value::Int(0) : start;
  for (Value item : items) {
    if (!attribute.is(K::kUndefined)) {
      GANTRY_ASSIGN_OR_RETURN(item, GetPath(item, attribute, limits));
    }
    GANTRY_ASSIGN_OR_RETURN(total, Arithmetic("+", total, item, limits));
  }
  return total;
}

template <bool kMax>
absl::StatusOr<Value> ExtremeFilter(const Value& value, const Arguments&, const Limits&) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  Value best = items[0];
  for (const Value& item : items) {
    GANTRY_ASSIGN_OR_RETURN(const bool better, kMax ? best.Less(item) : item.Less(best));
    if (better) best = item;
  }
  return best;
}

absl::StatusOr<Value> DictSortFilter(const Value& value, const Arguments& arguments, const Limits&) {
  if (!value.is_mapping()) return Invalid("dictsort: expected a dict");
  const Value by = Argument(arguments, 1, "by");
  const bool by_value = by.is(K::kString) && by.bytes() == "value",
             case_sensitive = Argument(arguments, 0, "case_sensitive").Truthy();
  const bool reverse = Argument(arguments, 2, "reverse").Truthy();
  Dict items = value.dict();
  const auto key = [&](const std::pair<Value, Value>& item) {
    const Value& v = by_value ? item.second : item.first;
    return v.is(K::kString) && !case_sensitive ? Value::String(ChangeCase(v.text(), Case::kLower)) : v;
  };
  absl::Status failed;
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    const absl::StatusOr<bool> less = reverse ? key(b).Less(key(a)) : key(a).Less(key(b));
    if (!less.ok()) failed = less.status();
    return less.ok() && *less;
  });
  GANTRY_RETURN_IF_ERROR(failed);
  List out;
  for (auto& [k, v] : items) out.push_back(Value::MakeTuple({k, v}));
  return Value::MakeList(std::move(out));
}

absl::StatusOr<Value> ItemsOf(const Value& value) {
  if (value.is(K::kUndefined)) return Value::MakeList({});
  if (!value.is_mapping()) return Invalid("items: Can only get item pairs from a mapping.");
  List out;
  for (const auto& [key, item] : value.dict()) out.push_back(Value::MakeTuple({key, item}));
  return Value::MakeList(std::move(out));
}

absl::StatusOr<Value> IndentFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  const Value width = Argument(arguments, 0, "width");
  const std::string blanks =
      width.is(K::kString) ? width.bytes()
                           : std::string(width.is_integer() ? std::clamp<int64_t>(width.as_int(), 0, 1000) : 4, ' ');
  const bool first = Argument(arguments, 1, "first").Truthy(), blank_lines = Argument(arguments, 2, "blank").Truthy();
  const Text text = value.Str();
  Text out;
  bool line_start = true, first_line = true;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text.bytes()[i];
    if (line_start && (!first_line || first) && (c != '\n' || blank_lines)) out.Append(blanks, true);
    line_start = c == '\n';
    first_line = first_line && !line_start;
    out.Append(text.Substring(i, i + 1));
    if (out.size() > limits.text_bytes) return absl::ResourceExhaustedError("indent: the text is too long");
  }
  return Value::String(std::move(out));
}

absl::StatusOr<Value> ReplaceFilter(const Value& value, const Arguments& arguments, const Limits& limits) {
  if (arguments.positional.size() < 2) return Invalid("replace: expected the old and the new text");
  GANTRY_ASSIGN_OR_RETURN(const int64_t count, IntArgument(arguments, 2, "count", -1));
  GANTRY_ASSIGN_OR_RETURN(Text text, Replace(value.Str(), arguments.positional[0].Str(), arguments.positional[1].Str(),
                                             count, limits.text_bytes));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> ReverseFilter(const Value& value, const Arguments&, const Limits&) {
  if (value.is(K::kString)) return Slice(value, Value(), Value(), Value::Int(-1));
  GANTRY_ASSIGN_OR_RETURN(List items, Iterate(value));
  std::reverse(items.begin(), items.end());
  return Value::MakeList(std::move(items));
}

template <bool kLast>
absl::StatusOr<Value> EndFilter(const Value& value, const Arguments&, const Limits&) {
  GANTRY_ASSIGN_OR_RETURN(const List items, Iterate(value));
  if (items.empty()) return Value::Undefined("No items, sequence was empty.");
  return kLast ? items.back() : items.front();
}

absl::StatusOr<Value> DefaultFilter(const Value& value, const Arguments& arguments, const Limits&) {
  const Value fallback = Argument(arguments, 0, "default_value");
  const bool also_falsy = Argument(arguments, 1, "boolean").Truthy();
  if (!value.is(K::kUndefined) && !(also_falsy && !value.Truthy())) return value;
  return fallback.is(K::kUndefined) ? Value::String("", true) : fallback;
}

const std::map<std::string, Filter>& Filters() {
  static const auto* filters = [] {
    auto* f = new std::map<std::string, Filter>;
    auto& t = *f;
    t["map"] = MapFilter;
    t["select"] = SelectFilter<true, false>;
    t["reject"] = SelectFilter<false, false>;
    t["selectattr"] = SelectFilter<true, true>;
    t["rejectattr"] = SelectFilter<false, true>;
    t["sort"] = SortFilter;
    t["unique"] = UniqueFilter;
    t["join"] = JoinFilter;
    t["tojson"] = ToJsonFilter;
    t["int"] = IntFilter;
    t["float"] = FloatFilter;
    t["round"] = RoundFilter;
    t["sum"] = SumFilter;
    t["min"] = ExtremeFilter<false>;
    t["max"] = ExtremeFilter<true>;
    t["dictsort"] = DictSortFilter;
    t["indent"] = IndentFilter;
    t["replace"] = ReplaceFilter;
    t["reverse"] = ReverseFilter;
    t["first"] = EndFilter<false>;
    t["last"] = EndFilter<true>;
    t["default"] = t["d"] = DefaultFilter;
    t["items"] = [](const Value& v, const Arguments&, const Limits&) { return ItemsOf(v); };
    t["list"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      GANTRY_ASSIGN_OR_RETURN(List items, Iterate(v));
      return Value::MakeList(std::move(items));
    };
    t["length"] = t["count"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      GANTRY_ASSIGN_OR_RETURN(const int64_t n, Length(v));
      return Value::Int(n);
    };
    t["string"] = t["safe"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      return Value::String(v.Str());
    };
    t["trim"] = [](const Value& v, const Arguments& a, const Limits&) -> absl::StatusOr<Value> {
      const Value characters = Argument(a, 0, "chars");
      return Value::String(Strip(v.Str(), characters.is(K::kString) ? &characters.bytes() : nullptr, true, true));
    };
    t["upper"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      return Value::String(ChangeCase(v.Str(), Case::kUpper));
    };
    t["lower"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      return Value::String(ChangeCase(v.Str(), Case::kLower));
    };
    t["title"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      return Value::String(ChangeCase(v.Str(), Case::kTitle));
    };
    t["capitalize"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      return Value::String(ChangeCase(v.Str(), Case::kCapitalize));
    };
    t["abs"] = [](const Value& v, const Arguments&, const Limits&) -> absl::StatusOr<Value> {
      if (v.is(K::kFloat)) return Value::Float(std::abs(v.as_double()));
      if (!v.is_integer() || v.as_int() == INT64_MIN) return Invalid("abs: expected a number");
      return Value::Int(std::abs(v.as_int()));
    };
    t["attr"] = [](const Value& v, const Arguments& a, const Limits& limits) -> absl::StatusOr<Value> {
      return GetAttribute(v, Argument(a, 0, "name").Str().bytes(), limits);
    };
    t["format"] = [](const Value& v, const Arguments& a, const Limits& limits) -> absl::StatusOr<Value> {
      return Arithmetic("%", v, Value::MakeTuple(a.positional), limits);
    };
    return f;
  }();
  return *filters;
}

// ---- methods ----

absl::StatusOr<Value> CallStringMethod(const Text& self, const std::string& name, const Arguments& a,
                                       const Limits& limits) {
  const auto text = [&](size_t i) { return i < a.positional.size() ? a.positional[i].Str() : Text(); };
  const auto any_of = [&](auto matches) -> absl::StatusOr<Value> {
    const Value wanted = Argument(a, 0, "prefix");
    if (wanted.is(K::kString)) return Value::Bool(matches(wanted.bytes()));
    if (!wanted.is_sequence())
      return Invalid(absl::StrCat(name, ": expected a string or a tuple of strings, found ", wanted.TypeName()));
    for (const Value& option : wanted.list()) {
      if (option.is(K::kString) && matches(option.bytes())) return Value::Bool(true);
    }
    return Value::Bool(false);
  };
  const std::string& s = self.bytes();
  if (name == "startswith") return any_of([&](const std::string& p) { return absl::StartsWith(s, p); });
  if (name == "endswith") return any_of([&](const std::string& p) { return absl::EndsWith(s, p); });
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Value characters = Argument(a, 0, "chars");
    return Value::String(
        Strip(self, characters.is(K::kString) ? &characters.bytes() : nullptr, name != "rstrip", name != "lstrip"));
  }
  if (name == "split" || name == "rsplit") {
    GANTRY_ASSIGN_OR_RETURN(const int64_t most, IntArgument(a, 1, "maxsplit", -1));
    const Value separator = Argument(a, 0, "sep");
    if (separator.is(K::kString) && separator.bytes().empty()) return Invalid("split: empty separator");
    List parts;
    for (Text& part : Split(self, separator.is(K::kString) ? &separator.bytes() : nullptr, most, name == "rsplit")) {
      parts.push_back(Value::String(std::move(part)));
    }
    return Value::MakeList(std::move(parts));
  }
  if (name == "splitlines") {
    List lines;
    for (Text& line : SplitLines(self, Argument(a, 0, "keepends").Truthy()))
      lines.push_back(Value::String(std::move(line)));
    return Value::MakeList(std::move(lines));
  }
  if (name == "replace") return ReplaceFilter(Value::String(self), a, limits);
  if (name == "upper") return Value::String(ChangeCase(self, Case::kUpper));
  if (name == "lower") return Value::String(ChangeCase(self, Case::kLower));
  if (name == "title") return Value::String(ChangeCase(self, Case::kTitle));
  if (name == "capitalize") return Value::String(ChangeCase(self, Case::kCapitalize));
  if (name == "join") {
    if (a.positional.empty()) return Invalid("join: expected a list");
    return JoinFilter(a.positional[0], Arguments{{Value::String(self)}, {}}, limits);
  }
  if (name == "find" || name == "index" || name == "rfind") {
    const size_t at = name == "rfind" ? s.rfind(text(0).bytes()) : s.find(text(0).bytes());
    if (at == std::string::npos && name == "index") return Invalid("substring not found");
    return Value::Int(at == std::string::npos ? -1 : static_cast<int64_t>(CodePointCount(s.substr(0, at))));
  }
  if (name == "count") {
    const std::string wanted = text(0).bytes();
    if (wanted.empty()) return Value::Int(static_cast<int64_t>(CodePointCount(s)) + 1);
    int64_t count = 0;
    for (size_t at = s.find(wanted); at != std::string::npos; at = s.find(wanted, at + wanted.size())) ++count;
    return Value::Int(count);
  }
  if (name == "removeprefix")
    return Value::String(absl::StartsWith(s, text(0).bytes()) ? self.Substring(text(0).size(), s.size()) : self);
  if (name == "removesuffix") {
    const std::string suffix = text(0).bytes();
    return Value::String(!suffix.empty() && absl::EndsWith(s, suffix) ? self.Substring(0, s.size() - suffix.size())
                                                                      : self);
  }
  const auto all = [&](auto is) {
    return Value::Bool(!s.empty() && std::all_of(s.begin(), s.end(), [&](unsigned char c) { return is(c); }));
  };
  if (name == "isdigit" || name == "isnumeric" || name == "isdecimal")
    return all([](unsigned char c) { return absl::ascii_isdigit(c); });
  if (name == "isspace") return all([](unsigned char c) { return absl::ascii_isspace(c); });
  if (name == "isalpha") return all([](unsigned char c) { return absl::ascii_isalpha(c) || c >= 0x80; });
  if (name == "isalnum") return all([](unsigned char c) { return absl::ascii_isalnum(c) || c >= 0x80; });
  if (name == "isupper")
    return Value::Bool(ChangeCase(self, Case::kUpper).bytes() == s && ChangeCase(self, Case::kLower).bytes() != s);
  if (name == "islower")
    return Value::Bool(ChangeCase(self, Case::kLower).bytes() == s && ChangeCase(self, Case::kUpper).bytes() != s);
  return Invalid(absl::StrCat("str has no method ", name));
}

bool IsStringMethod(const std::string& name) {
  static const char* const names[] = {"startswith",   "endswith",     "strip",   "lstrip",    "rstrip",    "split",
                                      "rsplit",       "splitlines",   "replace", "upper",     "lower",     "title",
                                      "capitalize",   "join",         "find",    "index",     "rfind",     "count",
                                      "removeprefix", "removesuffix", "isdigit", "isnumeric", "isdecimal", "isspace",
                                      "isalpha",      "isalnum",      "isupper", "islower"};
  return std::any_of(std::begin(names), std::end(names), [&](const char* n) { return name == n; });
}

// "%s of %d" % (a, b)
absl::StatusOr<Value> FormatPercent(const Text& format, const Value& argument, const Limits& limits) {
  const List values = argument.is(K::kTuple) ? argument.list() : List{argument};
  size_t next = 0;
  Text out;
  const std::string& s = format.bytes();
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] != '%' || i + 1 >= s.size()) {
      out.Append(format.Substring(i, i + 1));
      continue;
    }
    const char kind = s[++i];
    if (kind == '%') {
      out.Append("%", format.trusted(i));
      continue;
    }
    if (next >= values.size()) return Invalid("not enough arguments for format string");
    const Value& value = values[next++];
    if (kind == 's') {
      out.Append(value.Str());
    } else if (kind == 'r') {
      out.Append(value.Repr());
    } else if ((kind == 'd' || kind == 'i') && value.is_number()) {
      out.Append(absl::StrCat(static_cast<int64_t>(value.as_double())), true);
    } else if (kind == 'f' && value.is_number()) {
      out.Append(absl::StrFormat("%f", value.as_double()), true);
    } else {
      return Invalid(absl::StrCat("format %", std::string(1, kind), " with ", value.TypeName(), " is not supported"));
    }
    if (out.size() > limits.text_bytes) return absl::ResourceExhaustedError("the formatted text is too long");
  }
  if (argument.is(K::kTuple) && next < values.size())
    return Invalid("not all arguments converted during string formatting");
  return Value::String(std::move(out));
}

// Python's floor division and modulo: towards minus infinity.
absl::StatusOr<Value> IntegerArithmetic(const std::string& op, int64_t l, int64_t r) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(l, r, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(l, r, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(l, r, &result);
  } else if (op == "//" || op == "%") {
    if (r == 0) return Invalid("division by zero");
    if (r == -1) {
      overflow = op == "//" && l == INT64_MIN;
      result = op == "//" && !overflow ? -l : 0;
    } else {
      const int64_t quotient = l / r - ((l % r != 0 && (l < 0) != (r < 0)) ? 1 : 0);
      result = op == "//" ? quotient : l - quotient * r;
    }
  } else {  // **
    if (r < 0) return Value::Float(std::pow(static_cast<double>(l), static_cast<double>(r)));
    if (r > 64 && l != 0 && l != 1 && l != -1) return Invalid("the power is out of range");
    result = 1;
    for (int64_t i = 0; i < (l * l <= 1 ? r % 2 + 2 * (r > 0) : r) && !overflow; ++i)
      overflow = __builtin_mul_overflow(result, l, &result);
  }
  if (overflow) return Invalid("the number is out of range");
  return Value::Int(result);
}

}  // namespace

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments,
                                  const Limits& limits) {
  const auto found = Filters().find(name);
  if (found == Filters().end()) return Invalid(absl::StrCat("no filter named '", name, "'"));
  return found->second(value, arguments, limits);
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& arguments) {
  const auto other = [&] { return arguments.positional.empty() ? Value() : arguments.positional[0]; };
  if (name == "defined") return !value.is(K::kUndefined);
  if (name == "undefined") return value.is(K::kUndefined);
  if (name == "none") return value.is(K::kNone);
  if (name == "string") return value.is(K::kString);
  if (name == "boolean") return value.is(K::kBool);
  if (name == "true") return value.is(K::kBool) && value.as_int() != 0;
  if (name == "false") return value.is(K::kBool) && value.as_int() == 0;
  if (name == "integer") return value.is(K::kInt);
  if (name == "float") return value.is(K::kFloat);
  if (name == "number") return value.is_number();
  if (name == "mapping") return value.is(K::kDict);
  if (name == "sequence")
    return value.is_sequence() || value.is(K::kString) || value.is(K::kDict) || value.is(K::kUndefined);
  if (name == "iterable")
    return value.is_sequence() || value.is(K::kString) || value.is(K::kDict) || value.is(K::kUndefined);
  if (name == "callable") return value.is(K::kCallable);
  if (name == "equalto" || name == "eq" || name == "sameas") return value.Equals(other());
  if (name == "ne") return !value.Equals(other());
  if (name == "lt" || name == "lessthan") return value.Less(other());
  if (name == "gt" || name == "greaterthan") return other().Less(value);
  if (name == "in") return Contains(other(), value);
  if (name == "lower") return value.is(K::kString) && ChangeCase(value.text(), Case::kLower).bytes() == value.bytes();
  if (name == "upper") return value.is(K::kString) && ChangeCase(value.text(), Case::kUpper).bytes() == value.bytes();
  if (name == "odd" || name == "even" || name == "divisibleby") {
    if (!value.is_integer()) return Invalid(absl::StrCat(name, ": expected an integer, found ", value.TypeName()));
    const int64_t divisor = name == "divisibleby" ? (other().is_integer() ? other().as_int() : 0) : 2;
    if (divisor == 0) return Invalid("divisibleby: division by zero");
    return (divisor == -1 || value.as_int() % divisor == 0) != (name == "odd");
  }
  return Invalid(absl::StrCat("no test named '", name, "'"));
}

Value FindMethod(const Value& object, const std::string& name, const Limits& limits) {
  if (object.is(K::kString) && IsStringMethod(name)) {
    const Text self = object.text();
    return Value::Function(
        [self, name, limits](const Arguments& arguments) { return CallStringMethod(self, name, arguments, limits); });
  }
  if (object.is(K::kDict)) {
    if (name == "items") return Value::Function([object](const Arguments&) { return ItemsOf(object); });
    if (name == "keys" || name == "values") {
      return Value::Function([object, name](const Arguments&) -> absl::StatusOr<Value> {
        List out;
        for (const auto& [key, value] : object.dict()) out.push_back(name == "keys" ? key : value);
        return Value::MakeList(std::move(out));
      });
    }
    if (name == "get") {
      return Value::Function([object](const Arguments& arguments) -> absl::StatusOr<Value> {
        if (arguments.positional.empty()) return Invalid("get: expected a key");
        const Value* found = object.FindKey(arguments.positional[0]);
        if (found != nullptr) return *found;
        const Value fallback = Argument(arguments, 1, "default");
        return fallback.is(K::kUndefined) ? Value::None() : fallback;
      });
    }
  }
  if (object.is_sequence() && (name == "index" || name == "count")) {
    return Value::Function([object, name](const Arguments& arguments) -> absl::StatusOr<Value> {
      const Value wanted = Argument(arguments, 0, "value");
      int64_t count = 0;
      for (size_t i = 0; i < object.list().size(); ++i) {
        if (!object.list()[i].Equals(wanted)) continue;
        if (name == "index") return Value::Int(static_cast<int64_t>(i));
        ++count;
      }
      if (name == "index") return Invalid("the value is not in the list");
      return Value::Int(count);
    });
  }
  return Value();
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& key) {
  if (object.is(K::kUndefined)) return Invalid(absl::StrCat("'", object.undefined_name(), "' is undefined"));
  if (object.is_mapping()) {
    const Value* found = object.FindKey(key);
    if (found != nullptr) return *found;
  } else if ((object.is_sequence() || object.is(K::kString)) && key.is_integer()) {
    const int64_t size = object.is(K::kString) ? static_cast<int64_t>(CodePointCount(object.bytes()))
                                               : static_cast<int64_t>(object.list().size());
    const int64_t index = key.as_int() < 0 ? key.as_int() + size : key.as_int();
    if (index >= 0 && index < size) {
      if (object.is_sequence()) return object.list()[index];
      return Slice(object, Value::Int(index), Value::Int(index + 1), Value());
    }
  }
  return Value::Undefined(absl::StrCat(object.TypeName(), " object has no element ", key.Repr().bytes()));
}

absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name, const Limits& limits) {
  if (object.is(K::kUndefined)) return Invalid(absl::StrCat("'", object.undefined_name(), "' is undefined"));
  const Value method = FindMethod(object, name, limits);
  if (!method.is(K::kUndefined)) return method;
  if (object.is_mapping()) {
    const Value* found = object.FindKey(name);
    if (found != nullptr) return *found;
  }
  return Value::Undefined(absl::StrCat(object.TypeName(), " object has no attribute '", name, "'"));
}

absl::StatusOr<Value> Slice(const Value& object, const Value& begin_value, const Value& end_value,
                            const Value& step_value) {
  const auto given = [](const Value& v) { return !v.is(K::kUndefined) && !v.is(K::kNone); };
  for (const Value* part : {&begin_value, &end_value, &step_value}) {
    if (given(*part) && !part->is_integer()) return Invalid("slice indices must be integers or None");
  }
  if (!object.is(K::kString) && !object.is_sequence())
    return Invalid(absl::StrCat("'", object.TypeName(), "' object cannot be sliced"));
  const int64_t step = given(step_value) ? step_value.as_int() : 1;
  if (step == 0) return Invalid("slice step cannot be zero");
  std::vector<size_t> offsets;  // of code points, one past the last included
  if (object.is(K::kString)) offsets = CodePointOffsets(object.bytes());
  const int64_t size =
      object.is(K::kString) ? static_cast<int64_t>(offsets.size()) - 1 : static_cast<int64_t>(object.list().size());
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  const auto clamp = [&](const Value& v, int64_t fallback) {
    if (!given(v)) return fallback;
    return std::clamp(v.as_int() < 0 ? v.as_int() + size : v.as_int(), low, high);
  };
  const int64_t begin = clamp(begin_value, step > 0 ? low : high), end = clamp(end_value, step > 0 ? high : low);
  Text text;
  List items;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
    if (object.is(K::kString)) {
      if (step == 1) return Value::String(object.text().Substring(offsets[begin], offsets[end]));
      text.Append(object.text().Substring(offsets[i], offsets[i + 1]));
    } else {
      items.push_back(object.list()[i]);
    }
    if (step > size || step < -size) break;  // keeps i from overflowing
  }
  if (object.is(K::kString)) return Value::String(std::move(text));
  return object.is(K::kTuple) ? Value::MakeTuple(std::move(items)) : Value::MakeList(std::move(items));
}

absl::StatusOr<Value> Arithmetic(const std::string& op, const Value& left, const Value& right, const Limits& limits) {
  const auto too_long = [] {
    return absl::ResourceExhaustedError("the template builds a text or list that is too long");
  };
  if (op == "~") {
    Text text = left.Str();
    text.Append(right.Str());
    return Value::String(std::move(text));
  }
  for (const Value* side : {&left, &right}) {
    if (side->is(K::kUndefined)) return Invalid(absl::StrCat("'", side->undefined_name(), "' is undefined"));
  }
  if (left.is_number() && right.is_number()) {
    const bool integers = left.is_integer() && right.is_integer();
    if (integers && op != "/") return IntegerArithmetic(op, left.as_int(), right.as_int());
    const double l = left.as_double(), r = right.as_double();
    if ((op == "/" || op == "//" || op == "%") && r == 0) return Invalid("division by zero");
    if (op == "+") return Value::Float(l + r);
    if (op == "-") return Value::Float(l - r);
    if (op == "*") return Value::Float(l * r);
    if (op == "/") return Value::Float(l / r);
    if (op == "//") return Value::Float(std::floor(l / r));
    if (op == "%") return Value::Float(l - r * std::floor(l / r));
    return Value::Float(std::pow(l, r));
  }
  if (op == "%" && left.is(K::kString)) return FormatPercent(left.text(), right, limits);
  if (op == "+" && left.is(K::kString) && right.is(K::kString)) {
    Text text = left.text();
    text.Append(right.text());
    return Value::String(std::move(text));
  }
  if (op == "+" && left.is_sequence() && left.kind() == right.kind()) {
    List items = left.list();
    items.insert(items.end(), right.list().begin(), right.list().end());
    if (items.size() > limits.items) return too_long();
    return left.is(K::kTuple) ? Value::MakeTuple(std::move(items)) : Value::MakeList(std::move(items));
  }
  if (op == "*" && (left.is_integer() || right.is_integer())) {
    const Value& what = left.is_integer() ? right : left;
    const int64_t times = std::max<int64_t>(0, left.is_integer() ? left.as_int() : right.as_int());
    if (what.is(K::kString)) {
      if (!what.text().empty() && times > static_cast<int64_t>(limits.text_bytes / what.text().size()))
        return too_long();
      Text text;
      for (int64_t i = 0; i < (what.text().empty() ? 0 : times); ++i) text.Append(what.text());
      return Value::String(std::move(text));
    }
    if (what.is(K::kList)) {
      if (!what.list().empty() && times > static_cast<int64_t>(limits.items / what.list().size())) return too_long();
      List items;
      for (int64_t i = 0; i < (what.list().empty() ? 0 : times); ++i)
        items.insert(items.end(), what.list().begin(), what.list().end());
      return Value::MakeList(std::move(items));
    }
  }
  return Invalid(
      absl::StrCat("unsupported operand types for ", op, ": '", left.TypeName(), "' and '", right.TypeName(), "'"));
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.is(K::kString)) {
    if (!item.is(K::kString))
      return Invalid(absl::StrCat("'in <string>' requires string as left operand, not ", item.TypeName()));
    return absl::StrContains(container.bytes(), item.bytes());
  }
  if (container.is_mapping()) return container.FindKey(item) != nullptr;
  if (container.is(K::kUndefined)) return false;
  if (!container.is_sequence())
    return Invalid(absl::StrCat("argument of type '", container.TypeName(), "' is not iterable"));
  return std::any_of(container.list().begin(), container.list().end(), [&](const Value& v) { return v.Equals(item); });
}

absl::StatusOr<List> Iterate(const Value& value) {
  switch (value.kind()) {
    case K::kUndefined:
      return List();
    case K::kList:
    case K::kTuple:
      return value.list();
    case K::kDict: {
      List keys;
      for (const auto& [key, item] : value.dict()) keys.push_back(key);
      return keys;
    }
    case K::kString: {
      const std::vector<size_t> offsets = CodePointOffsets(value.bytes());
      if (offsets.size() > 1'000'000) return absl::ResourceExhaustedError("the string is too long to be iterated over");
      List characters;
      for (size_t i = 0; i + 1 < offsets.size(); ++i)
        characters.push_back(Value::String(value.text().Substring(offsets[i], offsets[i + 1])));
      return characters;
    }
    default:
      return Invalid(absl::StrCat("'", value.TypeName(), "' object is not iterable"));
  }
}

void AddGlobals(const Limits& limits, Dict* globals) {
  const auto add = [&](const char* name, Callable callable) {
    globals->emplace_back(Value::String(name, true), Value::Function(std::move(callable)));
  };
  add("namespace", [](const Arguments& arguments) -> absl::StatusOr<Value> {
    Dict items;
    for (const Value& positional : arguments.positional) {
      if (positional.is_mapping()) items.insert(items.end(), positional.dict().begin(), positional.dict().end());
    }
    for (const auto& [name, value] : arguments.named) items.emplace_back(Value::String(name, true), value);
    return Value::MakeNamespace(std::move(items));
  });
  add("dict", [](const Arguments& arguments) -> absl::StatusOr<Value> {
    Dict items;
    for (const auto& [name, value] : arguments.named) items.emplace_back(Value::String(name, true), value);
    return Value::MakeDict(std::move(items));
  });
  add("range", [limits](const Arguments& arguments) -> absl::StatusOr<Value> {
    for (const Value& argument : arguments.positional) {
      if (!argument.is_integer()) return Invalid("range: expected integers");
    }
    const size_t n = arguments.positional.size();
    if (n < 1 || n > 3) return Invalid("range: expected one to three integers");
    const int64_t begin = n == 1 ? 0 : arguments.positional[0].as_int(),
                  end = arguments.positional[n == 1 ? 0 : 1].as_int();
    const int64_t step = n == 3 ? arguments.positional[2].as_int() : 1;
    if (step == 0) return Invalid("range: the step is zero");
    const __int128 span = static_cast<__int128>(end) - begin;
    const __int128 count = (step > 0) == (span > 0) ? (span + step + (step > 0 ? -1 : 1)) / step : 0;
    if (count > static_cast<__int128>(std::min<size_t>(limits.items, 100'000)))
      return absl::ResourceExhaustedError("range: too many items");
    List items;
    for (__int128 i = 0; i < count; ++i) items.push_back(Value::Int(begin + static_cast<int64_t>(i) * step));
    return Value::MakeList(std::move(items));
  });
  add("raise_exception", [](const Arguments& arguments) -> absl::StatusOr<Value> {
    return Invalid(arguments.positional.empty() ? "the template raised an exception"
                                                : arguments.positional[0].Str().bytes());
  });
  add("strftime_now", [](const Arguments& arguments) -> absl::StatusOr<Value> {
    const std::string format = arguments.positional.empty() ? "%Y-%m-%d" : arguments.positional[0].Str().bytes();
    return Value::String(absl::FormatTime(format, absl::Now(), absl::LocalTimeZone()), true);
  });
}

}  // namespace gantry::engine::text::jinja
