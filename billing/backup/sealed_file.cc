#include "billing/backup/sealed_file.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "services/common/file.h"

namespace gantry::billing {
namespace {

constexpr char kMagic[] = "GANTRYBK";
constexpr uint32_t kVersion = 1;
constexpr size_t kMagicBytes = 8, kSaltBytes = 16, kPrefixBytes = 7, kMacBytes = 16, kTagBytes = 16, kNonceBytes = 12;
constexpr size_t kMacAt = kMagicBytes + 5 * 4 + kSaltBytes + kPrefixBytes + 1;
constexpr size_t kHeaderBytes = kMacAt + kMacBytes;
constexpr uint32_t kScryptR = 8, kScryptP = 1;
constexpr size_t kPassphraseMin = 12;
// Bounds of what a file may ask for before it is trusted.
constexpr uint32_t kLog2NMax = 20, kRMax = 16, kPMax = 4, kChunkMax = 16 << 20;

using Bytes = const unsigned char*;

template <typename T>
void PutNumber(T value, std::string* out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));  // all our machines are little endian
  out->append(bytes, sizeof(T));
}

uint32_t GetNumber(const std::string& from, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, from.data() + at, sizeof(value));
  return value;
}

struct KeyBytes {
  std::array<unsigned char, 64> bytes{};
  ~KeyBytes() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
  const unsigned char* aes() const { return bytes.data(); }
  const unsigned char* mac() const { return bytes.data() + 32; }
};

absl::Status Derive(const Secret& passphrase, absl::string_view salt, uint32_t log2_n, uint32_t r, uint32_t p,
                    KeyBytes* keys) {
  const uint64_t n = uint64_t{1} << log2_n;
  const uint64_t memory = 128 * n * r + (1 << 20) + 128 * uint64_t{r} * p;
  const absl::string_view text = passphrase.Reveal();  // into the key derivation
  if (EVP_PBE_scrypt(text.data(), text.size(), reinterpret_cast<Bytes>(salt.data()), salt.size(), n, r, p, memory,
                     keys->bytes.data(), keys->bytes.size()) != 1) {
    return absl::ResourceExhaustedError(absl::StrCat("deriving the key needs ", memory >> 20, " MiB of memory"));
  }
  return absl::OkStatus();
}

std::string Mac(const KeyBytes& keys, absl::string_view header) {
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), keys.mac(), 32, reinterpret_cast<Bytes>(header.data()), header.size(), mac, &size);
  return std::string(reinterpret_cast<char*>(mac), kMacBytes);
}

std::string Nonce(absl::string_view prefix, uint32_t number, bool last) {
  std::string nonce(prefix);
  for (int shift = 24; shift >= 0; shift -= 8) nonce.push_back(static_cast<char>(number >> shift));
  nonce.push_back(last ? 1 : 0);
  GANTRY_CHECK(nonce.size() == kNonceBytes, "a nonce has 12 bytes");
  return nonce;
}

absl::Status Failed(const std::string& path, absl::string_view what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", what));
}

struct Context {
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  ~Context() { EVP_CIPHER_CTX_free(context); }
};

}  // namespace

struct SealedWriter::Keys : KeyBytes {
  std::string prefix;
  Context cipher;
};
struct SealedReader::Keys : KeyBytes {
  std::string prefix;
  Context cipher;
};

SealedWriter::SealedWriter(std::string path, int fd)
    : path_(std::move(path)), part_(path_ + ".part"), fd_(fd), keys_(std::make_unique<Keys>()) {}
SealedReader::SealedReader(std::string path, int fd)
    : path_(std::move(path)), fd_(fd), keys_(std::make_unique<Keys>()) {}

// ---- writing ----

absl::StatusOr<std::unique_ptr<SealedWriter>> SealedWriter::Create(const std::string& path, const Secret& passphrase,
                                                                   const SealOptions& options) {
  if (passphrase.Reveal().size() < kPassphraseMin) {
    return absl::InvalidArgumentError(absl::StrCat("passphrase: expected at least ", kPassphraseMin,
                                                   " characters, found ", passphrase.Reveal().size()));
  }
  if (access(path.c_str(), F_OK) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(path, " is there already; give another name"));
  }
  const std::string part = path + ".part";
  unlink(part.c_str());
  const int fd = open(part.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd < 0) return Failed(part, "cannot be created");
  std::unique_ptr<SealedWriter> writer(new SealedWriter(path, fd));
  writer->chunk_bytes_ = options.chunk_bytes;
  std::string random(kSaltBytes + kPrefixBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(random.data()), static_cast<int>(random.size())) != 1) {
    return absl::InternalError("the system has no random numbers");
  }
  writer->keys_->prefix = random.substr(kSaltBytes);
  std::string header(kMagic, kMagicBytes);
  for (const uint32_t number : {kVersion, options.scrypt_log2_n, kScryptR, kScryptP, options.chunk_bytes}) {
    PutNumber(number, &header);
  }
  header += random;
  header.push_back('\0');
  GANTRY_RETURN_IF_ERROR(Derive(passphrase, absl::string_view(random).substr(0, kSaltBytes), options.scrypt_log2_n,
                                kScryptR, kScryptP, writer->keys_.get()));
  GANTRY_RETURN_IF_ERROR(writer->Put(header + Mac(*writer->keys_, header)));
  return writer;
}

SealedWriter::~SealedWriter() {
  if (fd_ >= 0) close(fd_);
  if (!finished_) unlink(part_.c_str());
}

absl::Status SealedWriter::Put(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(part_, "writing failed");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SealedWriter::Seal(absl::string_view chunk, bool last) {
  if (number_ == UINT32_MAX) return absl::OutOfRangeError("a backup has at most 2^32 chunks");
  const std::string nonce = Nonce(keys_->prefix, number_++, last);
  std::string out(chunk.size() + kTagBytes, '\0');
  auto* bytes = reinterpret_cast<unsigned char*>(out.data());
  EVP_CIPHER_CTX* cipher = keys_->cipher.context;
  int length = 0, rest = 0;
  const bool sealed = EVP_EncryptInit_ex(cipher, EVP_aes_256_gcm(), nullptr, keys_->aes(),
                                         reinterpret_cast<Bytes>(nonce.data())) == 1 &&
                      EVP_EncryptUpdate(cipher, bytes, &length, reinterpret_cast<Bytes>(chunk.data()),
                                        static_cast<int>(chunk.size())) == 1 &&
                      EVP_EncryptFinal_ex(cipher, bytes + length, &rest) == 1 &&
                      EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, kTagBytes, bytes + chunk.size()) == 1;
  if (!sealed) return absl::InternalError("encrypting failed");
  return Put(out);
}

absl::Status SealedWriter::Write(absl::string_view bytes) {
  pending_.append(bytes.data(), bytes.size());
  // The last chunk is known only at the end: one that is full waits for a byte after it.
  size_t at = 0;
  for (; pending_.size() - at > chunk_bytes_; at += chunk_bytes_) {
    GANTRY_RETURN_IF_ERROR(Seal(absl::string_view(pending_).substr(at, chunk_bytes_), false));
  }
  pending_.erase(0, at);
  return absl::OkStatus();
}

absl::Status SealedWriter::Finish() {
  GANTRY_RETURN_IF_ERROR(Seal(pending_, true));
  if (fsync(fd_) != 0) return Failed(part_, "fsync failed");
  // Unlike rename, a link never replaces what came there meanwhile.
  if (link(part_.c_str(), path_.c_str()) != 0) return Failed(path_, "cannot be named");
  finished_ = true;
  unlink(part_.c_str());
  return PosixFileSystem()->SyncDirectory(std::filesystem::absolute(path_).parent_path().string());
}

// ---- reading ----

absl::StatusOr<std::unique_ptr<SealedReader>> SealedReader::Open(const std::string& path, const Secret& passphrase) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(path, "cannot be opened");
  std::unique_ptr<SealedReader> reader(new SealedReader(path, fd));
  std::string header(kHeaderBytes, '\0');
  const ssize_t got = read(fd, header.data(), header.size());
  if (got != static_cast<ssize_t>(kHeaderBytes) || header.compare(0, kMagicBytes, kMagic, kMagicBytes) != 0) {
    return absl::DataLossError(absl::StrCat(path, " is not a backup of gantry, or its beginning is damaged"));
  }
  if (GetNumber(header, 8) != kVersion) {
    return absl::DataLossError(absl::StrCat(path, ": backup format ", GetNumber(header, 8), ", this program knows ",
                                            kVersion, "; use the newer gantry that wrote it"));
  }
  const uint32_t log2_n = GetNumber(header, 12), r = GetNumber(header, 16), p = GetNumber(header, 20);
  reader->chunk_bytes_ = GetNumber(header, 24);
  if (log2_n < 1 || log2_n > kLog2NMax || r < 1 || r > kRMax || p < 1 || p > kPMax || reader->chunk_bytes_ < 1 ||
      reader->chunk_bytes_ > kChunkMax) {
    return absl::DataLossError(absl::StrCat(path, ": the header is damaged"));
  }
  reader->keys_->prefix = header.substr(28 + kSaltBytes, kPrefixBytes);
  GANTRY_RETURN_IF_ERROR(
      Derive(passphrase, absl::string_view(header).substr(28, kSaltBytes), log2_n, r, p, reader->keys_.get()));
  const std::string mac = Mac(*reader->keys_, absl::string_view(header).substr(0, kMacAt));
  if (CRYPTO_memcmp(mac.data(), header.data() + kMacAt, kMacBytes) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(path, ": the passphrase does not open it (or its header is damaged)"));
  }
  return reader;
}

SealedReader::~SealedReader() {
  close(fd_);
}

absl::Status SealedReader::NextChunk() {
  const size_t whole = chunk_bytes_ + kTagBytes;
  // One byte more than the chunk tells whether it is the last.
  while (raw_.size() <= whole) {
    const size_t had = raw_.size();
    raw_.resize(whole + 1);
    const ssize_t n = read(fd_, raw_.data() + had, raw_.size() - had);
    if (n < 0 && errno == EINTR) {
      raw_.resize(had);
      continue;
    }
    if (n < 0) return Failed(path_, "reading failed");
    raw_.resize(had + static_cast<size_t>(n));
    if (n == 0) break;
  }
  const bool last = raw_.size() <= whole;
  const size_t size = std::min(raw_.size(), whole);
  const auto damaged = [&] {
    return absl::DataLossError(absl::StrCat(path_, ": damaged or cut off at chunk ", number_, " of ", chunk_bytes_,
                                            " bytes; use another copy of it"));
  };
  if (size < kTagBytes) return damaged();
  const std::string nonce = Nonce(keys_->prefix, number_, last);
  chunk_.assign(size - kTagBytes, '\0');
  position_ = 0;
  auto* out = reinterpret_cast<unsigned char*>(chunk_.data());
  auto* in = reinterpret_cast<unsigned char*>(raw_.data());
  EVP_CIPHER_CTX* cipher = keys_->cipher.context;
  int length = 0, rest = 0;
  const bool opened = EVP_DecryptInit_ex(cipher, EVP_aes_256_gcm(), nullptr, keys_->aes(),
                                         reinterpret_cast<Bytes>(nonce.data())) == 1 &&
                      EVP_DecryptUpdate(cipher, out, &length, in, static_cast<int>(size - kTagBytes)) == 1 &&
                      EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, kTagBytes, in + size - kTagBytes) == 1 &&
                      EVP_DecryptFinal_ex(cipher, out + length, &rest) == 1;
  if (!opened) {
    chunk_.clear();
    return damaged();
  }
  raw_.erase(0, size);
  ++number_;
  ended_ = last;
  return absl::OkStatus();
}

absl::StatusOr<std::string> SealedReader::Read(size_t bytes) {
  std::string out;
  while (out.size() < bytes) {
    if (position_ == chunk_.size()) {
      if (ended_) break;
      GANTRY_RETURN_IF_ERROR(NextChunk());
      continue;
    }
    const size_t n = std::min(bytes - out.size(), chunk_.size() - position_);
    out.append(chunk_, position_, n);
    position_ += n;
  }
  return out;
}

}  // namespace gantry::billing
