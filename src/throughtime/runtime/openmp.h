// A part of pool.cpp: the threads of OpenMP, on which torch's operators run. They spin for milliseconds after each
// operator, and threads of ours would have to share the processors with them: so as long as they spin, they run our tasks.
#pragma once

typedef void (*OpenMP)(void (*)(void*), void*, unsigned threads, unsigned flags);
OpenMP openmp;

#if defined(__linux__)
const int unknown = 0, none = -1;
thread_local int neighbour = unknown;  // one of those that serve this thread
thread_local int lost = 0;             // how often it has turned out to be gone

// They spin after our tasks, too, and would do so for ever if we came again and again: so now and then they are left
// alone, for longer than they spin. Who still spins then was used by somebody else.
const int64_t stretch_nanoseconds = 200000000, pause_nanoseconds = 10000000;
thread_local int64_t stretch_end = 0, pause_end = 0;  // 0: they were found asleep

bool is_ours_to_use() {
  const int64_t time = now();
  if (!stretch_end) stretch_end = time + stretch_nanoseconds;
  if (time < stretch_end) return true;
  if (!pause_end) pause_end = time + pause_nanoseconds;
  if (time < pause_end) return false;
  stretch_end = time + stretch_nanoseconds;
  pause_end = 0;
  return true;
}

struct Region {
  int64_t helpers, entered;
  pthread_t caller;
  int* neighbour;
};

void in_region(void* argument) {
  Region* region = static_cast<Region*>(argument);
  if (pthread_equal(pthread_self(), region->caller)) return run_caller_tasks();
  static thread_local const int self = int(syscall(SYS_gettid));
  __atomic_store_n(region->neighbour, self, __ATOMIC_RELAXED);
  if (__atomic_fetch_add(&region->entered, 1, __ATOMIC_RELAXED) >= region->helpers) return;
  const uint64_t before = get_float_control();
  set_float_control(pool.float_control);
  run_tasks();
  set_float_control(before);
}

// Nanoseconds that a thread of this process has run, or -1. The number of its clock is made as pthread_getcpuclockid
// makes it.
int64_t time_of(int thread) {
  timespec time;
  if (clock_gettime(clockid_t(~unsigned(thread) << 3 | 6), &time) != 0) return -1;
  return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

// True if OpenMP's threads have run the tasks.
bool run_on_openmp(int64_t helpers) {
  if (!openmp || neighbour == none) return false;
  if (neighbour != unknown) {
    const int64_t before = time_of(neighbour);
    if (before < 0) {
      neighbour = ++lost < 8 ? unknown : none;
      return false;
    }
    if (time_of(neighbour) == before) {  // it sleeps
      stretch_end = pause_end = 0;
      return false;
    }
    if (!is_ours_to_use()) return false;
  } else {
    stretch_end = 1;  // this is to know one; a pause follows
  }
  Region region = {helpers, 0, pthread_self(), &neighbour};
  openmp(in_region, &region, 0, 0);
  if (neighbour == unknown) neighbour = none;  // it has no threads but this one
  return true;
}
#else
bool run_on_openmp(int64_t) { return false; }
#endif
