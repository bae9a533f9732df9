// Filters, tests, methods and global functions of the template language, as jinja2 and transformers define them.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/jinja/value.h"

namespace gantry::engine::text::jinja {

// Values and text a template may build.
struct Limits {
  int64_t steps = 2'000'000;     // evaluated nodes
  size_t text_bytes = 32 << 20;  // of the output and of any one string
  size_t items = 1'000'000;      // of any one list
  int depth = 100;               // macro calls inside each other
};

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value, const Arguments& arguments,
                                  const Limits& limits);
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& arguments);
// A bound method of a string, list or dict ("".startswith, {}.items); undefined when there is none of that name.
Value FindMethod(const Value& object, const std::string& name, const Limits& limits);
// object[key], with jinja2's rules; undefined when absent.
absl::StatusOr<Value> GetItem(const Value& object, const Value& key);
// object.name: a method first, then an item.
absl::StatusOr<Value> GetAttribute(const Value& object, const std::string& name, const Limits& limits);
// object[begin:end:step]; undefined or none parts were left out.
absl::StatusOr<Value> Slice(const Value& object, const Value& begin, const Value& end, const Value& step);
// left op right for + - * / // % ** ~.
absl::StatusOr<Value> Arithmetic(const std::string& op, const Value& left, const Value& right, const Limits& limits);
absl::StatusOr<bool> Contains(const Value& container, const Value& item);
// What a `for` loop runs over: items of a list, keys of a dict, characters of a string, nothing of undefined.
absl::StatusOr<List> Iterate(const Value& value);

// namespace(...), range(...), dict(...), raise_exception(message), strftime_now(format).
void AddGlobals(const Limits& limits, Dict* globals);

}  // namespace gantry::engine::text::jinja
