// Figures of the benchmark: for people as lines, for machines as JSON, each beside what it is held to.
#pragma once

#include <cstdio>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace gantry::billing {

struct Report {
  nlohmann::ordered_json json;
  bool as_json = false;

  void Add(const std::string& name, double value, const char* unit, const std::string& note) {
    json[name] = value;
    if (!as_json) std::printf("%-34s %12.1f %-10s %s\n", name.c_str(), value, unit, note.c_str());
    std::fflush(stdout);
  }
  // With the ratio to its floor or limit: 1 and more is well, whichever of them it is.
  void AddHeld(const std::string& name, double value, const char* unit, double held_to, bool more_is_better,
               const std::string& note) {
    const double ratio = more_is_better ? value / held_to : value > 0 ? held_to / value : 1e9;
    json[name + "_ratio"] = ratio;
    Add(name, value, unit,
        absl::StrCat(more_is_better ? "floor " : "limit ", held_to, ", x", static_cast<int>(ratio * 100) / 100.0,
                     note.empty() ? "" : "; ", note));
  }
};

}  // namespace gantry::billing
