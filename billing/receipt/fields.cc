#include "billing/receipt/fields.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "billing/receipt/canonical_json.h"

namespace gantry::billing {
namespace {

constexpr size_t kTextLimit = 1024, kListLimit = 32;

bool IsHex(const nlohmann::json& value, size_t bytes) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return text.size() == 2 * bytes && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
         });
}

// Also where the reader let larger numbers pass.
bool IsInteger(const nlohmann::json& value, int64_t least) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{kCanonicalIntegerMax}) return false;
  return value.is_number_integer() && value.get<int64_t>() >= least;
}

bool IsDecimal(const nlohmann::json& value, int64_t least) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  int64_t number = 0;
  // The way back tells leading zeros, '+' and blanks apart.
  return absl::SimpleAtoi(text, &number) && absl::StrCat(number) == text && number >= least;
}

bool IsDay(const nlohmann::json& value) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() != 10) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == 4 || i == 7 ? text[i] != '-' : !absl::ascii_isdigit(static_cast<unsigned char>(text[i]))) return false;
  }
  return true;
}

bool IsCurrency(const nlohmann::json& value) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return text.size() == 3 && std::all_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

struct Expectation {
  bool met;
  const char* what;
};

Expectation Check(const nlohmann::json& value, FieldForm form) {
  switch (form) {
    case FieldForm::kHex16:
      return {IsHex(value, 16), "32 hex digits in lower case"};
    case FieldForm::kHex32:
      return {IsHex(value, 32), "64 hex digits in lower case"};
    case FieldForm::kHex64:
      return {IsHex(value, 64), "128 hex digits in lower case"};
    case FieldForm::kCount:
      return {IsInteger(value, 0), "an integer from 0 on, of at most 53 bits"};
    case FieldForm::kInteger:
      return {IsInteger(value, -kCanonicalIntegerMax), "an integer of at most 53 bits"};
    case FieldForm::kDecimal:
      return {IsDecimal(value, INT64_MIN), "a string with an integer of 64 bits"};
    case FieldForm::kOrdinal:
      return {IsDecimal(value, 1), "a string with an integer from 1 on"};
    case FieldForm::kCurrency:
      return {IsCurrency(value), "an ISO 4217 code"};
    case FieldForm::kText:
      return {value.is_string() && !value.get_ref<const std::string&>().empty() &&
                  value.get_ref<const std::string&>().size() <= kTextLimit,
              "1 to 1024 bytes of text"};
    case FieldForm::kDay:
      return {IsDay(value), "YYYY-MM-DD"};
    case FieldForm::kObject:
      return {value.is_object(), "an object"};
    case FieldForm::kHex32List:
      return {value.is_array() && value.size() <= kListLimit &&
                  std::all_of(value.begin(), value.end(), [](const nlohmann::json& e) { return IsHex(e, 32); }),
              "at most 32 strings of 64 hex digits in lower case"};
  }
  return {false, "a known form"};
}

bool IsOneOf(const nlohmann::json& value, const char* choices) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  const std::vector<absl::string_view> possible = absl::StrSplit(choices, '|');
  return std::find(possible.begin(), possible.end(), text) != possible.end();
}

}  // namespace

absl::Status CheckFields(absl::string_view path, const nlohmann::json& object, absl::Span<const FieldRule> rules) {
  const std::string prefix = path.empty() ? "" : absl::StrCat(path, ".");
  for (auto member = object.begin(); member != object.end(); ++member) {
    if (std::none_of(rules.begin(), rules.end(), [&](const FieldRule& rule) { return member.key() == rule.name; })) {
      return absl::DataLossError(absl::StrCat(prefix, member.key(), ": is not a member of this format"));
    }
  }
  for (const FieldRule& rule : rules) {
    const auto member = object.find(rule.name);
    if (member == object.end()) {
      if (rule.optional) continue;
      return absl::DataLossError(absl::StrCat(prefix, rule.name, ": is missing"));
    }
    const Expectation expectation = Check(*member, rule.form);
    if (!expectation.met) {
      return absl::DataLossError(absl::StrCat(prefix, rule.name, ": expected ", expectation.what));
    }
    if (rule.one_of != nullptr && !IsOneOf(*member, rule.one_of)) {
      return absl::DataLossError(
          absl::StrCat(prefix, rule.name, ": expected ", absl::StrReplaceAll(rule.one_of, {{"|", " or "}})));
    }
  }
  return absl::OkStatus();
}

}  // namespace gantry::billing
