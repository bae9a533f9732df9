#include "billing/backup/backup_file.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "services/common/little_endian.h"

namespace gantry::billing {
namespace {

constexpr char kManifest[] = "manifest.json";
constexpr int kFormat = 1;
constexpr size_t kNameMax = 255, kManifestMax = 1 << 20, kFilesMax = 4096, kDigestBytes = 32;
constexpr size_t kReadBytes = 1 << 20;

using Json = nlohmann::ordered_json;

bool IsPlainName(absl::string_view name) {
  if (name.empty() || name.size() > kNameMax) return false;
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part[0] == '.') return false;
    if (!std::all_of(part.begin(), part.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_'; })) {
      return false;
    }
  }
  return true;
}

std::string Hex(absl::string_view bytes) {
  return absl::BytesToHexString(bytes);
}

std::string ToJson(const BackupManifest& manifest) {
  Json out = {
      {"format", kFormat},
      {"backup_id", manifest.backup_id.ToHex()},
      {"books_id", manifest.books_id.ToHex()},
      {"made_us", manifest.made_us},
      {"made", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixMicros(manifest.made_us), absl::UTCTimeZone())},
      {"epoch", manifest.position.epoch},
      {"sequence", manifest.position.sequence},
      {"schema_version", manifest.schema_version},
      {"version", manifest.version},
      {"command_log", manifest.command_log},
      {"files", Json::array()},
      {"tables", Json::array()}};
  for (const auto& file : manifest.files) {
    out["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", Hex(file.sha256)}});
  }
  for (const BackupTable& table : manifest.tables) {
    out["tables"].push_back({{"table", table.name}, {"last_seq", table.last_seq}, {"head", Hex(table.head)}});
  }
  return out.dump(2) + "\n";
}

absl::StatusOr<BackupManifest> FromJson(const std::string& text) {
  const Json in = Json::parse(text, nullptr, false);
  const auto wrong = [] { return absl::DataLossError("its manifest cannot be read"); };
  if (!in.is_object() || in.value("format", 0) != kFormat) return wrong();
  BackupManifest manifest;
  try {
    const auto id = [&](const char* name) {
      return Id16::FromBytes(absl::HexStringToBytes(in.at(name).get<std::string>())).value_or(Id16{});
    };
    manifest.backup_id = id("backup_id");
    manifest.books_id = id("books_id");
    manifest.made_us = in.at("made_us").get<int64_t>();
    manifest.position = {in.at("epoch").get<uint32_t>(), in.at("sequence").get<int64_t>()};
    manifest.schema_version = in.at("schema_version").get<uint32_t>();
    manifest.version = in.at("version").get<std::string>();
    manifest.command_log = in.at("command_log").get<bool>();
    for (const Json& file : in.at("files")) {
      manifest.files.push_back({file.at("name").get<std::string>(), file.at("bytes").get<uint64_t>(),
                                absl::HexStringToBytes(file.at("sha256").get<std::string>())});
    }
    for (const Json& table : in.at("tables")) {
      manifest.tables.push_back({table.at("table").get<std::string>(), table.at("last_seq").get<int64_t>(),
                                 absl::HexStringToBytes(table.at("head").get<std::string>())});
    }
  } catch (const nlohmann::json::exception&) {
    return wrong();
  }
  return manifest;
}

}  // namespace

struct BackupWriter::Digest {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  Digest() { EVP_DigestInit_ex(context, EVP_sha256(), nullptr); }
  ~Digest() { EVP_MD_CTX_free(context); }
  void Add(absl::string_view bytes) { EVP_DigestUpdate(context, bytes.data(), bytes.size()); }
  std::string Finish() {
    std::string out(kDigestBytes, '\0');
    EVP_DigestFinal_ex(context, reinterpret_cast<unsigned char*>(out.data()), nullptr);
    return out;
  }
};

absl::StatusOr<std::unique_ptr<BackupWriter>> BackupWriter::Create(const std::string& path, const Secret& passphrase,
                                                                   const SealOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<SealedWriter> sealed, SealedWriter::Create(path, passphrase, options));
  return std::unique_ptr<BackupWriter>(new BackupWriter(std::move(sealed)));
}

absl::Status BackupWriter::BeginFile(const std::string& name, uint64_t bytes) {
  if (!IsPlainName(name))
    return absl::InvalidArgumentError(absl::StrCat("`", name, "` cannot be a file's name in a backup"));
  if (files_.size() >= kFilesMax) return absl::InvalidArgumentError("a backup has at most 4096 files");
  files_.push_back({name, bytes, ""});
  left_ = bytes;
  digest_ = std::make_shared<Digest>();
  std::string head;
  PutInteger(static_cast<uint32_t>(name.size()), &head);
  head += name;
  PutInteger(bytes, &head);
  return sealed_->Write(head);
}

absl::Status BackupWriter::Write(absl::string_view bytes) {
  if (bytes.size() > left_) return absl::DataLossError(absl::StrCat(files_.back().name, ": more bytes than announced"));
  left_ -= bytes.size();
  digest_->Add(bytes);
  return sealed_->Write(bytes);
}

absl::Status BackupWriter::EndFile() {
  if (left_ != 0) return absl::DataLossError(absl::StrCat(files_.back().name, ": ", left_, " bytes did not come"));
  files_.back().sha256 = digest_->Finish();
  return sealed_->Write(files_.back().sha256);
}

absl::Status BackupWriter::Finish(BackupManifest manifest) {
  manifest.files = files_;
  const std::string text = ToJson(manifest);
  GANTRY_RETURN_IF_ERROR(BeginFile(kManifest, text.size()));
  GANTRY_RETURN_IF_ERROR(Write(text));
  GANTRY_RETURN_IF_ERROR(EndFile());
  return sealed_->Finish();
}

absl::StatusOr<BackupManifest> ReadBackup(const std::string& path, const Secret& passphrase, const BackupSink& sink) {
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<SealedReader> sealed, SealedReader::Open(path, passphrase));
  const auto wrong = [&](absl::string_view what) { return absl::DataLossError(absl::StrCat(path, ": ", what)); };
  const auto number = [&](size_t bytes, uint64_t* value) -> absl::Status {
    GANTRY_ASSIGN_OR_RETURN(const std::string raw, sealed->Read(bytes));
    if (raw.size() != bytes) return wrong("it ends too early");
    *value = 0;
    std::memcpy(value, raw.data(), bytes);
    return absl::OkStatus();
  };
  std::vector<BackupManifest::File> files;
  std::string manifest_text;
  for (;;) {
    uint64_t length = 0, bytes = 0;
    GANTRY_RETURN_IF_ERROR(number(4, &length));
    if (length > kNameMax) return wrong("a name that is too long");
    GANTRY_ASSIGN_OR_RETURN(const std::string name, sealed->Read(length));
    GANTRY_RETURN_IF_ERROR(number(8, &bytes));
    if (!IsPlainName(name) || files.size() >= kFilesMax) return wrong("a file that cannot be in a backup");
    const bool is_manifest = name == kManifest;
    if (is_manifest && bytes > kManifestMax) return wrong("its manifest is too long");
    if (!is_manifest && sink.begin) GANTRY_RETURN_IF_ERROR(sink.begin(name, bytes));
    BackupManifest::File file{name, bytes, ""};
    EVP_MD_CTX* digest = EVP_MD_CTX_new();
    EVP_DigestInit_ex(digest, EVP_sha256(), nullptr);
    absl::Status status;
    for (uint64_t left = bytes; left > 0 && status.ok();) {
      absl::StatusOr<std::string> part = sealed->Read(std::min<uint64_t>(left, kReadBytes));
      status = part.ok() && part->empty() ? wrong("it ends too early") : part.status();
      if (!status.ok()) break;
      EVP_DigestUpdate(digest, part->data(), part->size());
      left -= part->size();
      if (is_manifest) {
        manifest_text += *part;
      } else if (sink.write) {
        status = sink.write(*part);
      }
    }
    file.sha256.resize(kDigestBytes);
    EVP_DigestFinal_ex(digest, reinterpret_cast<unsigned char*>(file.sha256.data()), nullptr);
    EVP_MD_CTX_free(digest);
    GANTRY_RETURN_IF_ERROR(status);
    GANTRY_ASSIGN_OR_RETURN(const std::string stored, sealed->Read(kDigestBytes));
    if (stored != file.sha256) return wrong(absl::StrCat(name, " is not what was written"));
    if (is_manifest) break;
    if (sink.end) GANTRY_RETURN_IF_ERROR(sink.end());
    files.push_back(std::move(file));
  }
  // Authentic chunks after the manifest would be a mistake of ours; a foreign one does not open.
  GANTRY_ASSIGN_OR_RETURN(const std::string more, sealed->Read(1));
  if (!more.empty()) return wrong("something follows its manifest");
  absl::StatusOr<BackupManifest> manifest = FromJson(manifest_text);
  if (!manifest.ok()) return wrong(manifest.status().message());
  const auto same = [](const BackupManifest::File& a, const BackupManifest::File& b) {
    return a.name == b.name && a.bytes == b.bytes && a.sha256 == b.sha256;
  };
  if (!std::equal(files.begin(), files.end(), manifest->files.begin(), manifest->files.end(), same)) {
    return wrong("its manifest does not name its files");
  }
  return manifest;
}

}  // namespace gantry::billing
