#include "services/worker/energy_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gantry::worker {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class EnergyMeterTest : public ::testing::Test {
 protected:
  EnergyMeterTest() { fs::create_directories(root_); }
  ~EnergyMeterTest() override { fs::remove_all(root_); }
  void Set(const std::string& zone, const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(root_) / zone);
    std::ofstream(fs::path(root_) / zone / file, std::ios::trunc) << text << "\n";
  }
  void AddZone(const std::string& zone, const std::string& name, uint64_t now_uj) {
    Set(zone, "name", name);
    Set(zone, "max_energy_range_uj", "65532610987");
    Count(zone, now_uj);
  }
  void Count(const std::string& zone, uint64_t now_uj) { Set(zone, "energy_uj", absl::StrCat(now_uj)); }

  const std::string root_ = absl::StrCat(::testing::TempDir(), "/powercap-", getpid());
};

TEST_F(EnergyMeterTest, AddsPackagesAndTheirMemoryAndNoPartTwice) {
  AddZone("intel-rapl:0", "package-0", 5'000'000);
  AddZone("intel-rapl:0:0", "core", 1'000'000);
  AddZone("intel-rapl:0:1", "dram", 2'000'000);
  AddZone("intel-rapl:1", "package-1", 9'000'000);
  AddZone("intel-rapl:2", "psys", 50'000'000);
  EnergyMeter meter(root_);
  EXPECT_EQ(meter.sources(), "package-0, dram, package-1");
  EXPECT_EQ(meter.Read(), 0);
  Count("intel-rapl:0", 6'000'000);
  Count("intel-rapl:0:0", 3'000'000);
  Count("intel-rapl:0:1", 2'250'000);
  Count("intel-rapl:1", 11'000'000);
  Count("intel-rapl:2", 90'000'000);
  EXPECT_DOUBLE_EQ(meter.Read(), 1.0 + 0.25 + 2.0);
}

TEST_F(EnergyMeterTest, FollowsACounterThatBeginsAgain) {
  AddZone("intel-rapl:0", "package-0", 65'532'610'000);
  EnergyMeter meter(root_);
  Count("intel-rapl:0", 12);
  EXPECT_DOUBLE_EQ(meter.Read(), (988 + 12) * 1e-6);
}

TEST_F(EnergyMeterTest, SaysWhyNothingIsMeasured) {
  const EnergyMeter none(root_ + "/absent");
  EXPECT_FALSE(none.measures());
  EXPECT_THAT(none.sources(), HasSubstr("no energy counter below"));
  AddZone("intel-rapl:0", "package-0", 7);
  Set("intel-rapl:0", "energy_uj", "seven");
  EnergyMeter broken(root_);
  EXPECT_THAT(broken.sources(), HasSubstr("intel-rapl:0/energy_uj: expected a number"));
  EXPECT_EQ(broken.Read(), 0);
  EXPECT_EQ(EnergySpan(&broken).Joules(100), 0);
  EXPECT_EQ(EnergySpan(nullptr).Joules(100), 0);
}

TEST_F(EnergyMeterTest, ASpanChargesItsShareOfTheTimeAtTheMeanPower) {
  AddZone("intel-rapl:0", "package-0", 1'000'000);
  EnergyMeter meter(root_);
  const absl::Time began = absl::Now();
  const EnergySpan span(&meter);
  absl::SleepFor(absl::Milliseconds(40));
  Count("intel-rapl:0", 9'000'000);
  const double half = span.Joules(20);
  const double least = 8.0 * 20 / absl::ToDoubleMilliseconds(absl::Now() - began);
  EXPECT_GE(half, least);
  EXPECT_LE(half, 8.0 * 20 / 40);
  // Never more than all of it.
  EXPECT_DOUBLE_EQ(span.Joules(1e9), 8.0);
}

}  // namespace
}  // namespace gantry::worker
