// The `gantry` program: one command per thing an operator does. Names, flags and exit codes are a contract that scripts
// rely on: 0 done, 1 it failed, 2 the command line was wrong. Errors are one line on `err`: what was wrong, what was
// expected, what to do.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace gantry::cli {

// `arguments` without the program's name. Returns the exit code. Starts no thread before the command runs, so that `up`
// can fork.
int RunCli(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err);

}  // namespace gantry::cli
