#include "services/common/rpc_test_util.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "services/common/allow_list.h"
#include "services/common/ids.h"

// Address-sanitizer builds: gRPC's own threads still live when a test ends, and OpenSSL's error state of each,
// allocated through these two, with them.
extern "C" const char* __lsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier): its name for us
  return "leak:CRYPTO_zalloc\nleak:CRYPTO_strdup\n";
}

namespace gantry {
namespace {

void Run(const std::string& command) {
  GANTRY_CHECK(std::system((command + " >/dev/null 2>&1").c_str()) == 0, "openssl makes test certificates");
}

}  // namespace

TestIdentities::TestIdentities() {
  char pattern[] = "/tmp/gantry-test-XXXXXX";
  GANTRY_CHECK(mkdtemp(pattern) != nullptr, "/tmp is writable");
  dir_ = pattern;
  for (absl::string_view name : kIdentities) {
    std::string path = absl::StrCat(dir_, "/", name, ".key");
    std::ofstream(path) << NewTimeOrderedId().ToHex() << NewTimeOrderedId().ToHex() << "\n";
    chmod(path.c_str(), 0600);
  }
}

TestIdentities::~TestIdentities() {
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

Identity TestIdentities::Get(const std::string& name) const {
  absl::StatusOr<Identity> identity = LoadIdentity(name, dir_);
  GANTRY_CHECK(identity.ok(), "test identities exist");
  return *identity;
}

RpcServerOptions TestIdentities::ServerOptions(const std::string& process) const {
  return {.process = process, .listen = Socket(process), .identity_dir = dir_, .admin_key_file = admin_key_file()};
}

TlsFiles TestIdentities::MakeTls(const std::string& name) const {
  std::string ca = dir_ + "/ca";
  if (access((ca + ".crt").c_str(), R_OK) != 0) {
    Run(absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ", ca,
        ".pem -out ", ca, ".crt"));
  }
  std::string base = absl::StrCat(dir_, "/tls-", name);
  std::ofstream(base + ".ext") << "subjectAltName=URI:gantry://" << name << ",IP:127.0.0.1,DNS:localhost\n";
  Run(absl::StrCat("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=", name, " -keyout ", base,
                   ".pem -out ", base, ".csr"));
  Run(absl::StrCat("openssl x509 -req -days 2 -CA ", ca, ".crt -CAkey ", ca, ".pem -CAcreateserial -in ", base,
                   ".csr -extfile ", base, ".ext -out ", base, ".crt"));
  return {.certificate = base + ".crt", .key = base + ".pem", .authority = ca + ".crt"};
}

}  // namespace gantry
