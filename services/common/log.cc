#include "services/common/log.h"

#include <unistd.h>

#include <atomic>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace gantry {
namespace {

constexpr absl::string_view kLevelNames[] = {"debug", "info", "warning", "error"};
constexpr size_t kTextLimit = 8192;

struct LogState {
  std::string process = "gantry";
  std::atomic<LogLevel> level{LogLevel::kInfo};
  LogFormat format = LogFormat::kAuto;
};

LogState& State() {
  static auto* state = new LogState;
  return *state;
}

// JSON string. Bytes that are not printable ASCII are escaped one by one or passed as UTF-8; invalid UTF-8 becomes
// U+FFFD so that every line parses.
void AppendJsonString(std::string* out, absl::string_view text) {
  text = text.substr(0, kTextLimit);
  out->push_back('"');
  for (size_t i = 0; i < text.size();) {
    auto c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(text[i++]);
    } else if (c < 0x20 || c == 0x7f) {
      absl::StrAppendFormat(out, "\\u%04x", c);
      ++i;
    } else if (c < 0x80) {
      out->push_back(text[i++]);
    } else {
      size_t length = c >= 0xf0 && c < 0xf5 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc2 && c < 0xe0 ? 2 : 0;
      bool valid = length != 0 && i + length <= text.size();
      for (size_t k = 1; valid && k < length; ++k) valid = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
      if (valid) {
        // Overlong forms, surrogates and what lies beyond U+10FFFF show in the second byte.
        auto second = static_cast<unsigned char>(text[i + 1]);
        valid = !((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f) || (c == 0xf0 && second < 0x90) ||
                  (c == 0xf4 && second > 0x8f));
      }
      if (valid) {
        absl::StrAppend(out, text.substr(i, length));
        i += length;
      } else {
        out->append("\xef\xbf\xbd");
        ++i;
      }
    }
  }
  out->push_back('"');
}

void AppendValue(std::string* out, const LogField& field, bool json) {
  if (const auto* text = std::get_if<absl::string_view>(&field.value)) {
    bool plain = !json && !text->empty() && text->find_first_of(" \"\n\r\t\x1b") == text->npos;
    if (plain) {
      absl::StrAppend(out, text->substr(0, kTextLimit));
    } else {
      AppendJsonString(out, *text);
    }
  } else if (const auto* number = std::get_if<int64_t>(&field.value)) {
    absl::StrAppend(out, *number);
  } else if (const auto* natural = std::get_if<uint64_t>(&field.value)) {
    absl::StrAppend(out, *natural);
  } else if (const auto* real = std::get_if<double>(&field.value)) {
    if (std::isfinite(*real)) {
      absl::StrAppend(out, *real);
    } else {
      out->append("null");
    }
  } else {
    out->append(std::get<bool>(field.value) ? "true" : "false");
  }
}

}  // namespace

std::string FormatLogLine(LogFormat format, int64_t time_us, LogLevel level, absl::string_view process,
                          absl::string_view event, std::initializer_list<LogField> fields) {
  absl::Time time = absl::FromUnixMicros(time_us);
  absl::string_view level_name = kLevelNames[static_cast<int>(level)];
  std::string line;
  if (format == LogFormat::kJson) {
    absl::StrAppend(&line, "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone()),
                    "\",\"level\":\"", level_name, "\",\"process\":");
    AppendJsonString(&line, process);
    line.append(",\"event\":");
    AppendJsonString(&line, event);
    for (const LogField& field : fields) {
      line.push_back(',');
      AppendJsonString(&line, field.key);
      line.push_back(':');
      AppendValue(&line, field, true);
    }
    line.push_back('}');
  } else {
    absl::StrAppend(&line, absl::FormatTime("%H:%M:%E3S", time, absl::LocalTimeZone()), " ", level_name, " ", process,
                    ": ", event);
    for (const LogField& field : fields) {
      absl::StrAppend(&line, " ", field.key, "=");
      AppendValue(&line, field, false);
    }
  }
  return line;
}

void InitLog(absl::string_view process, LogLevel level, LogFormat format) {
  State().process = std::string(process);
  State().level = level;
  State().format = format;
}

absl::Status ParseLogLevel(absl::string_view text, LogLevel* level) {
  for (int i = 0; i < 4; ++i) {
    if (text == kLevelNames[i]) {
      *level = static_cast<LogLevel>(i);
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log level: expected debug, info, warning or error, found '", text, "'"));
}

void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  const LogState& state = State();
  if (level < state.level.load(std::memory_order_relaxed)) return;
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  LogFormat format = state.format;
  if (format == LogFormat::kAuto) format = terminal ? LogFormat::kHuman : LogFormat::kJson;
  std::string line = FormatLogLine(format, absl::ToUnixMicros(absl::Now()), level, state.process, event, fields);
  line.push_back('\n');
  // One write keeps lines of several threads whole; a log that cannot be written has nobody left to tell.
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace gantry
