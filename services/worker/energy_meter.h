// Energy that the processors of this machine have taken, by the counters of the kernel's powercap interface
// (<root>/intel-rapl:N/{name,energy_uj,max_energy_range_uj}; AMD's stand under the same names). Counted are packages
// and the memory beside them (`dram`): other zones are parts of a package or contain packages.
//
// Kernels since 5.10 let root alone read the counters; docs/operator.md says how to share them. Where none can be read,
// nothing is measured and every figure is 0.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace gantry::worker {

// Thread-safe.
class EnergyMeter {
 public:
  static constexpr char kRoot[] = "/sys/class/powercap";
  // A counter that wraps is followed as long as it is read before it wraps again: 65 kJ or more, minutes at full power.
  static constexpr absl::Duration kReadAtLeastEvery = absl::Seconds(30);

  explicit EnergyMeter(const std::string& root = kRoot);
  ~EnergyMeter();
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

  bool measures() const { return !zones_.empty(); }
  // "package-0, dram", or why nothing is measured.
  const std::string& sources() const { return sources_; }

  // Joules since the meter was made.
  double Read();

 private:
  struct Zone {
    int descriptor;
    uint64_t last_uj, range_uj;  // range_uj: the counter's greatest value
  };
  void Add(const std::string& directory);

  std::mutex mutex_;  // guards what zones have counted
  std::vector<Zone> zones_;
  std::string sources_, refusal_;
  uint64_t total_uj_ = 0;
};

// The time in which one sequence ran, and what its share of the machine's work took in it.
class EnergySpan {
 public:
  // From now. `meter` may be null and outlives this.
  explicit EnergySpan(EnergyMeter* meter);
  // Joules until now of `device_ms` of the machine's time, at the mean power since the span began. Spans that share out
  // the machine's time share out its energy.
  double Joules(double device_ms) const;

 private:
  EnergyMeter* const meter_;
  const absl::Time began_;
  const double before_;
};

}  // namespace gantry::worker
