// gantry backup create, verify, restore: everything that billing and the processes need to be themselves again, sealed
// in one file.
#include <openssl/crypto.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/backup/backup_file.h"
#include "billing/backup/restore.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/money.h"
#include "services/cli/passphrase.h"
#include "services/cli/supervisor.h"

namespace gantry::cli {
namespace {

namespace fs = std::filesystem;
using Admin = v1::BillingAdmin::Stub;

constexpr absl::Duration kCreateDeadline = absl::Hours(6);
constexpr uint64_t kSmallFileMax = 1 << 20;
constexpr size_t kSmallFilesMax = 1000;

struct BackupOptions {
  std::string path, passphrase_file, command_log;
};

std::string Mebibytes(uint64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

uint64_t BytesOf(const billing::BackupManifest& manifest) {
  uint64_t bytes = 0;
  for (const auto& file : manifest.files) bytes += file.bytes;
  return bytes;
}

std::string Moment(int64_t us) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixMicros(us), absl::UTCTimeZone());
}

// ---- create ----

// What belongs to the installation and not to billing: how the processes prove who they are.
absl::Status AddInstallationFiles(const DataDir& data_dir, billing::BackupWriter* writer) {
  std::vector<std::string> names;
  std::error_code error;
  for (const char* name : {"admin.key", "demo.key"}) {
    if (fs::is_regular_file(data_dir.root() + "/" + name, error)) names.emplace_back(name);
  }
  for (const char* directory : {"identity", "ca", "tls"}) {
    const std::string path = data_dir.root() + "/" + directory;
    for (fs::recursive_directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
      if (at->is_regular_file() && !at->is_symlink()) names.push_back(at->path().lexically_relative(data_dir.root()));
    }
  }
  if (names.size() > kSmallFilesMax) {
    return absl::FailedPreconditionError(
        absl::StrCat(data_dir.root(), " has ", names.size(), " key files, expected at most ", kSmallFilesMax));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string path = data_dir.root() + "/" + name;
    std::ifstream in(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    absl::Status status;
    if (!in || bytes.size() > kSmallFileMax) {
      status = absl::FailedPreconditionError(absl::StrCat(path, ": cannot be read, or has more than 1 MiB"));
    }
    if (status.ok()) status = writer->BeginFile(name, bytes.size());
    if (status.ok()) status = writer->Write(bytes);
    if (status.ok()) status = writer->EndFile();
    OPENSSL_cleanse(bytes.data(), bytes.size());
    GANTRY_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::StatusOr<billing::BackupManifest> FromFacts(const v1::BackupFacts& facts) {
  billing::BackupManifest manifest;
  GANTRY_ASSIGN_OR_RETURN(manifest.backup_id, Id16::FromBytes(facts.backup_id()));
  GANTRY_ASSIGN_OR_RETURN(manifest.books_id, Id16::FromBytes(facts.books_id()));
  manifest.made_us = facts.made_us();
  manifest.position = {facts.epoch(), facts.sequence()};
  manifest.schema_version = facts.schema_version();
  manifest.version = facts.version();
  manifest.command_log = facts.command_log();
  for (const v1::BackupTable& table : facts.tables()) {
    manifest.tables.push_back({table.name(), table.last_seq(), table.head()});
  }
  return manifest;
}

absl::StatusOr<int> Create(const BackupOptions& options, const Invocation& invocation) {
  std::string path = options.path;
  if (fs::is_directory(path)) {
    path =
        absl::StrCat(path, "/gantry-", absl::FormatTime("%Y%m%dT%H%M%SZ", absl::Now(), absl::UTCTimeZone()), ".backup");
  }
  GANTRY_ASSIGN_OR_RETURN(const Secret passphrase, ReadPassphrase(options.passphrase_file, true));
  const DataDir data_dir = invocation.data_dir();
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(data_dir));
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<billing::BackupWriter> writer,
                          billing::BackupWriter::Create(path, passphrase));
  bool in_file = false;
  v1::BackupFacts facts;
  const auto take = [&](const v1::BackupChunk& chunk) -> absl::Status {
    if (chunk.has_file() || chunk.has_facts()) {
      if (in_file) GANTRY_RETURN_IF_ERROR(writer->EndFile());
      in_file = chunk.has_file();
      if (chunk.has_facts()) facts = chunk.facts();
      return in_file ? writer->BeginFile(chunk.file().name(), chunk.file().bytes()) : absl::OkStatus();
    }
    return writer->Write(chunk.data());
  };
  GANTRY_RETURN_IF_ERROR((client.Stream<v1::CreateBackupRequest, v1::BackupChunk>(
      &Admin::CreateBackup, v1::CreateBackupRequest(), kCreateDeadline, take)));
  GANTRY_ASSIGN_OR_RETURN(billing::BackupManifest manifest, FromFacts(facts));
  GANTRY_RETURN_IF_ERROR(AddInstallationFiles(data_dir, writer.get()));
  GANTRY_RETURN_IF_ERROR(writer->Finish(std::move(manifest)));
  // What cannot be read back is no backup.
  GANTRY_ASSIGN_OR_RETURN(manifest, billing::ReadBackup(path, passphrase));
  v1::ConfirmBackupRequest confirm;
  confirm.set_backup_id(facts.backup_id());
  confirm.set_made_us(facts.made_us());
  confirm.set_epoch(facts.epoch());
  confirm.set_sequence(facts.sequence());
  GANTRY_RETURN_IF_ERROR(client.CallOnce(&Admin::ConfirmBackup, confirm, "").status());
  *invocation.out << path << ": " << manifest.files.size() << " files, " << Mebibytes(BytesOf(manifest))
                  << ", everything acknowledged before " << Moment(manifest.made_us) << "; read back and verified\n";
  if (!manifest.command_log) {
    *invocation.err << "no command log is kept: what is acknowledged after this moment cannot be restored "
                       "(GANTRY_BILLING_COMMAND_LOG names a directory on another disk)\n";
  }
  return 0;
}

// ---- verify ----

absl::StatusOr<int> Verify(const BackupOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const Secret passphrase, ReadPassphrase(options.passphrase_file, false));
  GANTRY_ASSIGN_OR_RETURN(const billing::BackupManifest manifest, billing::ReadBackup(options.path, passphrase));
  *invocation.out << options.path << ": ok\n"
                  << "  made            " << Moment(manifest.made_us) << " by gantry " << manifest.version << "\n"
                  << "  books           " << manifest.books_id.ToHex() << ", epoch " << manifest.position.epoch
                  << ", schema version " << manifest.schema_version << "\n"
                  << "  command log     "
                  << (manifest.command_log ? absl::StrCat("goes on after ", manifest.position.sequence) : "none")
                  << "\n";
  for (const auto& file : manifest.files) {
    *invocation.out << "  file            " << file.name << ", " << file.bytes << " bytes, SHA-256 "
                    << absl::BytesToHexString(file.sha256) << "\n";
  }
  for (const billing::BackupTable& table : manifest.tables) {
    *invocation.out << "  table           " << table.name << " up to " << table.last_seq;
    if (!table.head.empty()) *invocation.out << ", chain " << absl::BytesToHexString(table.head);
    *invocation.out << "\n";
  }
  return 0;
}

// ---- restore ----

void SayWhatCannotComeBack(const billing::RestoreReport& report, std::ostream& out) {
  if (report.complete) {
    out << "everything acknowledged came back: " << report.replayed << " commits out of the command log, the last of "
        << Moment(report.last_us) << "\n";
    return;
  }
  out << "restored as of " << Moment(report.manifest.made_us)
      << ". What was acknowledged after that cannot come back:\n"
      << "  - top-ups, credit, plans, tenants and keys made since must be entered again\n"
      << "  - keys revoked since work again unless a running gateway knows it: revoke them again\n"
      << "  - usage comes back as far as gateways and workers still hold it in their data dirs (they send it again)\n"
      << "  - invoices finalised since have numbers that these books do not know; new ones are of series "
      << report.series_mark << ", so no number is given twice\n";
}

absl::StatusOr<int> RestoreBackup(const BackupOptions& options, const Invocation& invocation) {
  const DataDir data_dir = invocation.data_dir();
  if (LockHolder(data_dir) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("gantry runs on ", data_dir.root(), "; stop it: gantry down"));
  }
  GANTRY_ASSIGN_OR_RETURN(const Secret passphrase, ReadPassphrase(options.passphrase_file, false));
  GANTRY_ASSIGN_OR_RETURN(const billing::RestoreReport report,
                          billing::Restore({.backup = options.path,
                                            .passphrase = passphrase,
                                            .data_dir = data_dir.root(),
                                            .command_log = options.command_log,
                                            .now_us = absl::ToUnixMicros(absl::Now())}));
  SayWhatCannotComeBack(report, *invocation.out);
  *invocation.out << "epoch " << report.epoch << " begins: what gateways held before is fenced\n";
  if (!report.audited) {
    *invocation.out << "the books are of an older version: start gantry, then run gantry audit\n";
    return 0;
  }
  if (!report.audit_ok) {
    *invocation.err << "the restored books do NOT hold:\n" << report.audit_failures;
    return 1;
  }
  *invocation.out << "the books hold. Next: gantry up --data-dir " << data_dir.root() << "\n";
  return 0;
}

}  // namespace

void AddBackupCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<BackupOptions>();
  CLI::App* group = AddGroup(app, "backup", "seal the books and keys in a file, and bring them back");
  const auto passphrase = [&](CLI::App* command) {
    command
        ->add_option("--passphrase-file", options->passphrase_file,
                     "file of mode 0600 that holds the passphrase; default: asked at the terminal")
        ->type_name("FILE");
  };
  CLI::App* create = AddCommand(*group, invocation, "create", "a backup while everything runs",
                                "gantry backup create /mnt/backups\n"
                                "gantry backup create /mnt/backups/july.backup --passphrase-file ~/.gantry-passphrase",
                                [=, &invocation] { return Create(*options, invocation); });
  create->add_option("PATH", options->path, "a new file, or the directory where it is made")->required();
  passphrase(create);
  CLI::App* verify = AddCommand(
      *group, invocation, "verify", "reads a backup, checks every byte and shows what is in it",
      "gantry backup verify /mnt/backups/july.backup", [=, &invocation] { return Verify(*options, invocation); });
  verify->add_option("FILE", options->path, "the backup")->required();
  passphrase(verify);
  CLI::App* restore = AddCommand(
      *group, invocation, "restore", "books and keys into an empty data dir, while nothing runs",
      "gantry backup restore july.backup --data-dir /var/lib/gantry\n"
      "gantry backup restore july.backup --data-dir /var/lib/gantry --command-log /mnt/other/gantry-command-log",
      [=, &invocation] { return RestoreBackup(*options, invocation); });
  restore->add_option("FILE", options->path, "the backup")->required();
  restore
      ->add_option("--command-log", options->command_log,
                   "directory of gantry-billing's command log: brings back what was acknowledged after the backup")
      ->type_name("DIR");
  passphrase(restore);
}

}  // namespace gantry::cli
