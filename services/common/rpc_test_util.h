// For tests that need identities and a short-lived directory for sockets and keys.
#pragma once

#include <string>

#include "services/common/rpc.h"

namespace gantry {

// A directory under /tmp (socket paths are short) with tokens of every identity; removed with the object.
class TestIdentities {
 public:
  TestIdentities();
  ~TestIdentities();
  TestIdentities(const TestIdentities&) = delete;

  const std::string& dir() const { return dir_; }
  std::string identity_dir() const { return dir_; }
  std::string admin_key_file() const { return dir_ + "/admin.key"; }
  std::string Socket(const std::string& name) const { return "unix:" + dir_ + "/" + name + ".sock"; }
  Identity Get(const std::string& name) const;
  // For a server of `process` on its socket.
  RpcServerOptions ServerOptions(const std::string& process) const;
  // Certificates of every identity and of "server", signed by one authority, made with openssl(1).
  TlsFiles MakeTls(const std::string& name) const;

 private:
  std::string dir_;
};

}  // namespace gantry
