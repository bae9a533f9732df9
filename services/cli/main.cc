// gantry: starts and administers an installation. See services/cli/cli.h.
#include <csignal>
#include <iostream>

#include "services/cli/cli.h"

int main(int argc, char** argv) {
  // `gantry usage | head` must end with an error of write, not by a signal in the middle of a call.
  std::signal(SIGPIPE, SIG_IGN);
  return gantry::cli::RunCli(std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
}
