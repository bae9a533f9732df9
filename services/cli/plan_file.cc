#include "services/cli/plan_file.h"

#include <toml++/toml.h>

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "services/cli/money.h"

namespace gantry::cli {
namespace {

// A table whose keys are asked for one by one; what is left over is an error.
class Reader {
 public:
  Reader(const toml::table& table, const std::string& file) : table_(table), file_(file) {}

  absl::Status Error(const toml::node* node, absl::string_view what) const {
    const auto line = node != nullptr ? node->source().begin.line : table_.source().begin.line;
    return absl::InvalidArgumentError(absl::StrCat(file_, ", line ", static_cast<int64_t>(line), ": ", what));
  }

  absl::StatusOr<std::string> Text(const char* key, const std::string& otherwise = "") {
    const toml::node* node = Take(key);
    if (node == nullptr) return otherwise;
    if (const auto* text = node->as_string()) return text->get();
    // Numbers are taken as they are written where that is exact.
    if (const auto* integer = node->as_integer()) return absl::StrCat(integer->get());
    if (node->is_date() || node->is_date_time()) {
      return Error(node, absl::StrCat(key, ": put the time between quotes"));
    }
    return Error(node, absl::StrCat(key, ": expected text; amounts stand between quotes, such as \"0.26\""));
  }
  absl::StatusOr<uint64_t> Count(const char* key) {
    const toml::node* node = Take(key);
    if (node == nullptr) return 0;
    const auto* integer = node->as_integer();
    if (integer == nullptr || integer->get() < 0) {
      return Error(node, absl::StrCat(key, ": expected a whole number, 0 or more"));
    }
    return static_cast<uint64_t>(integer->get());
  }
  absl::StatusOr<int64_t> Amount(const char* key) {
    const toml::node* node = table_.get(key);
    GANTRY_ASSIGN_OR_RETURN(const std::string text, Text(key, "0"));
    if (text == "0" || text == "0.0" || text == "0.00") return 0;
    absl::StatusOr<int64_t> micro = ParseMicro(text);
    if (!micro.ok()) return Error(node, absl::StrCat(key, ": ", micro.status().message()));
    return *micro;
  }
  absl::StatusOr<int64_t> Time(const char* key) {
    const toml::node* node = table_.get(key);
    GANTRY_ASSIGN_OR_RETURN(const std::string text, Text(key));
    if (text.empty()) return 0;
    absl::StatusOr<int64_t> time = ParseTimeUtc(text);
    if (!time.ok()) return Error(node, absl::StrCat(key, ": ", time.status().message()));
    return *time;
  }
  absl::StatusOr<int> Choice(const char* key, std::initializer_list<const char*> names, const char* otherwise) {
    const toml::node* node = table_.get(key);
    GANTRY_ASSIGN_OR_RETURN(const std::string text, Text(key, otherwise));
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) return static_cast<int>(found - names.begin());
    return Error(node, absl::StrCat(key, ": expected one of ", absl::StrJoin(names, ", "), ", found `", text, "`"));
  }
  absl::StatusOr<const toml::array*> Tables(const char* key) {
    const toml::node* node = Take(key);
    if (node == nullptr) return nullptr;
    const toml::array* array = node->as_array();
    if (array == nullptr || !array->is_homogeneous(toml::node_type::table)) {
      return Error(node, absl::StrCat(key, ": expected a list of tables"));
    }
    return array;
  }
  absl::Status NothingElse() const {
    for (const auto& [key, node] : table_) {
      if (std::find(taken_.begin(), taken_.end(), key.str()) != taken_.end()) continue;
      return Error(&node, absl::StrCat("`", std::string(key.str()), "` is not known here; expected one of ",
                                       absl::StrJoin(taken_, ", ")));
    }
    return absl::OkStatus();
  }

 private:
  const toml::node* Take(const char* key) {
    taken_.emplace_back(key);
    return table_.get(key);
  }
  const toml::table& table_;
  const std::string& file_;
  std::vector<std::string> taken_;
};

absl::StatusOr<v1::PriceLine> ReadLine(const toml::table& table, const std::string& file) {
  Reader reader(table, file);
  v1::PriceLine line;
  GANTRY_ASSIGN_OR_RETURN(*line.mutable_model_glob(), reader.Text("models", "*"));
  GANTRY_ASSIGN_OR_RETURN(const int token_class,
                          reader.Choice("class", {"input", "cached_input", "output", "request"}, ""));
  line.set_token_class(static_cast<v1::TokenClass>(token_class + 1));
  GANTRY_ASSIGN_OR_RETURN(const int mode, reader.Choice("mode", {"flat", "graduated", "volume", "package"}, "flat"));
  line.set_mode(static_cast<v1::TierMode>(mode + 1));
  GANTRY_ASSIGN_OR_RETURN(const int64_t price, reader.Amount("price"));
  line.set_price_micro_per_m(price);
  GANTRY_ASSIGN_OR_RETURN(const uint64_t context_from, reader.Count("context_from"));
  line.set_context_from(context_from);
  GANTRY_ASSIGN_OR_RETURN(const uint64_t context_to, reader.Count("context_to"));
  line.set_context_to(context_to);
  GANTRY_ASSIGN_OR_RETURN(const uint64_t package_size, reader.Count("package_size"));
  line.set_package_size(package_size);
  GANTRY_ASSIGN_OR_RETURN(const toml::array* tiers, reader.Tables("tiers"));
  for (size_t i = 0; tiers != nullptr && i < tiers->size(); ++i) {
    Reader tier(*tiers->get(i)->as_table(), file);
    v1::PriceTier* added = line.add_tiers();
    GANTRY_ASSIGN_OR_RETURN(const uint64_t from, tier.Count("from"));
    added->set_from(from);
    GANTRY_ASSIGN_OR_RETURN(const int64_t tier_price, tier.Amount("price"));
    added->set_price_micro_per_m(tier_price);
    GANTRY_RETURN_IF_ERROR(tier.NothingElse());
  }
  GANTRY_RETURN_IF_ERROR(reader.NothingElse());
  return line;
}

}  // namespace

absl::StatusOr<int64_t> ParseTimeUtc(absl::string_view text) {
  for (const char* format : {"%Y-%m-%d", "%Y-%m-%dT%H:%M:%E*SZ", "%Y-%m-%d %H:%M"}) {
    absl::Time time;
    std::string error;
    if (absl::ParseTime(format, text, absl::UTCTimeZone(), &time, &error)) return absl::ToUnixMicros(time);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected a time such as 2026-12-01 or 2026-12-01T08:00:00Z (UTC), found `", text, "`"));
}

absl::StatusOr<int64_t> ParsePercentPpm(absl::string_view text) {
  const bool negative = !text.empty() && text[0] == '-';
  const absl::string_view digits = negative ? text.substr(1) : text;
  if (digits == "0") return 0;
  absl::StatusOr<int64_t> micro = ParseMicro(digits);
  // A percent has 10,000 parts per million; what is finer than one has no place.
  if (!micro.ok() || *micro % 100 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("expected percent with at most 4 decimals, found `", text, "`"));
  }
  return (negative ? -1 : 1) * (*micro / 100);
}

absl::StatusOr<v1::PublishPlanVersionRequest> ParsePlanFile(absl::string_view text, const std::string& file_name) {
  toml::table table;
  try {
    table = toml::parse(std::string_view(text.data(), text.size()), file_name);
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_name, ", line ", static_cast<int64_t>(error.source().begin.line), ": ", std::string(error.description())));
  }
  Reader reader(table, file_name);
  v1::PublishPlanVersionRequest request;
  GANTRY_ASSIGN_OR_RETURN(*request.mutable_plan(), reader.Text("plan"));
  GANTRY_ASSIGN_OR_RETURN(*request.mutable_currency(), reader.Text("currency", "EUR"));
  GANTRY_ASSIGN_OR_RETURN(*request.mutable_seller_name(), reader.Text("seller"));
  GANTRY_ASSIGN_OR_RETURN(const int64_t valid_from, reader.Time("valid_from"));
  request.set_valid_from_us(valid_from);
  GANTRY_ASSIGN_OR_RETURN(const int64_t promise_until, reader.Time("promise_until"));
  request.set_promise_until_us(promise_until);
  GANTRY_ASSIGN_OR_RETURN(const int64_t commitment, reader.Amount("commitment"));
  request.set_commitment_micro(commitment);
  GANTRY_ASSIGN_OR_RETURN(const int64_t allowance, reader.Amount("allowance"));
  request.set_allowance_micro(allowance);
  GANTRY_ASSIGN_OR_RETURN(const toml::array* lines, reader.Tables("line"));
  for (size_t i = 0; lines != nullptr && i < lines->size(); ++i) {
    GANTRY_ASSIGN_OR_RETURN(*request.add_lines(), ReadLine(*lines->get(i)->as_table(), file_name));
  }
  GANTRY_RETURN_IF_ERROR(reader.NothingElse());
  if (request.plan().empty()) return reader.Error(nullptr, "`plan` is missing: the name of the plan");
  return request;
}

std::string ExamplePlanFile() {
  return R"toml(# A plan for `gantry plan publish --file FILE`. Prices are per million tokens (or requests); amounts stand
# between quotes. A published version never changes: publish another one.
plan = "partners"
currency = "EUR"
# seller = "reseller-name"            # default: the house
# valid_from = "2027-01-01"           # UTC; default: now
# promise_until = "2027-07-01"        # no dearer version takes effect before
commitment = "500.00"                 # the least that a month costs; default: 0
allowance = "10.00"                   # of a month's usage that is free; default: 0

# The first line of a class whose models and context match a request prices it. Every class needs a line for "*".
[[line]]
models = "qwen3.5-122b-*"
class = "output"                      # input, cached_input, output, request
mode = "graduated"                    # flat (default), graduated, volume, package
tiers = [
  { from = 0, price = "2.08" },
  { from = 100_000_000, price = "1.60" },   # each token beyond the first 100 M of a month
]

[[line]]
class = "output"
price = "1.00"

[[line]]
class = "input"
context_to = 200_000                  # prompts below 200,000 tokens
price = "0.14"

[[line]]
class = "input"
context_from = 200_000
price = "0.28"

[[line]]
class = "cached_input"
price = "0.05"

[[line]]
class = "request"
price = "0"
)toml";
}

}  // namespace gantry::cli
