// A file encrypted to a passphrase, written and read as a stream. What a backup is sealed in.
//
// Layout (numbers little endian):
//   header, 68 bytes:  "GANTRYBK" | u32 version 1 | u32 scrypt log2(N) | u32 scrypt r | u32 scrypt p | u32 chunk bytes
//                      | salt, 16 bytes | nonce prefix, 7 bytes | 0, 1 byte | first 16 bytes of HMAC-SHA-256(mac key,
//                      all before)
//   chunks:            AES-256-GCM(key, nonce, chunk), then its tag, 16 bytes; each holds `chunk bytes`, the last fewer
//   or as many nonce, 12 bytes:   prefix | u32 big endian number of the chunk, from 0 | 1 for the last chunk, else 0
//   keys, 64 bytes:    scrypt(passphrase, salt): AES key, then MAC key
// (STREAM of Hoang, Reyhanitabar, Rogaway and Vizar, 2015.) So a wrong passphrase is told before anything is decrypted,
// and a flipped, moved, missing or added byte anywhere is DATA_LOSS. A damaged header cannot be told from a wrong
// passphrase.
//
// Threads: one at a time per object.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct SealOptions {
  uint32_t scrypt_log2_n = 16;  // 64 MiB and a fifth of a second; 10..20
  uint32_t chunk_bytes = 1 << 20;
};

class SealedWriter {
 public:
  // Writes to `path`.part (0600). INVALID_ARGUMENT: the passphrase has fewer than 12 bytes.
  static absl::StatusOr<std::unique_ptr<SealedWriter>> Create(const std::string& path, const Secret& passphrase,
                                                              const SealOptions& options = {});
  // Without Finish nothing stays.
  ~SealedWriter();
  SealedWriter(const SealedWriter&) = delete;

  absl::Status Write(absl::string_view bytes);
  // Syncs and gives the file its name; ALREADY_EXISTS when there is one.
  absl::Status Finish();

 private:
  struct Keys;
  SealedWriter(std::string path, int fd);
  absl::Status Seal(absl::string_view chunk, bool last);
  absl::Status Put(absl::string_view bytes);

  const std::string path_, part_;
  int fd_;
  std::unique_ptr<Keys> keys_;
  uint32_t chunk_bytes_ = 0, number_ = 0;
  std::string pending_;
  bool finished_ = false;
};

class SealedReader {
 public:
  // NOT_FOUND; DATA_LOSS: no backup, or of a newer version; PERMISSION_DENIED: the passphrase does not open it.
  static absl::StatusOr<std::unique_ptr<SealedReader>> Open(const std::string& path, const Secret& passphrase);
  ~SealedReader();
  SealedReader(const SealedReader&) = delete;

  // At most `bytes` more; fewer at the end only. Nothing is handed out that was not verified.
  absl::StatusOr<std::string> Read(size_t bytes);
  bool at_end() const { return ended_ && position_ == chunk_.size(); }

 private:
  struct Keys;
  SealedReader(std::string path, int fd);
  absl::Status NextChunk();

  const std::string path_;
  int fd_;
  std::unique_ptr<Keys> keys_;
  uint32_t chunk_bytes_ = 0, number_ = 0;
  std::string raw_, chunk_;  // raw_: read ahead
  size_t position_ = 0;
  bool ended_ = false;
};

}  // namespace gantry::billing
