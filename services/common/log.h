// Logs: one line per event, JSON for machines, a human form on a terminal. Goes to stderr, which the supervisor points
// at a file. Never pass prompts, replies or secrets; pass ids.
//
//   Log(LogLevel::kInfo, "worker attached", {{"worker", id.ToHex()}, {"epoch", epoch}});
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace gantry {

// kNone: no line is so severe; for tests that provoke thousands of errors.
enum class LogLevel { kDebug, kInfo, kWarning, kError, kNone };

enum class LogFormat { kAuto, kJson, kHuman };  // kAuto: human when stderr is a terminal

struct LogField {
  absl::string_view key;
  std::variant<absl::string_view, int64_t, uint64_t, double, bool> value;

  LogField(absl::string_view k, absl::string_view v) : key(k), value(v) {}
  LogField(absl::string_view k, const char* v) : key(k), value(absl::string_view(v)) {}
  LogField(absl::string_view k, const std::string& v) : key(k), value(absl::string_view(v)) {}
  LogField(absl::string_view k, bool v) : key(k), value(v) {}
  template <typename T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
  LogField(absl::string_view k, T v) : key(k) {
    if constexpr (std::is_floating_point_v<T>) {
      value = static_cast<double>(v);
    } else if constexpr (std::is_unsigned_v<T>) {
      value = static_cast<uint64_t>(v);
    } else {
      value = static_cast<int64_t>(v);
    }
  }
};

// `process` stands on every line. Call once, before threads start; before that, lines carry "gantry".
void InitLog(absl::string_view process, LogLevel level = LogLevel::kInfo, LogFormat format = LogFormat::kAuto);

// INVALID_ARGUMENT lists the four names.
absl::Status ParseLogLevel(absl::string_view text, LogLevel* level);

// Thread-safe; a line is one write(2). `event` says what happened in a few fixed words, values go to the fields. Text
// longer than 8 KiB is cut.
void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields = {});

// The line without its newline, for tests: `time_us` since 1970.
std::string FormatLogLine(LogFormat format, int64_t time_us, LogLevel level, absl::string_view process,
                          absl::string_view event, std::initializer_list<LogField> fields);

}  // namespace gantry
