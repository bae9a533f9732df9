#include "services/cli/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/base/check.h"

namespace gantry::cli {
namespace {

size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

Table::Table(const std::vector<std::string>& headings) {
  std::vector<std::string> names;
  for (const std::string& heading : headings) {
    right_.push_back(heading.front() == '>');
    names.push_back(right_.back() ? heading.substr(1) : heading);
  }
  rows_.push_back(std::move(names));
}

void Table::Add(std::vector<std::string> cells) {
  GANTRY_CHECK(cells.size() == right_.size(), "a row has one cell per heading");
  rows_.push_back(std::move(cells));
}

std::string Table::Render() const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      if (i > 0) absl::StrAppend(&line, "  ");
      absl::StrAppend(&line, right_[i] ? padding : "", row[i], right_[i] ? "" : padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

std::string WithSeparators(int64_t value) {
  const bool negative = value < 0;
  std::string text = absl::StrCat(negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value));
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return negative ? "-" + text : text;
}

std::string FormatTime(int64_t us) {
  if (us == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixMicros(us), absl::UTCTimeZone());
}

std::string FormatTimeJson(int64_t us) {
  if (us == 0) return "";
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixMicros(us), absl::UTCTimeZone());
}

}  // namespace gantry::cli
