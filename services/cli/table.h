// Columns for people: names left, figures right, two blanks between, nothing at a line's end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gantry::cli {

class Table {
 public:
  // A heading that begins with '>' is a column of figures, aligned right.
  explicit Table(const std::vector<std::string>& headings);
  // REQUIRES: one cell per heading.
  void Add(std::vector<std::string> cells);
  size_t rows() const { return rows_.size() - 1; }
  // Heading and rows, each with its newline. Widths count characters of UTF-8, not bytes.
  std::string Render() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// 1234567 -> "1,234,567".
std::string WithSeparators(int64_t value);
// Microseconds since 1970 -> "2026-11-25 01:57:19" (UTC); 0 -> "-".
std::string FormatTime(int64_t us);
// The same as RFC 3339 with microseconds, for JSON; 0 -> "".
std::string FormatTimeJson(int64_t us);

}  // namespace gantry::cli
