#include "billing/receipt/canonical_json.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace gantry::billing {
namespace {

constexpr size_t kDepthLimit = 8;

void AppendString(absl::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && c != '"' && c != '\\') {
      out->push_back(c);
      continue;
    }
    out->push_back('\\');
    switch (c) {
      case '"':
      case '\\':
        out->push_back(c);
        break;
      case '\b':
        out->push_back('b');
        break;
      case '\t':
        out->push_back('t');
        break;
      case '\n':
        out->push_back('n');
        break;
      case '\f':
        out->push_back('f');
        break;
      case '\r':
        out->push_back('r');
        break;
      default:
        out->append({'u', '0', '0', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
  out->push_back('"');
}

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Builds the value and refuses what the subset does not know.
class Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  nlohmann::json root;
  std::string problem;

  bool null() override { return Refuse("null"); }
  bool boolean(bool) override { return Refuse("true or false"); }
  bool number_integer(number_integer_t value) override {
    if (value < -kCanonicalIntegerMax) return Refuse("an integer beyond 53 bits");
    return Put(value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(kCanonicalIntegerMax)) return Refuse("an integer beyond 53 bits");
    return Put(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t, const string_t&) override { return Refuse("a number that is not an integer"); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t&) override { return Refuse("binary data"); }
  bool start_object(size_t) override { return Open(nlohmann::json::object()); }
  bool start_array(size_t) override { return Open(nlohmann::json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (!IsAscii(name)) return Refuse("a name beyond ASCII");
    if (open_.back()->contains(name)) return Refuse(absl::StrCat("`", name, "` twice"));
    name_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    problem = absl::StrCat("json: not valid at byte ", position);
    return false;
  }

 private:
  bool Refuse(absl::string_view what) {
    problem = absl::StrCat("json: holds ", what);
    return false;
  }
  nlohmann::json* Place(nlohmann::json value) {
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[name_] = std::move(value));
  }
  template <typename T>
  bool Put(T value) {
    if (open_.empty()) return Refuse("no object");
    Place(nlohmann::json(std::move(value)));
    return true;
  }
  bool Open(nlohmann::json value) {
    if (open_.empty() && !value.is_object()) return Refuse("no object");
    if (open_.size() == kDepthLimit) return Refuse(absl::StrCat("more than ", kDepthLimit, " levels"));
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  // Parents stay where they are while a child is open: only the innermost grows.
  std::vector<nlohmann::json*> open_;
  std::string name_;
};

void AppendCanonical(const nlohmann::json& value, std::string* out) {
  if (value.is_string()) {
    AppendString(value.get_ref<const std::string&>(), out);
  } else if (value.is_number_integer()) {
    absl::StrAppend(out, value.get<int64_t>());
  } else if (value.is_array()) {
    out->push_back('[');
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out->push_back(',');
      AppendCanonical(value[i], out);
    }
    out->push_back(']');
  } else {
    GANTRY_CHECK(value.is_object(), "canonical JSON holds objects, arrays, strings and integers");
    out->push_back('{');
    // The library keeps names in byte order, which for ASCII is RFC 8785's order of UTF-16 units.
    for (auto entry = value.begin(); entry != value.end(); ++entry) {
      if (entry != value.begin()) out->push_back(',');
      AppendString(entry.key(), out);
      out->push_back(':');
      AppendCanonical(entry.value(), out);
    }
    out->push_back('}');
  }
}

}  // namespace

void CanonicalObject::Name(absl::string_view name) {
  GANTRY_CHECK(out_.empty() || last_name_ < name, "names come in ascending order");
  out_.push_back(out_.empty() ? '{' : ',');
  AppendString(name, &out_);
  out_.push_back(':');
  last_name_.assign(name.data(), name.size());
}

CanonicalObject& CanonicalObject::Add(absl::string_view name, absl::string_view text) {
  Name(name);
  AppendString(text, &out_);
  return *this;
}

CanonicalObject& CanonicalObject::Add(absl::string_view name, int64_t number) {
  GANTRY_CHECK(number >= -kCanonicalIntegerMax && number <= kCanonicalIntegerMax, "larger integers are strings");
  Name(name);
  absl::StrAppend(&out_, number);
  return *this;
}

CanonicalObject& CanonicalObject::AddJson(absl::string_view name, absl::string_view json) {
  Name(name);
  out_.append(json.data(), json.size());
  return *this;
}

std::string CanonicalObject::Finish() {
  if (out_.empty()) out_.push_back('{');
  out_.push_back('}');
  return std::move(out_);
}

absl::StatusOr<nlohmann::json> ParseCanonicalObject(absl::string_view bytes) {
  // What readers of JSON skip or take for the end is told apart here: blanks, a byte order mark, NUL.
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (static_cast<unsigned char>(bytes[i]) < 0x20) {
      return absl::InvalidArgumentError(absl::StrCat("canonical: byte ", i + 1, " is a control character"));
    }
  }
  if (bytes.empty() || bytes.front() != '{') {
    return absl::InvalidArgumentError("json: expected an object, which begins with {");
  }
  Reader reader;
  if (!nlohmann::json::sax_parse(bytes.begin(), bytes.end(), &reader)) {
    return absl::InvalidArgumentError(reader.problem.empty() ? "json: not valid" : reader.problem);
  }
  const std::string canonical = Canonical(reader.root);
  if (canonical != bytes) {
    const size_t common = std::min(canonical.size(), bytes.size());
    const auto difference = std::mismatch(canonical.begin(), canonical.begin() + static_cast<ptrdiff_t>(common),
                                          bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(common));
    return absl::InvalidArgumentError(
        absl::StrCat("canonical: byte ", difference.first - canonical.begin() + 1,
                     " is not as RFC 8785 spells it; the file was edited or reformatted"));
  }
  return std::move(reader.root);
}

std::string Canonical(const nlohmann::json& value) {
  std::string out;
  AppendCanonical(value, &out);
  return out;
}

}  // namespace gantry::billing
