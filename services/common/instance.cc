#include "services/common/instance.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"

namespace gantry {
namespace {

constexpr size_t kFileBytesMax = 256;

// Whole or not at all: a crash leaves the old file.
absl::Status Replace(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  std::ofstream file(fresh);
  file << text << "\n";
  file.close();
  if (!file || std::rename(fresh.c_str(), path.c_str()) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(path, ": cannot be written"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Id16> LoadId(const std::string& path) {
  const absl::StatusOr<std::string> text = engine::ReadSmallFile(path, kFileBytesMax);
  if (text.ok()) {
    absl::StatusOr<Id16> id = Id16::FromHex(absl::StripAsciiWhitespace(*text));
    if (!id.ok()) return absl::DataLossError(absl::StrCat(path, ": ", id.status().message()));
    return id;
  }
  const Id16 id = NewTimeOrderedId();
  GANTRY_RETURN_IF_ERROR(Replace(path, id.ToHex()));
  return id;
}

absl::StatusOr<uint64_t> NextEpoch(const std::string& path) {
  uint64_t last = 0;
  if (const absl::StatusOr<std::string> text = engine::ReadSmallFile(path, kFileBytesMax);
      text.ok() && !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &last)) {
    return absl::DataLossError(absl::StrCat(path, ": expected a number"));
  }
  const uint64_t epoch = std::max(last + 1, static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
  GANTRY_RETURN_IF_ERROR(Replace(path, absl::StrCat(epoch)));
  return epoch;
}

}  // namespace

absl::StatusOr<Instance> LoadInstance(const std::string& state_dir) {
  std::error_code error;
  if (std::filesystem::create_directories(state_dir, error)) chmod(state_dir.c_str(), 0700);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat(state_dir, ": cannot be created: ", error.message()));
  }
  Instance instance;
  GANTRY_ASSIGN_OR_RETURN(instance.id, LoadId(state_dir + "/id"));
  GANTRY_ASSIGN_OR_RETURN(instance.epoch, NextEpoch(state_dir + "/epoch"));
  return instance;
}

}  // namespace gantry
