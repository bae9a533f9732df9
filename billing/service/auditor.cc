#include "billing/service/auditor.h"

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/parties/parking.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr int kLowestPriority = 19;
constexpr int kFullShare = 50;

int64_t FileBytes(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  return error ? 0 : static_cast<int64_t>(size);
}

int64_t FreeBytes(const std::string& path) {
  struct statvfs disk {};
  if (statvfs(std::filesystem::absolute(path).parent_path().c_str(), &disk) != 0) return 0;
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

void RemoveCopy(const std::string& path) {
  std::error_code ignored;
  for (const char* end : {"", "-wal", "-shm", ".part"}) std::filesystem::remove(path + end, ignored);
}

std::string CopyPath(const std::string& path) {
  return path + ".audit";
}

}  // namespace

std::unique_ptr<Auditor> Auditor::Start(Options options) {
  std::unique_ptr<Auditor> auditor(new Auditor(std::move(options)));
  RemoveCopy(CopyPath(auditor->options_.path));
  auditor->Tail(auditor->options_.start_rows_max);
  auditor->thread_ = std::thread([raw = auditor.get()] { raw->Loop(); });
  return auditor;
}

Auditor::~Auditor() {
  stop_.Notify();
  {
    absl::MutexLock lock(&mutex_);
    if (running_ != nullptr) running_->Interrupt();
  }
  if (thread_.joinable()) thread_.join();
}

AuditorState Auditor::State() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void Auditor::SetTrouble(Scope scope, const std::string& trouble) {
  absl::MutexLock lock(&mutex_);
  if (trouble_[scope] != trouble && !trouble.empty()) {
    Log(LogLevel::kError, "the audit of the books", {{"trouble", trouble}});
  }
  trouble_[scope] = trouble;
  state_.trouble = trouble_[kFull].empty() ? trouble_[kTail] : trouble_[kFull];
}

void Auditor::Loop() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kLowestPriority);
  absl::Time next_full = absl::Now() + options_.first_full_after;
  while (!stop_.WaitForNotificationWithTimeout(
      std::min(options_.tail_every, std::max(next_full - absl::Now(), absl::Milliseconds(1))))) {
    if (absl::Now() >= next_full) {
      const absl::Time start = absl::Now();
      AuditEverythingNow();
      // Large books more rarely: reading them takes at most a fiftieth of the time.
      next_full = absl::Now() + std::max(options_.full_every, kFullShare * (absl::Now() - start));
    } else {
      AuditTailNow();
    }
  }
}

void Auditor::AuditTailNow() {
  Tail(-1);
}

bool Auditor::Tail(int64_t rows_max) {
  AuditResult result;
  Checkpoint end;
  bool too_long = false, nothing_new = false;
  const absl::Status read = options_.store->ReadAndWait([&](Database& db) -> absl::Status {
    absl::StatusOr<std::optional<Checkpoint>> last = LastCheckpoint(db, *options_.ring);
    if (!last.ok()) return last.status();
    const Checkpoint from = last->value_or(Checkpoint{});
    const int64_t rows = TailRows(db, from);
    nothing_new = rows == 0 && last->has_value();
    too_long = rows_max >= 0 && rows > rows_max;
    if (too_long) return absl::OkStatus();
    result = AuditTail(db, from);
    end = EndOfBooks(db);
    return absl::OkStatus();
  });
  if (too_long) return false;
  if (!read.ok()) {
    // Everything is audited soon, and makes a checkpoint that can be trusted.
    SetTrouble(kTail, absl::StrCat("since the last checkpoint: ", read.message()));
    return true;
  }
  if (nothing_new && result.report.ok()) {
    SetTrouble(kTail, "");
    return true;
  }
  end.complete = false;
  Settle(kTail, result, end);
  return true;
}

void Auditor::AuditEverythingNow() {
  const absl::Time start = absl::Now();
  AuditResult result;
  Checkpoint end;
  const absl::Status done = Full(&result, &end);
  if (stop_.HasBeenNotified()) return;
  if (!done.ok()) return SetTrouble(kFull, absl::StrCat("everything could not be audited: ", done.message()));
  end.complete = true;
  Settle(kFull, result, end);
  absl::MutexLock lock(&mutex_);
  state_.full_us = options_.clock();
  state_.full_ok = result.report.ok();
  state_.full_seconds = absl::ToDoubleSeconds(absl::Now() - start);
}

absl::Status Auditor::Full(AuditResult* result, Checkpoint* end) {
  const std::string copy = CopyPath(options_.path);
  const int64_t size = FileBytes(options_.path);
  const bool direct = size <= options_.direct_bytes_max;
  if (!direct) {
    const int64_t free = FreeBytes(options_.path);
    if (free < size + size / 4) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a copy of the books needs ", size + size / 4, " bytes beside them, ", free, " are free"));
    }
    GANTRY_RETURN_IF_ERROR(options_.store->CopyAndWait(copy));
  }
  absl::Status status;
  {
    absl::StatusOr<std::unique_ptr<Database>> opened =
        Database::Open(direct ? options_.path : copy, Database::Mode::kReader);
    if (opened.ok()) {
      Database& db = **opened;
      {
        absl::MutexLock lock(&mutex_);
        running_ = &db;
      }
      if (stop_.HasBeenNotified()) db.Interrupt();
      db.Script("BEGIN");
      *result = AuditBooks(db);
      *end = EndOfBooks(db);
      status = db.TakeError();
      db.Script("ROLLBACK");
      absl::MutexLock lock(&mutex_);
      running_ = nullptr;
    } else {
      status = opened.status();
    }
  }
  if (!direct) RemoveCopy(copy);
  return status;
}

// Parks whose books are wrong; when nothing is, or all of it was accepted, the end becomes a checkpoint.
void Auditor::Settle(Scope scope, const AuditResult& result, const Checkpoint& end) {
  std::vector<Finding> to_park;
  std::string beyond;
  SumsByAccount recorded;
  absl::Status looked = options_.store->ReadAndWait([&](Database& db) -> absl::Status {
    recorded = RecordedSums(db);
    for (const Finding& finding : result.findings) {
      absl::StatusOr<PartyRow> party = PartyByNo(db, finding.party_no);
      // Whoever has less than nothing gets no credit anyway; a lowered limit does that to books that are right.
      if (!party.ok() || party->depth == 0 || finding.check == check::kOverdraft) {
        if (beyond.empty()) beyond = absl::StrCat(finding.check, ": ", finding.row, ": ", finding.detail);
      } else if (!IsAccepted(db, finding.party_no, finding.row, finding.detail)) {
        to_park.push_back(finding);
      }
    }
    return absl::OkStatus();
  });
  if (!looked.ok()) return SetTrouble(scope, std::string(looked.message()));
  int parked = 0;
  Checkpoint made = end;
  made.made_us = options_.clock();
  const bool well = to_park.empty() && beyond.empty();
  const absl::Status settled = options_.store->WriteAndWait([&](Database& db) -> absl::Status {
    for (const Finding& finding : to_park) Park(db, finding.party_no, finding.row, finding.detail, made.made_us);
    parked = static_cast<int>(ParkedParties(db).size());
    return well ? RecordCheckpoint(db, *options_.ring, made, recorded) : absl::OkStatus();
  });
  for (const Finding& finding : to_park) {
    Log(LogLevel::kError, "an audit found a party's books wrong and parked it",
        {{"party", finding.party_no}, {"check", finding.check}, {"row", finding.row}, {"detail", finding.detail}});
  }
  SetTrouble(scope, !settled.ok() ? std::string(settled.message()) : beyond);
  absl::MutexLock lock(&mutex_);
  state_.parked = parked;
  if (!well || !settled.ok()) return;
  state_.checkpoint_us = made.made_us;
  state_.checkpoint_event_seq = made.usage.seq;
  state_.checkpoint_transfer_seq = made.transfers.seq;
}

}  // namespace gantry::billing
