#include "billing/receipt/key_ring.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "billing/receipt/ed25519.h"
#include "billing/receipt/receipt.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"
#include "services/common/file.h"
#include "services/common/ids.h"

namespace gantry::billing {
namespace {

constexpr size_t kFileLimit = 64 << 10;
constexpr size_t kKeyLimit = 500;
constexpr absl::string_view kBlinding = "blinding ", kKey = "ed25519 ";

std::string RandomHex() {
  char bytes[kEd25519SeedBytes];
  FillRandom(bytes, sizeof bytes);
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

bool IsSecretHex(absl::string_view text) {
  return text.size() == 2 * kEd25519SeedBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReceiptKeyRing>> ReceiptKeyRing::Open(std::string path) {
  std::unique_ptr<ReceiptKeyRing> ring(new ReceiptKeyRing(std::move(path)));
  absl::MutexLock lock(&ring->mutex_);
  GANTRY_RETURN_IF_ERROR(ring->ReadLocked());
  return ring;
}

absl::Status ReceiptKeyRing::ReadLocked() {
  absl::StatusOr<Secret> content = ReadSecretFile(path_, kFileLimit);
  if (absl::IsNotFound(content.status())) return absl::OkStatus();
  if (!content.ok()) return content.status();
  int number = 0;
  for (absl::string_view line : absl::StrSplit(content->Reveal(), '\n')) {  // into secrets of their own
    ++number;
    const bool is_blinding = absl::ConsumePrefix(&line, kBlinding);
    if ((!is_blinding && !absl::ConsumePrefix(&line, kKey)) || !IsSecretHex(line)) {
      return absl::DataLossError(absl::StrCat(path_, ":", number, ": expected `", kBlinding, "` or `", kKey, "` and ",
                                              2 * kEd25519SeedBytes, " hex digits; restore the file from a backup"));
    }
    Secret secret(absl::HexStringToBytes(line));
    if (is_blinding) {
      blinding_ = std::move(secret);
    } else {
      const std::string key_id = ReceiptKeyId(Ed25519PublicKey(secret));
      seeds_[key_id] = std::move(secret);
    }
  }
  if (blinding_.empty()) return absl::DataLossError(absl::StrCat(path_, ": the line `", kBlinding, "…` is missing"));
  content_ = *std::move(content);
  return absl::OkStatus();
}

absl::Status ReceiptKeyRing::WriteLocked(const Secret& content) const {
  const std::string part = path_ + ".part";
  unlink(part.c_str());
  const int fd = open(part.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  const absl::string_view bytes = content.Reveal();  // into the file
  const bool written = fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) &&
                       fsync(fd) == 0 && rename(part.c_str(), path_.c_str()) == 0;
  const int saved_errno = errno;
  if (fd >= 0) close(fd);
  if (!written) {
    unlink(part.c_str());
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", path_, ": ", std::strerror(saved_errno)));
  }
  return PosixFileSystem()->SyncDirectory(std::filesystem::absolute(path_).parent_path().string());
}

absl::StatusOr<std::string> ReceiptKeyRing::AddKey() {
  absl::MutexLock lock(&mutex_);
  if (seeds_.size() >= kKeyLimit) {
    return absl::ResourceExhaustedError(absl::StrCat(path_, " has ", kKeyLimit, " keys, which is as many as it may"));
  }
  const std::string seed_hex = RandomHex();
  const std::string blinding_hex =
      blinding_.empty() ? RandomHex() : absl::BytesToHexString(blinding_.Reveal());  // into the file
  const absl::string_view before = content_.Reveal();                                // into the file
  Secret content(before.empty() ? absl::StrCat(kBlinding, blinding_hex, "\n", kKey, seed_hex, "\n")
                                : absl::StrCat(before, "\n", kKey, seed_hex, "\n"));
  GANTRY_RETURN_IF_ERROR(WriteLocked(content));
  GANTRY_RETURN_IF_ERROR(ReadLocked());
  return Ed25519PublicKey(Secret(absl::HexStringToBytes(seed_hex)));
}

bool ReceiptKeyRing::Has(const std::string& key_id) const {
  absl::MutexLock lock(&mutex_);
  return seeds_.contains(key_id);
}

absl::Status ReceiptKeyRing::Missing(absl::string_view what) const {
  return absl::FailedPreconditionError(
      absl::StrCat(path_, " has no ", what,
                   "; restore the file from a backup. Without one, `gantry receipt rotate-key` makes a key for "
                   "receipts from now on; earlier ones cannot be made again, those handed out stay valid"));
}

absl::StatusOr<std::string> ReceiptKeyRing::Sign(const std::string& key_id, absl::string_view message) const {
  absl::MutexLock lock(&mutex_);
  const auto seed = seeds_.find(key_id);
  if (seed == seeds_.end()) return Missing(absl::StrCat("private key ", key_id));
  return Ed25519Sign(seed->second, message);
}

absl::StatusOr<std::string> ReceiptKeyRing::Nonce(absl::string_view purpose) const {
  absl::MutexLock lock(&mutex_);
  if (blinding_.empty()) return Missing("blinding secret");
  return HmacSha256(blinding_, purpose);
}

}  // namespace gantry::billing
