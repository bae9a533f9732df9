#include "services/common/config.h"

#include <toml++/toml.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"

namespace gantry {
namespace {

enum class Kind { kString, kChoice, kInt, kDouble, kBool };

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string TomlString(absl::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04X", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// The shortest decimal that reads back as the same number and is a TOML float.
std::string TomlFloat(double value) {
  std::string text = absl::StrCat(value);
  double back = 0;
  if (!absl::SimpleAtod(text, &back) || back != value) text = absl::StrFormat("%.17g", value);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

}  // namespace

struct Config::Option::State {
  std::string name;
  std::string help;
  std::string group;
  std::string example;
  std::string origin = "default";
  Kind kind = Kind::kString;
  bool required = false;
  std::string* text = nullptr;
  int64_t* integer = nullptr;
  double* real = nullptr;
  bool* flag = nullptr;
  std::vector<std::string> choices;
  int64_t int_min = 0, int_max = 0;
  double real_min = 0, real_max = 0;

  std::string Expected() const {
    switch (kind) {
      case Kind::kString:
        return "text";
      case Kind::kChoice:
        return absl::StrJoin(choices, "|");
      case Kind::kInt:
        return absl::StrCat("a whole number from ", int_min, " to ", int_max);
      case Kind::kDouble:
        return absl::StrCat("a number from ", real_min, " to ", real_max);
      case Kind::kBool:
        return "true or false";
    }
    return "";
  }

  std::string Value() const {
    switch (kind) {
      case Kind::kString:
      case Kind::kChoice:
        return TomlString(*text);
      case Kind::kInt:
        return absl::StrCat(*integer);
      case Kind::kDouble:
        return TomlFloat(*real);
      case Kind::kBool:
        return *flag ? "true" : "false";
    }
    return "";
  }

  // From flag, variable or file alike: the file's value arrives as the text it would have on a command line.
  absl::Status Set(absl::string_view value, const std::string& from) {
    bool good = true;
    switch (kind) {
      case Kind::kString:
        good = value.find('\0') == value.npos && value.size() <= 4096;
        if (good) *text = std::string(value);
        break;
      case Kind::kChoice:
        good = std::find(choices.begin(), choices.end(), value) != choices.end();
        if (good) *text = std::string(value);
        break;
      case Kind::kInt: {
        int64_t parsed = 0;
        good = absl::SimpleAtoi(value, &parsed) && parsed >= int_min && parsed <= int_max;
        if (good) *integer = parsed;
        break;
      }
      case Kind::kDouble: {
        double parsed = 0;
        good = absl::SimpleAtod(value, &parsed) && parsed >= real_min && parsed <= real_max;
        if (good) *real = parsed;
        break;
      }
      case Kind::kBool:
        good = value == "true" || value == "false";
        if (good) *flag = value == "true";
        break;
    }
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat(from, ": ", name, ": expected ", Expected(), ", found '", value.substr(0, 200), "'"));
    }
    origin = from;
    return absl::OkStatus();
  }
};

struct Config::Impl {
  std::string process;
  std::string summary;
  std::string prefix;  // "GANTRY_ROUTER_"
  char** environment;
  std::string group = "Options";
  std::vector<std::unique_ptr<Option::State>> options;
  std::string config_file;
  std::string log_level = "info";
  std::string log_format = "auto";

  Option::State* Find(absl::string_view name) const {
    for (const auto& option : options) {
      if (option->name == name) return option.get();
    }
    return nullptr;
  }

  std::string VariableOf(absl::string_view name) const {
    return prefix + absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}}));
  }

  // "; did you mean listen?" when something is near enough to be a slip of the finger.
  std::string Nearest(absl::string_view name, const std::vector<std::string>& candidates) const {
    std::string best;
    size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
    for (const std::string& candidate : candidates) {
      size_t distance = EditDistance(name.substr(0, 100), candidate);
      if (distance < best_distance) {
        best_distance = distance;
        best = candidate;
      }
    }
    return best.empty() ? "; --help lists what there is" : absl::StrCat("; did you mean ", best, "?");
  }

  std::vector<std::string> Names(absl::string_view before) const {
    std::vector<std::string> names;
    for (const auto& option : options) names.push_back(absl::StrCat(before, option->name));
    return names;
  }

  Option::State* Declare(Kind kind, std::string name, std::string help) {
    GANTRY_CHECK(Find(name) == nullptr, "an option is declared once");
    auto state = std::make_unique<Option::State>();
    state->kind = kind;
    state->name = std::move(name);
    state->help = std::move(help);
    state->group = group;
    options.push_back(std::move(state));
    return options.back().get();
  }

  absl::Status ReadFile(const std::string& path) {
    constexpr size_t kFileLimit = 1 << 20;
    std::ifstream stream(path, std::ios::binary);
    std::string content(kFileLimit + 1, '\0');
    if (!stream) return absl::InvalidArgumentError(absl::StrCat("config file ", path, ": cannot be read"));
    stream.read(content.data(), static_cast<std::streamsize>(content.size()));
    content.resize(static_cast<size_t>(stream.gcount()));
    if (content.size() > kFileLimit) {
      return absl::InvalidArgumentError(absl::StrCat("config file ", path, ": longer than 1 MiB"));
    }
    toml::table table;
    try {
      table = toml::parse(content, path);
    } catch (const toml::parse_error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", error.source().begin.line, ": ", std::string(error.description())));
    }
    for (auto& [key, node] : table) {
      std::string name(key.str());
      std::string where = absl::StrCat(path, ":", key.source().begin.line);
      Option::State* option = Find(name);
      if (option == nullptr || option->text == &config_file) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": unknown key '", name, "'", Nearest(name, Names(""))));
      }
      std::string value;
      bool type_fits = false;
      if (const auto* text = node.as_string()) {
        value = text->get();
        type_fits = option->kind == Kind::kString || option->kind == Kind::kChoice;
      } else if (const auto* integer = node.as_integer()) {
        value = absl::StrCat(integer->get());
        type_fits = option->kind == Kind::kInt || option->kind == Kind::kDouble;
      } else if (const auto* real = node.as_floating_point()) {
        value = absl::StrFormat("%.17g", real->get());
        type_fits = option->kind == Kind::kDouble;
      } else if (const auto* boolean = node.as_boolean()) {
        value = boolean->get() ? "true" : "false";
        type_fits = option->kind == Kind::kBool;
      } else {
        value = "a table, array or date";
      }
      if (!type_fits) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, ": ", name, ": expected ", option->Expected(), ", found ", value));
      }
      if (absl::Status set = option->Set(value, absl::StrCat("file ", where)); !set.ok()) return set;
    }
    return absl::OkStatus();
  }

  absl::Status ReadEnvironment() {
    for (char** entry = environment; entry != nullptr && *entry != nullptr; ++entry) {
      absl::string_view line(*entry);
      if (!absl::StartsWith(line, prefix)) continue;
      size_t equals = line.find('=');
      if (equals == line.npos) continue;
      std::string variable(line.substr(0, equals));
      std::string name = absl::AsciiStrToLower(absl::StrReplaceAll(variable.substr(prefix.size()), {{"_", "-"}}));
      Option::State* option = Find(name);
      if (option == nullptr) {
        std::vector<std::string> variables;
        for (const auto& known : options) variables.push_back(VariableOf(known->name));
        return absl::InvalidArgumentError(absl::StrCat("unknown variable ", variable, Nearest(variable, variables)));
      }
      if (absl::Status set = option->Set(line.substr(equals + 1), "variable " + variable); !set.ok()) return set;
    }
    return absl::OkStatus();
  }
};

Config::Option& Config::Option::Required() {
  state_->required = true;
  return *this;
}

Config::Option& Config::Option::Example(std::string value) {
  state_->example = std::move(value);
  return *this;
}

Config::Config(std::string process, std::string summary, char** environment) : impl_(std::make_unique<Impl>()) {
  impl_->prefix = absl::StrCat("GANTRY_", absl::AsciiStrToUpper(absl::StrReplaceAll(process, {{"-", "_"}})), "_");
  impl_->process = std::move(process);
  impl_->summary = std::move(summary);
  impl_->environment = environment != nullptr ? environment : environ;
}

Config::~Config() = default;

void Config::Group(std::string title) {
  impl_->group = std::move(title);
}

Config::Option Config::String(std::string name, std::string* target, std::string help) {
  Option::State* state = impl_->Declare(Kind::kString, std::move(name), std::move(help));
  state->text = target;
  return Option(state);
}

Config::Option Config::Choice(std::string name, std::string* target, std::vector<std::string> choices,
                              std::string help) {
  Option::State* state = impl_->Declare(Kind::kChoice, std::move(name), std::move(help));
  state->text = target;
  state->choices = std::move(choices);
  return Option(state);
}

Config::Option Config::Int(std::string name, int64_t* target, int64_t min, int64_t max, std::string help) {
  Option::State* state = impl_->Declare(Kind::kInt, std::move(name), std::move(help));
  state->integer = target;
  state->int_min = min;
  state->int_max = max;
  return Option(state);
}

Config::Option Config::Double(std::string name, double* target, double min, double max, std::string help) {
  Option::State* state = impl_->Declare(Kind::kDouble, std::move(name), std::move(help));
  state->real = target;
  state->real_min = min;
  state->real_max = max;
  return Option(state);
}

Config::Option Config::Bool(std::string name, bool* target, std::string help) {
  Option::State* state = impl_->Declare(Kind::kBool, std::move(name), std::move(help));
  state->flag = target;
  return Option(state);
}

absl::StatusOr<bool> Config::Parse(int argc, const char* const* argv) {
  Group("General");
  String("config", &impl_->config_file, "TOML file with any of these names as keys").Example("/etc/gantry/x.toml");
  Choice("log-level", &impl_->log_level, {"debug", "info", "warning", "error"}, "Least important lines to log");
  Choice("log-format", &impl_->log_format, {"auto", "json", "human"}, "auto: human on a terminal, else JSON");

  // Flags are split by CLI11 first, because --config among them says which file to read, and applied last.
  bool help = false, version = false, check = false, print = false;
  std::vector<std::pair<Option::State*, std::vector<std::string>>> given;
  given.reserve(impl_->options.size());
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  app.add_flag("--help,-h", help);
  app.add_flag("--version", version);
  app.add_flag("--check-config", check);
  app.add_flag("--print-config", print);
  for (const auto& option : impl_->options) {
    given.emplace_back(option.get(), std::vector<std::string>());
    CLI::Option* flag = app.add_option("--" + option->name, given.back().second)->allow_extra_args(false);
    if (option->kind == Kind::kBool) {
      flag->expected(0, 1)->default_str("true");
    } else {
      flag->expected(1);
    }
    flag->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat("flags: ", error.what()));
  }
  std::vector<std::string> extras = app.remaining();
  if (!extras.empty()) {
    std::string name = extras[0].substr(0, extras[0].find('='));
    std::vector<std::string> flags = impl_->Names("--");
    for (const char* own : {"--help", "--version", "--check-config", "--print-config"}) flags.push_back(own);
    return absl::InvalidArgumentError(absl::StrCat("unknown flag '", name, "'", impl_->Nearest(name, flags)));
  }
  if (help) {
    std::fputs(Help().c_str(), stdout);
    return false;
  }
  if (version) {
    std::printf("gantry-%s %s\n", impl_->process.c_str(), BuildVersion().c_str());
    return false;
  }

  Option::State* config = impl_->Find("config");
  auto apply_flag = [](Option::State* option, const std::vector<std::string>& values) -> absl::Status {
    if (values.empty()) return absl::OkStatus();
    std::string from = "flag --" + option->name;
    if (values.size() > 1) return absl::InvalidArgumentError(absl::StrCat(from, ": given ", values.size(), " times"));
    // A boolean flag without value comes as an empty string or "true", depending on how it was written.
    return option->Set(option->kind == Kind::kBool && values[0].empty() ? "true" : values[0], from);
  };
  for (auto& [option, values] : given) {
    if (option == config) {
      if (absl::Status set = apply_flag(option, values); !set.ok()) return set;
    }
  }
  if (config->text->empty()) {
    for (char** entry = impl_->environment; entry != nullptr && *entry != nullptr; ++entry) {
      absl::string_view line(*entry);
      std::string wanted = impl_->VariableOf("config") + "=";
      if (absl::StartsWith(line, wanted)) *config->text = std::string(line.substr(wanted.size()));
    }
  }
  if (!config->text->empty()) {
    if (absl::Status read = impl_->ReadFile(*config->text); !read.ok()) return read;
  }
  if (absl::Status read = impl_->ReadEnvironment(); !read.ok()) return read;
  for (auto& [option, values] : given) {
    if (absl::Status set = apply_flag(option, values); !set.ok()) return set;
  }
  if (print) {
    std::fputs(Print().c_str(), stdout);
    return false;
  }
  for (const auto& option : impl_->options) {
    if (option->required && option->text != nullptr && option->text->empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", option->name, " is not set (", option->help, ")", option->example.empty() ? "" : "; for example --",
          option->example.empty() ? "" : option->name, option->example.empty() ? "" : " ", option->example));
    }
  }
  if (check) {
    std::printf("configuration of gantry-%s is good\n", impl_->process.c_str());
    return false;
  }
  LogLevel level = LogLevel::kInfo;
  if (absl::Status parsed = ParseLogLevel(impl_->log_level, &level); !parsed.ok()) return parsed;
  InitLog(impl_->process, level,
          impl_->log_format == "json"    ? LogFormat::kJson
          : impl_->log_format == "human" ? LogFormat::kHuman
                                         : LogFormat::kAuto);
  return true;
}

std::string Config::Print() const {
  std::string out = absl::StrCat("# gantry-", impl_->process, " ", BuildVersion(), "\n");
  for (const auto& option : impl_->options) {
    absl::string_view comment = option->name == "config" ? "# " : "";
    absl::StrAppend(&out, comment, option->name, " = ", option->Value(), "  # ", option->origin, "\n");
  }
  return out;
}

std::string Config::Help() const {
  std::string out = absl::StrCat("gantry-", impl_->process, ": ", impl_->summary, "\n\nUsage: gantry-", impl_->process);
  for (const auto& option : impl_->options) {
    if (option->required) {
      absl::StrAppend(&out, " --", option->name, " ",
                      option->example.empty() ? absl::AsciiStrToUpper(option->name) : option->example);
    }
  }
  absl::StrAppend(&out, " [options]\n");
  std::string group;
  for (const auto& option : impl_->options) {
    if (option->group != group) {
      group = option->group;
      absl::StrAppend(&out, "\n", group, "\n");
    }
    std::string value;
    switch (option->kind) {
      case Kind::kString:
        value = " TEXT";
        break;
      case Kind::kChoice:
        value = " " + option->Expected();
        break;
      case Kind::kInt:
      case Kind::kDouble:
        value = " N";
        break;
      case Kind::kBool:
        break;
    }
    std::string left = absl::StrCat("  --", option->name, value);
    constexpr size_t kColumn = 32;
    left +=
        left.size() < kColumn ? std::string(kColumn - left.size(), ' ') : absl::StrCat("\n", std::string(kColumn, ' '));
    absl::StrAppend(&out, left, option->help);
    if (option->kind == Kind::kInt || option->kind == Kind::kDouble) {
      absl::StrAppend(&out, " (",
                      absl::StripPrefix(absl::StripPrefix(option->Expected(), "a whole number "), "a number "), ")");
    }
    if (option->required) {
      absl::StrAppend(&out, " [required]");
    } else if (option->origin == "default" && option->Value() != "\"\"") {
      absl::StrAppend(&out, " [", option->Value(), "]");
    }
    absl::StrAppend(&out, "\n");
  }
  absl::StrAppend(&out, "  --check-config                Check everything above and exit\n",
                  "  --print-config                Print every value and where it comes from, as TOML, and exit\n",
                  "  --version, --help\n\n", "Where a value comes from, first match wins:\n",
                  "  1. flag       --log-level debug\n", "  2. variable   ", impl_->VariableOf("log-level"), "=debug\n",
                  "  3. file       log-level = \"debug\"      (the TOML file named by --config)\n",
                  "  4. default    in [brackets] above\n",
                  "Exit codes: 0 done or drained, 2 wrong configuration or cannot start.\n");
  return out;
}

std::string Config::OriginOf(absl::string_view name) const {
  const Option::State* option = impl_->Find(name);
  return option == nullptr ? "" : option->origin;
}

}  // namespace gantry
