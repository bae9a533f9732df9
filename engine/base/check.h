// Invariants of our own code, checked in every build. Outside input is never checked with this: it gets an
// absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

// Prints file, line and the broken condition, then aborts. `why` is a string literal that says what the invariant
// means.
#define GANTRY_CHECK(condition, why)                                                                   \
  do {                                                                                                 \
    if (!(condition)) [[unlikely]] {                                                                   \
      std::fprintf(stderr, "%s:%d: broken invariant: %s (%s)\n", __FILE__, __LINE__, #condition, why); \
      std::abort();                                                                                    \
    }                                                                                                  \
  } while (false)
