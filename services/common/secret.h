// A value that must not reach a log, a message or a core file's strings by accident: it has no conversion to string,
// no stream operator, no AbslStringify; its memory is wiped when it goes.
#pragma once

#include <ostream>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  Secret(const Secret&) = default;
  Secret(Secret&& other) noexcept { *this = std::move(other); }
  Secret& operator=(const Secret& other);
  Secret& operator=(Secret&& other) noexcept;
  ~Secret() { Wipe(); }

  bool empty() const { return value_.empty(); }
  // Takes the same time wherever the first difference is. Lengths are not secret.
  bool Equals(absl::string_view other) const;
  // The only way out. Say why beside each use.
  absl::string_view Reveal() const { return value_; }

  friend std::ostream& operator<<(std::ostream&, const Secret&) = delete;

 private:
  void Wipe();
  std::string value_;
};

// Reads a file that holds a secret: trailing white space cut, 1..`limit` bytes, owned by this user and 0600 or
// stricter. NOT_FOUND, PERMISSION_DENIED (names the mode and the chmod that cures it), INVALID_ARGUMENT (empty, too
// long).
absl::StatusOr<Secret> ReadSecretFile(const std::string& path, size_t limit = 4096);

}  // namespace gantry
