// How fast billing takes usage, and what it costs on disk. The disk's fsync time stands beside the figures: durable
// means FULL here, as in operation.
//
//   billing_benchmark [--events N] [--dir D] [--json]
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "billing/audit/audit.h"
#include "billing/bench/sample.h"
#include "billing/catalog/periods.h"
#include "billing/invoice/invoice.h"
#include "billing/ledger/credit.h"
#include "billing/usage/usage.h"

namespace gantry::billing {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kBatch = 256;          // records a batch, as a busy gateway sends them
constexpr int kBatchesInFlight = 8;  // what the group commit finds waiting

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}
double CpuSeconds() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}
int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

double FsyncMs(const std::string& dir) {
  const std::string path = dir + "/fsync";
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY, 0600);
  if (fd < 0) return 0;
  std::vector<double> times;
  const std::string block(4096, 'x');
  for (int i = 0; i < 50; ++i) {
    const auto start = SteadyClock::now();
    if (write(fd, block.data(), block.size()) < 0 || fdatasync(fd) != 0) break;
    times.push_back(SecondsSince(start) * 1000);
  }
  close(fd);
  unlink(path.c_str());
  if (times.empty()) return 0;
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Commands in flight, at most so many; Wait returns when all are over.
class Flight {
 public:
  void Enter() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* n) { return *n < kBatchesInFlight; }, &running_));
    ++running_;
  }
  void Leave(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    --running_;
    if (!status.ok()) failure_ = status;
  }
  absl::Status Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* n) { return *n == 0; }, &running_));
    return failure_;
  }

 private:
  absl::Mutex mutex_;
  int running_ = 0;
  absl::Status failure_;
};

struct Batches {
  std::vector<v1::UsageBatch> usage;
  std::vector<v1::WitnessBatch> witnesses;
  std::vector<v1::ReserveRequest> holds;
};

// With holds of their own and both witnesses, or of a slice and of prompts alone, which need no second witness.
Batches MakeBatches(Sample& sample, int events, bool own_holds) {
  Batches batches;
  for (int begin = 0; begin < events; begin += kBatch) {
    v1::UsageBatch usage;
    v1::WitnessBatch witnesses;
    usage.set_gateway_id(sample.gateway_id().ToBytes());
    usage.set_gateway_epoch(1);
    witnesses.set_worker_id(sample.worker_id());
    for (int i = begin; i < std::min(events, begin + kBatch); ++i) {
      SampleRequest request = sample.Next();
      if (own_holds) {
        batches.holds.push_back(sample.HoldFor(&request, 20'000));
      } else {
        request.usage.set_output_tokens(0);
        request.usage.clear_sequences();
      }
      *usage.add_records() = std::move(request.usage);
      *witnesses.add_records() = std::move(request.witness);
    }
    batches.usage.push_back(std::move(usage));
    batches.witnesses.push_back(std::move(witnesses));
  }
  return batches;
}

absl::Status ReserveAll(Store& store, const std::vector<v1::ReserveRequest>& holds) {
  Flight flight;
  for (size_t begin = 0; begin < holds.size(); begin += kBatch) {
    flight.Enter();
    store.Write(
        [&holds, begin](Database& db) -> absl::Status {
          for (size_t i = begin; i < std::min(holds.size(), begin + kBatch); ++i) {
            absl::Status status = Reserve(db, holds[i], NowUs()).status();
            if (!status.ok()) return status;
          }
          return absl::OkStatus();
        },
        [&](const absl::Status& status) { flight.Leave(status); });
  }
  return flight.Wait();
}

absl::Status Feed(Store& store, const Batches& batches, bool witnesses) {
  Flight flight;
  const auto submit = [&](Store::Command command) {
    flight.Enter();
    store.WriteKeeping(std::move(command), [&](const absl::Status& status) { flight.Leave(status); });
  };
  for (size_t i = 0; i < batches.usage.size(); ++i) {
    submit([&batches, i](Database& db) -> absl::Status {
      absl::StatusOr<AppendResult> result = AppendUsage(db, batches.usage[i], NowUs());
      if (result.ok() && result->ack.rejected_size() > 0) return absl::InternalError(result->ack.rejected(0).reason());
      return result.status();
    });
    if (!witnesses) continue;
    submit([&batches, i](Database& db) { return AppendWitness(db, batches.witnesses[i], NowUs()).status(); });
  }
  return flight.Wait();
}

int64_t FileBytes(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

struct Report {
  nlohmann::ordered_json json;
  bool as_json = false;
  void Add(const char* name, double value, const char* unit, const std::string& note) {
    json[name] = value;
    if (!as_json) std::printf("%-34s %12.1f %-10s %s\n", name, value, unit, note.c_str());
    std::fflush(stdout);
  }
};

absl::Status Run(int events, const std::string& dir, Report* report) {
  report->Add("fsync_ms", FsyncMs(dir), "ms", "4 KiB, median of 50");
  const auto measure = [&](const char* name, const SampleOptions& options, bool own_holds, bool witnesses,
                           const std::function<absl::Status(Store&, Sample&)>& after) -> absl::Status {
    const std::string path = absl::StrCat(dir, "/", name, ".db");
    absl::StatusOr<std::unique_ptr<Store>> store = Store::Open({.path = path});
    if (!store.ok()) return store.status();
    absl::StatusOr<Sample> sample = Sample::Make(**store, options, NowUs());
    if (!sample.ok()) return sample.status();
    if (!own_holds) {
      absl::Status granted = sample->GrantSlices(**store, 900'000'000, NowUs());
      if (!granted.ok()) return granted;
    }
    const Batches batches = MakeBatches(*sample, events, own_holds);
    const int64_t bytes_before = FileBytes(path);
    absl::Status status = ReserveAll(**store, batches.holds);
    if (!status.ok()) return status;
    const auto start = SteadyClock::now();
    const double cpu_start = CpuSeconds();
    status = Feed(**store, batches, witnesses);
    const double seconds = SecondsSince(start), cpu_seconds = CpuSeconds() - cpu_start;
    if (!status.ok()) return status;
    report->Add(absl::StrCat(name, "_per_s").c_str(), events / seconds, "events/s",
                absl::StrCat(events, " events, batches of ", kBatch, ", ", options.tenants, " tenants"));
    report->Add(absl::StrCat(name, "_cpu_us_per_event").c_str(), cpu_seconds * 1e6 / events, "us",
                "of all threads: what it would take alone on a core with a disk that waits for nobody");
    status = after(**store, *sample);
    store->reset();  // checkpoints
    report->Add(absl::StrCat(name, "_bytes_per_event").c_str(),
                static_cast<double>(FileBytes(path) - bytes_before) / events, "bytes", "database file, all in");
    return status;
  };
  const auto nothing = [](Store&, Sample&) { return absl::OkStatus(); };
  absl::Status status = measure("ingest", {.resellers = 0}, false, false, nothing);
  if (!status.ok()) return status;
  return measure("full_path", {.resellers = 10}, true, true, [&](Store& store, Sample&) -> absl::Status {
    v1::AuditReport audit;
    auto start = SteadyClock::now();
    absl::Status read = store.ReadAndWait([&](Database& db) {
      audit = Audit(db);
      return absl::OkStatus();
    });
    report->Add("audit_s_per_million", SecondsSince(start) * 1e6 / events, "s", "all checks");
    if (!read.ok()) return read;
    for (const v1::AuditCheck& check : audit.checks()) {
      if (!check.ok()) return absl::InternalError(absl::StrCat(check.name(), ": ", check.detail()));
    }
    start = SteadyClock::now();
    read = store.ReadAndWait([&](Database& db) {
      v1::GetInvoiceRequest request;
      request.set_party_name("reseller-0");
      request.set_period(FormatPeriod(MonthAt("UTC", NowUs())->period));
      absl::StatusOr<v1::Invoice> invoice = GetInvoice(db, request);
      return invoice.status();
    });
    report->Add("invoice_ms", SecondsSince(start) * 1000, "ms",
                "of a reseller with a tenth of all usage, from roll-ups");
    return read;
  });
}

}  // namespace
}  // namespace gantry::billing

int main(int argc, char** argv) {
  CLI::App app("How fast billing takes usage, and what it costs on disk.");
  int events = 100'000;
  std::string dir;
  gantry::billing::Report report;
  app.add_option("--events", events, "events a measurement")
      ->capture_default_str()
      ->check(CLI::Range(256, 100'000'000));
  app.add_option("--dir", dir, "directory on the disk to measure; default: a new one under /tmp");
  app.add_flag("--json", report.as_json, "as JSON");
  CLI11_PARSE(app, argc, argv);
  char name[] = "/tmp/gantry-billing-bench-XXXXXX";
  const bool own_dir = dir.empty();
  if (own_dir) {
    if (mkdtemp(name) == nullptr) return std::perror(name), 1;
    dir = name;
  }
  const absl::Status status = gantry::billing::Run(events, dir, &report);
  if (own_dir) std::filesystem::remove_all(dir);
  if (!status.ok()) return std::fprintf(stderr, "billing_benchmark: %s\n", status.ToString().c_str()), 1;
  if (report.as_json) std::printf("%s\n", report.json.dump(2).c_str());
  return 0;
}
