// What a durable command costs, with and without a command log: commits a second, the longest commit, bytes. Prints the
// disk's own sync beside it, because that is what the figures are made of.
//
//   billing_store_benchmark [--seconds S] [--dir D] [--log-dir D2]
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "billing/store/chain.h"
#include "billing/store/store.h"
#include "services/common/ids.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

using SteadyClock = std::chrono::steady_clock;

double Seconds(SteadyClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// The tables of a metered event: the event, its posting, two balances, a chain.
absl::Span<const Migration> BenchMigrations() {
  static const auto* migrations = [] {
    auto* made = new std::vector<Migration>{{"0001_bench", R"sql(
      PRAGMA application_id = 0x474e5459;
      CREATE TABLE event (seq INTEGER PRIMARY KEY, event_id BLOB NOT NULL UNIQUE, party INTEGER NOT NULL, tokens INTEGER NOT NULL,
                          at_us INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
      CREATE INDEX event_by_party ON event (party, at_us);
      CREATE TABLE transfer (seq INTEGER PRIMARY KEY, debit INTEGER NOT NULL, credit INTEGER NOT NULL, amount INTEGER NOT NULL,
                             source INTEGER NOT NULL) STRICT;
      CREATE TABLE account (account INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;
      WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO account SELECT i, 0 FROM n;
      )sql"}};
    for (const Migration& migration : Migrations()) {
      if (absl::EndsWith(migration.name, "_lineage")) made->push_back(migration);
    }
    return made;
  }();
  return *migrations;
}

absl::Status AppendEvents(Database& db, int count, int64_t at_us) {
  ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1"));
  for (int i = 0; i < count; ++i) {
    const int64_t party = 1 + (at_us + i * 7919) % 1000;
    tail.hash = ChainHash(tail.hash).Add(tail.next_seq).Add(party).Finish();
    db.Execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", tail.next_seq, NewTimeOrderedId(), party, i, at_us,
               Blob{tail.hash});
    db.Execute("INSERT INTO transfer VALUES (?, ?, 0, ?, ?)", tail.next_seq, party, i, tail.next_seq);
    db.Execute("UPDATE account SET balance = balance - ? WHERE account = ?", i, party);
    db.Execute("UPDATE account SET balance = balance + ? WHERE account = 0", i);
    ++tail.next_seq;
  }
  return absl::OkStatus();
}

double SyncMs(const std::string& dir) {
  const std::string path = dir + "/sync-probe";
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  std::vector<double> ms;
  char page[4096] = {};
  for (int i = 0; i < 50; ++i) {
    const auto start = SteadyClock::now();
    if (pwrite(fd, page, sizeof(page), i * 4096L) != static_cast<ssize_t>(sizeof(page)) || fdatasync(fd) != 0) break;
    ms.push_back(Seconds(SteadyClock::now() - start) * 1e3);
  }
  close(fd);
  unlink(path.c_str());
  std::sort(ms.begin(), ms.end());
  return ms.empty() ? 0 : ms[ms.size() / 2];
}

// `callers` wait each for its own command of `events` events, as gRPC streams do.
void Run(const std::string& dir, const std::string& log_dir, int callers, int events, double seconds) {
  Store::Options options;
  options.path = dir + "/gantry.db";
  options.migrations = BenchMigrations();
  options.command_log = log_dir;
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  if (!log_dir.empty()) {
    std::filesystem::remove_all(log_dir);
    std::filesystem::create_directories(log_dir);
  }
  auto store = Store::Open(options);
  if (!store.ok()) {
    std::printf("%s\n", std::string(store.status().message()).c_str());
    std::exit(1);
  }
  std::atomic<int64_t> done{0};
  std::vector<double> waits;
  std::mutex mutex;
  const auto start = SteadyClock::now();
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c) {
    threads.emplace_back([&] {
      std::vector<double> mine;
      while (Seconds(SteadyClock::now() - start) < seconds) {
        const auto asked = SteadyClock::now();
        const absl::Status status =
            (*store)->WriteAndWait([&](Database& db) { return AppendEvents(db, events, done.load()); });
        if (!status.ok()) std::printf("%s\n", std::string(status.message()).c_str());
        mine.push_back(Seconds(SteadyClock::now() - asked) * 1e3);
        done += events;
      }
      std::lock_guard lock(mutex);
      waits.insert(waits.end(), mine.begin(), mine.end());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double took = Seconds(SteadyClock::now() - start);
  const StoreStats stats = (*store)->Stats();
  store->reset();
  std::sort(waits.begin(), waits.end());
  const double database = static_cast<double>(std::filesystem::file_size(options.path));
  const double total = static_cast<double>(done.load());
  std::printf(
      "%-12s %3d x %3d: %7.0f events/s, %5.0f commits/s, ack p50 %5.1f p99 %5.1f ms, longest commit %6.1f ms, "
      "longest checkpoint %6.1f ms, log %4.1f MiB at most, %4.0f B an event",
      log_dir.empty() ? "books alone" : "command log", callers, events, total / took,
      static_cast<double>(stats.commits) / took, waits[waits.size() / 2], waits[waits.size() * 99 / 100],
      stats.longest_commit_s * 1e3, stats.longest_checkpoint_s * 1e3, stats.wal_frames_most * 4096.0 / (1 << 20),
      database / total);
  if (!log_dir.empty()) std::printf(", %4.0f B in the command log", static_cast<double>(stats.log_bytes) / total);
  std::printf("\n");
}

int Main(int argc, char** argv) {
  InitLog("benchmark", LogLevel::kNone);
  double seconds = 3;
  std::string dir = "/tmp/gantry-store-benchmark", log_dir = "/tmp/gantry-store-benchmark-log";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--seconds") == 0) seconds = std::atof(argv[i + 1]);
    if (std::strcmp(argv[i], "--dir") == 0) dir = argv[i + 1];
    if (std::strcmp(argv[i], "--log-dir") == 0) log_dir = argv[i + 1];
  }
  std::filesystem::create_directories(dir);
  std::printf("fdatasync of 4 KiB on %s: %.2f ms (median of 50)\n", dir.c_str(), SyncMs(dir));
  for (const auto& [callers, events] : {std::pair{1, 1}, {32, 1}, {4, 100}, {8, 500}}) {
    Run(dir, "", callers, events, seconds);
    Run(dir, log_dir, callers, events, seconds);
  }
  std::filesystem::remove_all(dir);
  std::filesystem::remove_all(log_dir);
  return 0;
}

}  // namespace
}  // namespace gantry::billing

int main(int argc, char** argv) {
  return gantry::billing::Main(argc, argv);
}
