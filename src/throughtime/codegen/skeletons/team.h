// Threads that share the units of one slice: each has its part of every matrix in its own caches.
//
// They meet after every phase of a step. A thread that the system keeps from running would hold up the others each
// time: so who comes late is not waited for at the start, and a team that has lost too much by waiting is given up, at a
// meeting, in favour of its leader alone; for a while no new ones are formed.
#pragma once

#include <sched.h>
#include <stdint.h>
#include <time.h>

#include "lanes.h"

namespace tt {

inline void relax() {
#if defined(__SSE2__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

inline int64_t nanoseconds() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

struct alignas(128) Team {
  static constexpr int64_t closed = int64_t(1) << 32;
  // Nanoseconds. Another program's turn on the core takes some millions; one now and then, which the system's own work is,
  // costs less than to go on alone. So a team may lose this much by waiting, and a part of the time that it works.
  static constexpr int64_t patience = 500000, part = 8;
  static constexpr int64_t noticed = 100000;  // a shorter wait is for a member that has more units
  // Without teams after one was given up: the longer, the sooner that happens again.
  static constexpr int64_t shortest_pause = 1000000, longest_pause = 50000000, soon = 20000000;
  static inline int64_t none_before = 0, pause = shortest_pause;

  int64_t joined = 0;  // members but the leader; with `closed`, no more of them
  int64_t members = 0;  // with the leader, once it is known
  bool given_up = false, late = false, unable = false;
  alignas(128) int64_t arrived = 0;
  alignas(128) int64_t meetings = 0;
  int64_t began = 0, expected = 0, lost = 0;  // nanoseconds: when, how long at least it will take, lost by waiting
  const void* leader = nullptr;  // what the members take over from it

  static bool allowed() { return nanoseconds() >= __atomic_load_n(&none_before, __ATOMIC_RELAXED); }

  // The leader's, for what takes at least `least` nanoseconds: waits for the others to wake up, and says how many there
  // are.
  void close(int64_t wanted, int64_t least) {
    began = nanoseconds();
    expected = least;
    const int64_t deadline = began + (least < 1000000 ? least : 1000000);
    while (__atomic_load_n(&joined, __ATOMIC_ACQUIRE) < wanted - 1 && nanoseconds() < deadline) relax();
    const int64_t found = __atomic_fetch_or(&joined, closed, __ATOMIC_ACQ_REL);
    __atomic_store_n(&members, found + 1, __ATOMIC_RELEASE);
  }

  // A member's number, 1 and up; 0 if the team is closed.
  int64_t join() {
    const int64_t before = __atomic_fetch_add(&joined, 1, __ATOMIC_ACQ_REL);
    if (before & closed) return 0;
    while (!__atomic_load_n(&members, __ATOMIC_ACQUIRE)) relax();
    return before + 1;
  }

  // Nobody goes on before all have come.
  void meet() {
    const int64_t before = __atomic_load_n(&meetings, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == members) {
      __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
      given_up = __atomic_load_n(&late, __ATOMIC_RELAXED);
      __atomic_store_n(&meetings, before + 1, __ATOMIC_RELEASE);
      return;
    }
    int64_t first = 0, now = 0;
    for (int64_t spins = 0; __atomic_load_n(&meetings, __ATOMIC_ACQUIRE) == before; ++spins) {
      relax();
      if (spins % 256 != 255) continue;
      now = nanoseconds();
      if (!first) first = now;
      if (now - first < patience + expected / part + (now - began) / part - __atomic_load_n(&lost, __ATOMIC_RELAXED)) continue;
      if (!__atomic_exchange_n(&late, true, __ATOMIC_RELAXED)) put_off(now);
      sched_yield();
    }
    if (now - first > noticed) __atomic_add_fetch(&lost, now - first, __ATOMIC_RELAXED);
  }

  static void put_off(int64_t now) {
    const int64_t last = __atomic_load_n(&pause, __ATOMIC_RELAXED);
    const bool again = now - __atomic_load_n(&none_before, __ATOMIC_RELAXED) < soon + 2 * last;
    int64_t next = again ? 2 * last : last / 2;
    next = next < shortest_pause ? shortest_pause : next > longest_pause ? longest_pause : next;
    __atomic_store_n(&pause, next, __ATOMIC_RELAXED);
    __atomic_store_n(&none_before, now + next, __ATOMIC_RELAXED);
  }
};

}  // namespace tt
