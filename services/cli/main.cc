// gantry: starts and administers an installation. See services/cli/cli.h.
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "services/cli/cli.h"

int main(int argc, char** argv) {
  // `gantry usage | head` must end with an error of write, not by a signal in the middle of a call.
  std::signal(SIGPIPE, SIG_IGN);
  const int code = gantry::cli::RunCli(std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
  std::cout.flush();
  std::cerr.flush();
  // gRPC's threads still tidy up a channel that is gone; the library's own end beside them aborts now and then
  // ("assertion failed: prior > 0", one call in 1,400 on a busy machine), after all was said and done.
  std::_Exit(code);
}
