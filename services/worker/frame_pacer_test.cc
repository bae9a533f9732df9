#include "services/worker/frame_pacer.h"

#include <gtest/gtest.h>

#include <deque>

namespace gantry::worker {
namespace {

using std::chrono::milliseconds;

TEST(FramePacerTest, SequencesShareTheFramesUpToALongestWait) {
  struct Case {
    int frames_per_s, sequences;
    milliseconds interval;
  };
  for (const Case& c :
       {Case{500, 0, milliseconds(0)}, Case{500, 1, milliseconds(2)}, Case{500, 16, milliseconds(32)},
        Case{500, 25, milliseconds(50)}, Case{500, 300, milliseconds(50)}, Case{0, 300, milliseconds(0)}}) {
    FramePacer pacer(c.frames_per_s);
    std::deque<FramePacer::Place> sequences;
    for (int i = 0; i < c.sequences; ++i) sequences.emplace_back(&pacer);
    EXPECT_EQ(pacer.Interval(), c.interval) << c.frames_per_s << " frames/s, " << c.sequences << " sequences";
  }
}

TEST(FramePacerTest, WhoLeavesGivesItsFramesToTheOthers) {
  FramePacer pacer(100);
  std::deque<FramePacer::Place> sequences;
  for (int i = 0; i < 4; ++i) sequences.emplace_back(&pacer);
  EXPECT_EQ(pacer.Interval(), milliseconds(40));
  while (sequences.size() > 1) sequences.pop_front();
  EXPECT_EQ(pacer.Interval(), milliseconds(10));
}

}  // namespace
}  // namespace gantry::worker
