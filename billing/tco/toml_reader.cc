#include "billing/tco/toml_reader.h"

#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/document/figures.h"
#include "engine/base/status_macros.h"

namespace gantry::tco {
namespace {

constexpr size_t kFileBytesMax = 256 * 1024;
constexpr size_t kTextBytesMax = 200;  // fits a line of the report

// A number as the shortest decimal that means it. TOML's floats are doubles, which give back every decimal of up to 15
// digits; nothing is calculated with them.
std::string Digits(double value) {
  char buffer[400];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
  return error == std::errc() ? std::string(buffer, end) : "?";
}

std::string Kind(const toml::node& node) {
  if (node.is_table()) return "a table";
  if (node.is_array()) return "a list";
  if (node.is_string()) return absl::StrCat("\"", node.as_string()->get().substr(0, 60), "\"");
  if (node.is_integer()) return absl::StrCat(node.as_integer()->get());
  if (node.is_floating_point()) return Digits(node.as_floating_point()->get());
  if (node.is_boolean()) return node.as_boolean()->get() ? "true" : "false";
  return "a date or time";
}

void Merge(toml::table&& from, toml::table* into) {
  for (auto&& [key, node] : from) {
    toml::table* inner = into->get(key) == nullptr ? nullptr : into->get(key)->as_table();
    if (inner != nullptr && node.is_table()) {
      Merge(std::move(*node.as_table()), inner);
      continue;
    }
    // Moved, because a copy would forget where it stood in its file.
    node.visit([&](auto& value) { into->insert_or_assign(key, std::move(value)); });
  }
}

absl::StatusOr<toml::table> ParseOne(absl::string_view text, const std::string& name) {
  try {
    return toml::parse(std::string_view(text.data(), text.size()), name);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", error.source().begin.line, ": ", std::string(error.description())));
  }
}

}  // namespace

absl::StatusOr<int64_t> ParseDecimal(absl::string_view text, int scale, int64_t max) {
  const absl::Status invalid =
      absl::InvalidArgumentError(absl::StrCat("expected a decimal from 0 to ", document::Exact(max, scale, 0),
                                              " with at most ", scale, " decimals, found ", text.substr(0, 60)));
  __int128 value = 0;
  size_t i = 0, digits = 0;
  for (; i < text.size() && absl::ascii_isdigit(text[i]); ++i, ++digits) {
    value = value * 10 + (text[i] - '0');
    if (value > max) return invalid;
  }
  if (digits == 0) return invalid;
  int decimals = 0;
  if (i < text.size()) {
    if (text[i++] != '.' || i == text.size()) return invalid;
    for (; i < text.size() && absl::ascii_isdigit(text[i]) && decimals < scale; ++i, ++decimals) {
      value = value * 10 + (text[i] - '0');
    }
    // Noughts after the last decimal that counts change nothing.
    while (i < text.size() && text[i] == '0') ++i;
    if (i != text.size()) return invalid;
  }
  for (; decimals < scale; ++decimals) value *= 10;
  if (value > max) return invalid;
  return static_cast<int64_t>(value);
}

absl::StatusOr<toml::table> ParseToml(absl::string_view toml, const std::string& file_name,
                                      const std::vector<std::string>& overrides) {
  if (toml.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": longer than ", kFileBytesMax, " bytes"));
  }
  GANTRY_ASSIGN_OR_RETURN(toml::table table, ParseOne(toml, file_name));
  for (const std::string& text : overrides) {
    GANTRY_ASSIGN_OR_RETURN(toml::table one, ParseOne(text, absl::StrCat("--set ", text)));
    Merge(std::move(one), &table);
  }
  return table;
}

std::string TomlReader::Where(const toml::node* node) const {
  if (node == nullptr || node->source().begin.line == 0) return *file_name_;
  const auto& source = node->source();
  return absl::StrCat(source.path == nullptr ? *file_name_ : *source.path, ":", source.begin.line);
}

std::string TomlReader::Name(const std::string& key) const {
  return path_.empty() ? key : key.empty() ? path_ : absl::StrCat(path_, ".", key);
}

void TomlReader::Fail(const std::string& key, const std::string& what) {
  if (!status_->ok()) return;
  const toml::node* node = table_ == nullptr ? nullptr : table_->get(key);
  if (node == nullptr) node = table_;
  *status_ = absl::InvalidArgumentError(absl::StrCat(Where(node), ": ", Name(key), ": ", what));
}

const toml::node* TomlReader::Find(const std::string& key, bool required) {
  known_.insert(key);
  const toml::node* node = table_ == nullptr ? nullptr : table_->get(key);
  if (node == nullptr && required) Fail(key, "is missing; `gantry tco --example` shows a whole file");
  return node;
}

std::string TomlReader::Text(const std::string& key, std::optional<std::string> otherwise) {
  const toml::node* node = Find(key, !otherwise);
  if (node == nullptr) return otherwise.value_or("");
  if (!node->is_string() || node->as_string()->get().size() > kTextBytesMax) {
    Fail(key, absl::StrCat("expected a text in quotes of at most ", kTextBytesMax, " bytes, found ", Kind(*node)));
    return "";
  }
  return node->as_string()->get();
}

bool TomlReader::Bool(const std::string& key, std::optional<bool> otherwise) {
  const toml::node* node = Find(key, !otherwise);
  if (node == nullptr) return otherwise.value_or(false);
  if (!node->is_boolean()) {
    Fail(key, absl::StrCat("expected true or false, found ", Kind(*node)));
    return false;
  }
  return node->as_boolean()->get();
}

std::optional<int64_t> TomlReader::ToDecimal(const std::string& key, const toml::node& node, const Range& range) {
  std::string digits;
  if (node.is_integer()) digits = absl::StrCat(node.as_integer()->get());
  if (node.is_floating_point()) digits = Digits(node.as_floating_point()->get());
  if (node.is_string()) digits = node.as_string()->get();
  const absl::StatusOr<int64_t> value = ParseDecimal(digits, range.scale, range.max);
  if (value.ok() && *value >= range.min) return *value;
  Fail(key, absl::StrCat("expected a number from ", document::Exact(range.min, range.scale, 0), " to ",
                         document::Exact(range.max, range.scale, 0), " with at most ", range.scale, " decimals, found ",
                         Kind(node)));
  return std::nullopt;
}

int64_t TomlReader::Decimal(const std::string& key, const Range& range, std::optional<int64_t> otherwise) {
  const toml::node* node = Find(key, !otherwise);
  if (node == nullptr) return otherwise.value_or(range.min);
  return ToDecimal(key, *node, range).value_or(range.min);
}

std::vector<int64_t> TomlReader::Decimals(const std::string& key, const Range& range, std::vector<int64_t> otherwise) {
  constexpr size_t kCountMax = 20;
  const toml::node* node = Find(key, false);
  if (node == nullptr) return otherwise;
  if (!node->is_array() || node->as_array()->empty() || node->as_array()->size() > kCountMax) {
    Fail(key, absl::StrCat("expected a list of 1 to ", kCountMax, " numbers, found ", Kind(*node)));
    return otherwise;
  }
  std::vector<int64_t> values;
  for (const toml::node& element : *node->as_array()) {
    values.push_back(ToDecimal(key, element, range).value_or(range.min));
  }
  return values;
}

absl::CivilDay TomlReader::Day(const std::string& key) {
  const toml::node* node = Find(key, true);
  if (node == nullptr) return {};
  absl::CivilDay day;
  if (node->is_date()) {
    const toml::date date = node->as_date()->get();
    day = absl::CivilDay(date.year, date.month, date.day);
  } else if (!node->is_string() || !absl::ParseCivilTime(node->as_string()->get(), &day)) {
    Fail(key, absl::StrCat("expected a day such as 2026-07-02, found ", Kind(*node)));
  }
  return day;
}

TomlReader TomlReader::Table(const std::string& key) {
  const toml::node* node = Find(key, false);
  if (node != nullptr && !node->is_table()) Fail(key, absl::StrCat("expected a table, found ", Kind(*node)));
  return TomlReader(node == nullptr ? nullptr : node->as_table(), Name(key), file_name_, status_);
}

std::vector<TomlReader> TomlReader::Tables(const std::string& key, size_t count_max) {
  std::vector<TomlReader> readers;
  const toml::node* node = Find(key, false);
  if (node == nullptr) return readers;
  const toml::array* array = node->as_array();
  if (array == nullptr || array->size() > count_max) {
    Fail(key, absl::StrCat("expected at most ", count_max, " tables, each under [[", Name(key), "]], found ",
                           array == nullptr ? Kind(*node) : absl::StrCat(array->size())));
    return readers;
  }
  for (size_t i = 0; i < array->size(); ++i) {
    const toml::table* table = array->get(i)->as_table();
    if (table == nullptr) {
      Fail(key, absl::StrCat("expected tables, found ", Kind(*array->get(i))));
      return {};
    }
    readers.emplace_back(table, absl::StrCat(Name(key), " ", i + 1), file_name_, status_);
  }
  return readers;
}

void TomlReader::Finish() {
  if (table_ == nullptr || failed()) return;
  for (const auto& [key, node] : *table_) {
    const std::string name(key.str());
    if (known_.contains(name)) continue;
    Fail(name, absl::StrCat("is not known; expected one of: ", absl::StrJoin(known_, ", ")));
    return;
  }
}

}  // namespace gantry::tco
