// Sealed files and backups: what goes in comes out, and nothing that was changed does.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/backup/backup_file.h"
#include "billing/backup/books_facts.h"
#include "billing/backup/restore.h"
#include "billing/backup/sealed_file.h"
#include "billing/store/lineage.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

namespace fs = std::filesystem;

const SealOptions kQuick = {.scrypt_log2_n = 4, .chunk_bytes = 64};

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
void WriteFile(const std::string& path, const std::string& bytes) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class BackupTest : public testing::Test {
 protected:
  BackupTest() {
    char name[] = "/tmp/gantry-backup-XXXXXX";
    dir_ = mkdtemp(name);
  }
  ~BackupTest() override { fs::remove_all(dir_); }
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  void Seal(const std::string& path, const std::string& bytes) {
    auto writer = SealedWriter::Create(path, passphrase_, kQuick);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (size_t at = 0; at < bytes.size(); at += 37) ASSERT_TRUE((*writer)->Write(bytes.substr(at, 37)).ok());
    ASSERT_TRUE((*writer)->Finish().ok());
  }
  absl::StatusOr<std::string> Unseal(const std::string& path) {
    auto reader = SealedReader::Open(path, passphrase_);
    if (!reader.ok()) return reader.status();
    return (*reader)->Read(1 << 20);
  }

  std::string dir_;
  const Secret passphrase_{"correct horse battery"};
};

TEST_F(BackupTest, SealedBytesComeBackWhateverTheirNumber) {
  for (const size_t size : {0, 1, 63, 64, 65, 127, 128, 129, 1000}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7);
    const std::string path = Path(absl::StrCat("sealed-", size));
    Seal(path, bytes);
    const auto back = Unseal(path);
    ASSERT_TRUE(back.ok()) << size << ": " << back.status();
    EXPECT_EQ(*back, bytes);
    EXPECT_FALSE(absl::StrContains(ReadFile(path), "\x07\x0e\x15\x1c")) << "in the clear";
  }
}

TEST_F(BackupTest, AnyFlippedMissingOrAddedByteIsNoticed) {
  const std::string path = Path("sealed");
  Seal(path, std::string(150, 'x'));
  const std::string whole = ReadFile(path);
  const auto expect_refused = [&](const std::string& bytes, const std::string& what) {
    WriteFile(Path("changed"), bytes);
    const auto back = Unseal(Path("changed"));
    EXPECT_FALSE(back.ok()) << what;
    EXPECT_TRUE(absl::IsDataLoss(back.status()) || absl::IsPermissionDenied(back.status())) << back.status();
  };
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 1;
    expect_refused(changed, absl::StrCat("byte ", i));
    expect_refused(whole.substr(0, i), absl::StrCat("cut at ", i));
  }
  expect_refused(whole + "x", "one more");
  // Two chunks in each other's place.
  std::string swapped = whole;
  const size_t header = whole.size() - 150 - 3 * 16;
  std::swap_ranges(swapped.begin() + static_cast<long>(header), swapped.begin() + static_cast<long>(header + 80),
                   swapped.begin() + static_cast<long>(header + 80));
  EXPECT_NE(swapped, whole);
  expect_refused(swapped, "swapped");
}

TEST_F(BackupTest, AWrongPassphraseIsToldAndAShortOneRefused) {
  Seal(Path("sealed"), "text");
  const auto reader = SealedReader::Open(Path("sealed"), Secret("correct horse batterz"));
  EXPECT_TRUE(absl::IsPermissionDenied(reader.status())) << reader.status();
  EXPECT_TRUE(absl::StrContains(reader.status().message(), "the passphrase does not open it")) << reader.status();
  EXPECT_TRUE(absl::IsInvalidArgument(SealedWriter::Create(Path("other"), Secret("short"), kQuick).status()));
  EXPECT_TRUE(absl::IsDataLoss(SealedReader::Open("/etc/hostname", passphrase_).status()));
}

TEST_F(BackupTest, AnUnfinishedBackupLeavesNothing) {
  {
    auto writer = SealedWriter::Create(Path("sealed"), passphrase_, kQuick);
    ASSERT_TRUE((*writer)->Write(std::string(1000, 'x')).ok());
  }
  EXPECT_TRUE(fs::is_empty(dir_));
  Seal(Path("sealed"), "text");
  EXPECT_TRUE(absl::IsAlreadyExists(SealedWriter::Create(Path("sealed"), passphrase_, kQuick).status()));
}

// ---- backups of books ----

class RestoreTest : public BackupTest {
 protected:
  RestoreTest() {
    fs::create_directories(Path("installation/billing"));
    const Id16 slice = books_.Slice(1'000'000);
    books_.Append(books_.Record(slice, 100, 50));
  }

  // As `gantry backup create` does it.
  BackupManifest MakeBackup(const std::string& path) {
    const std::string copy = Path("copy.db");
    EXPECT_TRUE(books_.store().CopyAndWait(copy).ok());
    BackupManifest manifest;
    {
      auto database = *Database::Open(copy, Database::Mode::kReader);
      const Lineage lineage = *ReadLineage(*database);
      manifest.backup_id = NewTimeOrderedId();
      manifest.books_id = lineage.books_id;
      manifest.made_us = books_.now_us();
      manifest.position = lineage.position;
      manifest.command_log = lineage.logged;
      manifest.schema_version = static_cast<uint32_t>(*SchemaVersion(*database));
      manifest.tables = *NumberedTables(*database);
    }
    auto writer = BackupWriter::Create(path, passphrase_, {.scrypt_log2_n = 4});
    EXPECT_TRUE(writer.ok()) << writer.status();
    const std::string bytes = ReadFile(copy);
    for (const auto& [name, content] : std::vector<std::pair<std::string, std::string>>{
             {kBackupDatabase, bytes}, {"billing/pepper", std::string(64, 'a') + "\n"}, {"admin.key", "token\n"}}) {
      EXPECT_TRUE((*writer)->BeginFile(name, content.size()).ok());
      EXPECT_TRUE((*writer)->Write(content).ok());
      EXPECT_TRUE((*writer)->EndFile().ok());
    }
    EXPECT_TRUE((*writer)->Finish(manifest).ok());
    return manifest;
  }
  RestoreOptions Options() {
    return {
        .backup = Path("one.backup"), .passphrase = passphrase_, .data_dir = Path("new"), .now_us = books_.now_us()};
  }
  Books books_;
};

TEST_F(RestoreTest, AManifestSaysWhatIsInside) {
  MakeBackup(Path("one.backup"));
  const auto manifest = ReadBackup(Path("one.backup"), passphrase_);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_EQ(manifest->files.size(), 3u);
  EXPECT_EQ(manifest->files[0].name, "billing/gantry.db");
  EXPECT_EQ(manifest->files[2].bytes, 6u);
  bool has_usage = false;
  for (const BackupTable& table : manifest->tables) has_usage |= table.name == "usage_event" && table.last_seq == 1;
  EXPECT_TRUE(has_usage);
}

TEST_F(RestoreTest, WithoutCommandLogTheBooksAreThoseOfTheBackupInANewEpochAndSeries) {
  MakeBackup(Path("one.backup"));
  const auto report = Restore(Options());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->complete);
  EXPECT_TRUE(report->audited && report->audit_ok) << report->audit_failures;
  EXPECT_EQ(report->epoch, 2u);
  EXPECT_EQ(report->series_mark, "R2");
  EXPECT_EQ(ReadFile(Path("new/billing/pepper")), std::string(64, 'a') + "\n");
  EXPECT_EQ(fs::status(Path("new/admin.key")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_FALSE(fs::exists(Path("new/restore.part")));
  auto store = Store::Open({.path = Path("new/billing/gantry.db")});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)
                  ->ReadAndWait([&](Database& db) {
                    Rows rows = db.Query("SELECT min(epoch) FROM gateway");
                    EXPECT_TRUE(rows.Next() && rows.Int(0) >= books_.now_us()) << "gateways of before are fenced";
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(RestoreTest, BooksThatAreThereAreNeverOverwritten) {
  MakeBackup(Path("one.backup"));
  WriteFile(Path("new/billing/gantry.db"), "mine");
  EXPECT_TRUE(absl::IsFailedPrecondition(Restore(Options()).status()));
  fs::remove(Path("new/billing/gantry.db"));
  WriteFile(Path("new/admin.key"), "mine");
  const auto report = Restore(Options());
  EXPECT_TRUE(absl::StrContains(report.status().message(), "admin.key is there already")) << report.status();
  EXPECT_FALSE(fs::exists(Path("new/billing/pepper")));
  EXPECT_FALSE(fs::exists(Path("new/restore.part")));
}

TEST_F(RestoreTest, ACommandLogOfNothingOrOfOtherBooksIsRefused) {
  MakeBackup(Path("one.backup"));
  fs::create_directories(Path("log"));
  RestoreOptions options = Options();
  options.command_log = Path("log");
  auto report = Restore(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(report.status())) << report.status();
  EXPECT_FALSE(fs::exists(Path("new/billing/gantry.db")));
  ASSERT_TRUE(CommandLog::Open({PosixFileSystem(), Path("log"), NewTimeOrderedId()}, {1, 0}).ok());
  report = Restore(options);
  EXPECT_TRUE(absl::StrContains(report.status().message(), "is of other books")) << report.status();
}

}  // namespace
}  // namespace gantry::billing
