#include "services/cli/passphrase.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"

namespace gantry::cli {
namespace {

constexpr size_t kPassphraseMax = 4096;

class Terminal {
 public:
  Terminal() : fd_(open("/dev/tty", O_RDWR | O_CLOEXEC)) {
    if (fd_ < 0 || tcgetattr(fd_, &before_) != 0) return;
    termios silent = before_;
    silent.c_lflag &= static_cast<tcflag_t>(~ECHO);
    silenced_ = tcsetattr(fd_, TCSAFLUSH, &silent) == 0;
  }
  ~Terminal() {
    if (silenced_) tcsetattr(fd_, TCSAFLUSH, &before_);
    if (fd_ >= 0) close(fd_);
  }
  bool ok() const { return silenced_; }

  Secret Ask(absl::string_view question) {
    Say(question);
    std::string line;
    line.reserve(kPassphraseMax);  // grows in place: no copies stay behind
    char c = 0;
    while (line.size() < kPassphraseMax) {
      const ssize_t n = read(fd_, &c, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0 || c == '\n') break;
      line.push_back(c);
    }
    Say("\n");
    return Secret(std::move(line));
  }

 private:
  void Say(absl::string_view text) {
    while (!text.empty()) {
      const ssize_t n = write(fd_, text.data(), text.size());
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  int fd_;
  termios before_{};
  bool silenced_ = false;
};

}  // namespace

absl::StatusOr<Secret> ReadPassphrase(const std::string& file, bool twice) {
  if (!file.empty()) return ReadSecretFile(file);
  Terminal terminal;
  if (!terminal.ok()) {
    return absl::InvalidArgumentError(
        "there is no terminal to ask for the passphrase; give a file of mode 0600 with --passphrase-file");
  }
  Secret first =
      terminal.Ask(twice ? "passphrase of the backup (12 characters or more): " : "passphrase of the backup: ");
  if (!twice) return first;
  const Secret second = terminal.Ask("once more: ");
  if (!first.Equals(second.Reveal())) return absl::InvalidArgumentError("the two passphrases differ");  // compared only
  return first;
}

}  // namespace gantry::cli
