// Threads that work for microseconds beside threads that compute all the time.
//
// The engine keeps every core busy; a gateway thread that wakes up to pass a token on waits until the scheduler gives
// it a core. Linux from 6.12 on lets a thread ask for short turns: it gets the same share of the processors, in smaller
// pieces, and so sooner (EEVDF, sched_setattr(2) with sched_runtime). No privilege is needed, and the engine loses
// nothing but the switches. Older kernels accept the wish and ignore it.
#pragma once

namespace gantry {

inline constexpr int kShortTurnUs = 300;  // the kernel allows 100 to 100,000; its default is about 3,000

// For the calling thread and all threads that it starts from now on: call it in main before there are others, but after
// those that compute. False when the kernel refuses, which costs nothing but latency.
bool AskForShortTurns();

// The calling thread's; 0 where the kernel does not say.
int OwnTurnUs();

}  // namespace gantry
