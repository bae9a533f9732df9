#include "services/worker/energy_meter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace gantry::worker {
namespace {

// A small file of the kernel's, from its beginning.
std::optional<std::string> ReadAgain(int descriptor) {
  char buffer[64];
  const ssize_t size = pread(descriptor, buffer, sizeof(buffer), 0);
  if (size <= 0) return std::nullopt;
  return std::string(absl::StripAsciiWhitespace(absl::string_view(buffer, static_cast<size_t>(size))));
}

std::optional<std::string> ReadOnce(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  std::optional<std::string> text = ReadAgain(descriptor);
  close(descriptor);
  return text;
}

std::optional<uint64_t> Number(const std::optional<std::string>& text) {
  uint64_t value = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &value)) return std::nullopt;
  return value;
}

}  // namespace

EnergyMeter::EnergyMeter(const std::string& root) {
  std::vector<std::string> directories;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    if (absl::StartsWith(entry.path().filename().string(), "intel-rapl:")) directories.push_back(entry.path().string());
  }
  std::sort(directories.begin(), directories.end());
  for (const std::string& directory : directories) Add(directory);
  if (!zones_.empty()) return;
  sources_ =
      absl::StrCat("not measured: ", refusal_.empty() ? absl::StrCat("no energy counter below ", root) : refusal_);
}

EnergyMeter::~EnergyMeter() {
  for (const Zone& zone : zones_) close(zone.descriptor);
}

void EnergyMeter::Add(const std::string& directory) {
  const std::optional<std::string> name = ReadOnce(directory + "/name");
  if (!name.has_value() || (!absl::StartsWith(*name, "package") && *name != "dram")) return;
  const std::string path = directory + "/energy_uj";
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    refusal_ = absl::StrCat(path, ": ", strerror(errno));
    return;
  }
  const std::optional<uint64_t> now_uj = Number(ReadAgain(descriptor));
  const std::optional<uint64_t> range_uj = Number(ReadOnce(directory + "/max_energy_range_uj"));
  if (!now_uj.has_value() || !range_uj.has_value()) {
    refusal_ = absl::StrCat(path, ": expected a number, and its range beside it");
    close(descriptor);
    return;
  }
  zones_.push_back({descriptor, *now_uj, *range_uj});
  absl::StrAppend(&sources_, sources_.empty() ? "" : ", ", *name);
}

double EnergyMeter::Read() {
  std::lock_guard lock(mutex_);
  for (Zone& zone : zones_) {
    const std::optional<uint64_t> now_uj = Number(ReadAgain(zone.descriptor));
    if (!now_uj.has_value()) continue;  // counted with the next read
    // Past its range a counter begins again at 0.
    total_uj_ += *now_uj >= zone.last_uj ? *now_uj - zone.last_uj : zone.range_uj - zone.last_uj + 1 + *now_uj;
    zone.last_uj = *now_uj;
  }
  return static_cast<double>(total_uj_) * 1e-6;
}

EnergySpan::EnergySpan(EnergyMeter* meter)
    : meter_(meter != nullptr && meter->measures() ? meter : nullptr),
      began_(absl::Now()),
      before_(meter_ == nullptr ? 0 : meter_->Read()) {}

double EnergySpan::Joules(double device_ms) const {
  if (meter_ == nullptr) return 0;
  const double span_ms = absl::ToDoubleMilliseconds(absl::Now() - began_);
  // The wall clock may have been set back.
  if (span_ms <= 0) return 0;
  return (meter_->Read() - before_) * std::min(1.0, device_ms / span_ms);
}

}  // namespace gantry::worker
