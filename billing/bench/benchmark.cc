// How fast billing takes usage, and what it costs on disk. The disk's fsync time stands beside the figures: durable
// means FULL here, as in operation.
//
//   billing_benchmark [--events N] [--seconds S] [--only PART] [--dir D] [--json]
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
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "billing/audit/audit.h"
#include "billing/bench/report.h"
#include "billing/bench/rpc_load.h"
#include "billing/bench/sample.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/periods.h"
#include "billing/invoice/invoice.h"
#include "billing/ledger/credit.h"
#include "billing/usage/recount.h"
#include "billing/usage/usage.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kBatch = 256;          // records a batch, as a busy gateway sends them
constexpr int kBatchesInFlight = 8;  // what the group commit finds waiting
constexpr int kEventsInMemory = 200'000;
constexpr int64_t kSliceMicro = 900'000'000;
constexpr int kStreams = 4;  // gateways, and workers
// At which latencies are told, and records a batch then: what a gateway has after a few milliseconds.
constexpr int kPacedPerS = 2'500, kPacedBatch = 10;
constexpr int kReservesPerS = 500;

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
Batches MakeBatches(Sample& sample, int events, int batch, bool own_holds) {
  Batches batches;
  for (int begin = 0; begin < events; begin += batch) {
    v1::UsageBatch usage;
    v1::WitnessBatch witnesses;
    usage.set_gateway_id(sample.gateway_id().ToBytes());
    usage.set_gateway_epoch(1);
    witnesses.set_worker_id(sample.worker_id());
    for (int i = begin; i < std::min(events, begin + batch); ++i) {
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

absl::Status Ask(Store& store, const Store::Command& query) {
  absl::Notification over;
  absl::Status result;
  store.ReadFor(std::chrono::minutes(30), query, [&](absl::Status status) {
    result = std::move(status);
    over.Notify();
  });
  over.WaitForNotification();
  return result;
}

int64_t FileBytes(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

// What one set of books is fed with.
struct Plan {
  const char* name;
  SampleOptions sample;
  bool own_holds = false;  // a hold for each request, both witnesses; else slices and prompts alone
};

std::string BooksDir(const std::string& dir, const Plan& plan) {
  return absl::StrCat(dir, "/", plan.name);
}

absl::StatusOr<std::unique_ptr<Store>> OpenBooks(const std::string& dir, const Plan& plan) {
  std::filesystem::create_directories(BooksDir(dir, plan));
  GANTRY_RETURN_IF_ERROR(LoadOrCreatePepper(BooksDir(dir, plan) + "/pepper").status());
  return Store::Open({.path = BooksDir(dir, plan) + "/gantry.db"});
}

absl::StatusOr<Sample> MakeSample(Store& store, const Plan& plan) {
  GANTRY_ASSIGN_OR_RETURN(Sample sample, Sample::Make(store, plan.sample, NowUs()));
  if (!plan.own_holds) GANTRY_RETURN_IF_ERROR(sample.GrantSlices(store, kSliceMicro, NowUs()));
  return sample;
}

// In process: rate, CPU and disk of an event.
absl::Status MeasureFeed(const std::string& dir, const Plan& plan, int events, double floor_per_s, double bytes_max,
                         Report* report) {
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, OpenBooks(dir, plan));
  const std::string path = BooksDir(dir, plan) + "/gantry.db";
  GANTRY_ASSIGN_OR_RETURN(Sample sample, MakeSample(*store, plan));
  const int64_t bytes_before = FileBytes(path);
  double seconds = 0, cpu_seconds = 0;
  for (int fed = 0; fed < events; fed += kEventsInMemory) {
    const Batches batches = MakeBatches(sample, std::min(events - fed, kEventsInMemory), kBatch, plan.own_holds);
    GANTRY_RETURN_IF_ERROR(ReserveAll(*store, batches.holds));
    const auto start = SteadyClock::now();
    const double cpu_start = CpuSeconds();
    GANTRY_RETURN_IF_ERROR(Feed(*store, batches, plan.own_holds));
    seconds += SecondsSince(start);
    cpu_seconds += CpuSeconds() - cpu_start;
  }
  report->AddHeld(absl::StrCat(plan.name, "_per_s"), events / seconds, "events/s", floor_per_s, true,
                  absl::StrCat(events, " events, batches of ", kBatch, ", ", plan.sample.tenants, " tenants"));
  report->Add(absl::StrCat(plan.name, "_cpu_us_per_event"), cpu_seconds * 1e6 / events, "us",
              "of all threads: what it would take alone on a core with a disk that waits for nobody");
  store.reset();  // checkpoints
  report->AddHeld(absl::StrCat(plan.name, "_bytes_per_event"),
                  static_cast<double>(FileBytes(path) - bytes_before) / events, "bytes", bytes_max, false,
                  "database file, all in");
  return absl::OkStatus();
}

// Of the books that the full path left: the audit, a reseller's invoice, the time until they are served again.
absl::Status MeasureBooks(const std::string& dir, const Plan& plan, int events, Report* report) {
  {
    GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, OpenBooks(dir, plan));
    v1::AuditReport audit;
    auto start = SteadyClock::now();
    GANTRY_RETURN_IF_ERROR(Ask(*store, [&](Database& db) {
      audit = Audit(db);
      return absl::OkStatus();
    }));
    report->AddHeld("audit_s_per_million", SecondsSince(start) * 1e6 / events, "s", 10, false, "all checks");
    for (const v1::AuditCheck& check : audit.checks()) {
      if (!check.ok()) return absl::InternalError(absl::StrCat(check.name(), ": ", check.detail()));
    }
    start = SteadyClock::now();
    GANTRY_RETURN_IF_ERROR(Ask(*store, [&](Database& db) {
      v1::GetInvoiceRequest request;
      request.set_party_name("reseller-0");
      request.set_period(FormatPeriod(MonthAt("UTC", NowUs())->period));
      return GetInvoice(db, request).status();
    }));
    report->Add("invoice_ms", SecondsSince(start) * 1000, "ms",
                "of a reseller with a tenth of all usage, from roll-ups");
  }
  // The first start makes the first checkpoint; those that follow are what operation knows.
  double first_s = 0, ready_s = 0;
  GANTRY_RETURN_IF_ERROR(RpcLoad::Start(BooksDir(dir, plan), &first_s).status());
  GANTRY_RETURN_IF_ERROR(RpcLoad::Start(BooksDir(dir, plan), &ready_s).status());
  report->AddHeld("ready_ms", ready_s * 1000, "ms", 1000, false, absl::StrCat("books of ", events, " events"));
  return absl::OkStatus();
}

absl::Status MeasureRpc(const std::string& dir, const Plan& plan, int events, double floor_per_s, int seconds,
                        Report* report) {
  Batches all, paced;
  std::vector<v1::ReserveRequest> holds;
  {
    GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, OpenBooks(dir, plan));
    GANTRY_ASSIGN_OR_RETURN(Sample sample, MakeSample(*store, plan));
    all = MakeBatches(sample, events, kBatch, plan.own_holds);
    GANTRY_RETURN_IF_ERROR(ReserveAll(*store, all.holds));
    if (plan.own_holds) {
      paced = MakeBatches(sample, kPacedPerS * seconds, kPacedBatch, true);
      GANTRY_RETURN_IF_ERROR(ReserveAll(*store, paced.holds));
      holds = MakeBatches(sample, kReservesPerS * seconds, kBatch, true).holds;
    }
  }
  double ready_s = 0;
  GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<RpcLoad> load, RpcLoad::Start(BooksDir(dir, plan), &ready_s));
  if (!plan.own_holds) all.witnesses.clear();
  GANTRY_ASSIGN_OR_RETURN(const double took_s, load->SendAll(all.usage, all.witnesses, kStreams));
  report->AddHeld(absl::StrCat(plan.name, "_per_s"), events / took_s, "events/s", floor_per_s, true,
                  absl::StrCat(events, " events over gRPC, ", kStreams, " streams of each witness"));
  if (!plan.own_holds) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const Quantiles acks, load->SendPaced(paced.usage, paced.witnesses, kStreams,
                                                                static_cast<double>(kPacedPerS) / kPacedBatch));
  report->AddHeld("ack_p99_ms", acks.p99_ms, "ms", 50, false,
                  absl::StrCat(kPacedPerS, " events/s of the full path for ", seconds, " s; p50 ",
                               static_cast<int>(acks.p50_ms * 10) / 10.0, ", longest ",
                               static_cast<int>(acks.most_ms * 10) / 10.0));
  GANTRY_ASSIGN_OR_RETURN(const Quantiles reserves, load->ReservePaced(holds, kReservesPerS));
  report->AddHeld(
      "reserve_p99_ms", reserves.p99_ms, "ms", 25, false,
      absl::StrCat(kReservesPerS, " calls/s for ", seconds, " s; p50 ", static_cast<int>(reserves.p50_ms * 10) / 10.0,
                   ", longest ", static_cast<int>(reserves.most_ms * 10) / 10.0));
  return absl::OkStatus();
}

// One tenant with all usage: its month from every event, and from roll-ups, which must be the same.
absl::Status MeasureInvoice(const std::string& dir, int events, Report* report) {
  const Plan plan{.name = "one_tenant", .sample = {.resellers = 0, .tenants = 1}};
  GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, OpenBooks(dir, plan));
  GANTRY_ASSIGN_OR_RETURN(Sample sample, MakeSample(*store, plan));
  for (int fed = 0; fed < events; fed += kEventsInMemory) {
    GANTRY_RETURN_IF_ERROR(
        Feed(*store, MakeBatches(sample, std::min(events - fed, kEventsInMemory), kBatch, false), false));
  }
  const int64_t period = MonthAt("UTC", NowUs())->period, buyer = sample.tenants()[0].party_no;
  std::vector<RollupRow> counted, kept;
  auto start = SteadyClock::now();
  GANTRY_RETURN_IF_ERROR(Ask(*store, [&](Database& db) -> absl::Status {
    GANTRY_ASSIGN_OR_RETURN(counted, RecountPeriod(db, buyer, period));
    return absl::OkStatus();
  }));
  const double raw_s = SecondsSince(start);
  start = SteadyClock::now();
  GANTRY_RETURN_IF_ERROR(Ask(*store, [&](Database& db) -> absl::Status {
    kept = RollupOf(db, buyer, period);
    v1::GetInvoiceRequest request;
    request.set_party_name("tenant-0");
    request.set_period(FormatPeriod(period));
    return GetInvoice(db, request).status();
  }));
  const double rollup_s = SecondsSince(start);
  const auto same = [](const RollupRow& a, const RollupRow& b) {
    return a.plan_version_id == b.plan_version_id && a.line == b.line && a.model == b.model &&
           a.quantity == b.quantity && a.amount_pico == b.amount_pico;
  };
  if (!std::equal(counted.begin(), counted.end(), kept.begin(), kept.end(), same)) {
    return absl::InternalError("the invoice from events and the one from roll-ups differ");
  }
  report->AddHeld("invoice_from_events_s", raw_s, "s", 5 * std::max(1.0, events / 1e6), false,
                  absl::StrCat("a month of ", events, " events, rated again one by one"));
  report->AddHeld("invoice_from_rollups_ms", rollup_s * 1000, "ms", 300, false, "the same, equal to the pico-unit");
  return absl::OkStatus();
}

struct Scope {
  int events = 100'000, seconds = 10;
  std::string only;  // of: process, books, rpc, invoice; empty: all
  bool Wants(const char* part) const { return only.empty() || only == part; }
};

absl::Status Run(const Scope& scope, const std::string& dir, Report* report) {
  report->Add("fsync_ms", FsyncMs(dir), "ms", "4 KiB, median of 50");
  const Plan full{.name = "full_path", .sample = {.resellers = 10}, .own_holds = true};
  if (scope.Wants("process")) {
    GANTRY_RETURN_IF_ERROR(
        MeasureFeed(dir, {.name = "ingest", .sample = {.resellers = 0}}, scope.events, 20'000, 300, report));
  }
  if (scope.Wants("process") || scope.Wants("books")) {
    GANTRY_RETURN_IF_ERROR(MeasureFeed(dir, full, scope.events, 8'000, 800, report));
    GANTRY_RETURN_IF_ERROR(MeasureBooks(dir, full, scope.events, report));
  }
  if (scope.Wants("rpc")) {
    GANTRY_RETURN_IF_ERROR(MeasureRpc(dir, {.name = "rpc_ingest", .sample = {.resellers = 0}}, scope.events, 10'000,
                                      scope.seconds, report));
    GANTRY_RETURN_IF_ERROR(MeasureRpc(dir, {.name = "rpc_full_path", .sample = {.resellers = 10}, .own_holds = true},
                                      scope.events, 4'000, scope.seconds, report));
  }
  if (scope.Wants("invoice")) GANTRY_RETURN_IF_ERROR(MeasureInvoice(dir, scope.events, report));
  return absl::OkStatus();
}

}  // namespace
}  // namespace gantry::billing

int main(int argc, char** argv) {
  CLI::App app("How fast billing takes usage, and what it costs on disk.");
  gantry::billing::Scope scope;
  std::string dir;
  gantry::billing::Report report;
  app.add_option("--events", scope.events, "events a measurement")
      ->capture_default_str()
      ->check(CLI::Range(256, 100'000'000));
  app.add_option("--seconds", scope.seconds, "how long latencies are measured")
      ->capture_default_str()
      ->check(CLI::Range(1, 600));
  app.add_option("--only", scope.only, "process, books (full path in process, audit, ready), rpc or invoice")
      ->check(CLI::IsMember({"process", "books", "rpc", "invoice"}));
  app.add_option("--dir", dir, "directory on the disk to measure; default: a new one under /tmp");
  app.add_flag("--json", report.as_json, "as JSON");
  CLI11_PARSE(app, argc, argv);
  char name[] = "/tmp/gantry-billing-bench-XXXXXX";
  const bool own_dir = dir.empty();
  if (own_dir) {
    if (mkdtemp(name) == nullptr) return std::perror(name), 1;
    dir = name;
  }
  const absl::Status status = gantry::billing::Run(scope, dir, &report);
  if (own_dir) std::filesystem::remove_all(dir);
  if (!status.ok()) return std::fprintf(stderr, "billing_benchmark: %s\n", status.ToString().c_str()), 1;
  if (report.as_json) std::printf("%s\n", report.json.dump(2).c_str());
  return 0;
}
