// A part of pool.cpp: whether a sleeping worker is woken for a job, and where.
#pragma once

// Linux may wake a thread on the processor of the one that wakes it, even if others are idle: there it would wait until
// the caller has done all the work alone. So it may run on any that the caller may use, but for the caller's own.
void keep_off_caller([[maybe_unused]] Worker* worker) {
#if defined(__linux__)
  const int here = sched_getcpu();
  if (here < 0 || worker->avoids == here + 1) return;
  cpu_set_t others;
  if (sched_getaffinity(0, sizeof others, &others) != 0) return;
  CPU_CLR(here, &others);
  if (CPU_COUNT(&others) > 0 && pthread_setaffinity_np(worker->thread, sizeof others, &others) == 0)
    worker->avoids = here + 1;
#endif
}

void offer(Worker* worker, uint64_t job) {
  store(&worker->job, job);
  if (!load(&worker->sleeping)) return;
  keep_off_caller(worker);
  pthread_mutex_lock(&worker->mutex);
  pthread_cond_signal(&worker->wake);
  pthread_mutex_unlock(&worker->mutex);
}

bool is_worth_waking(int64_t nanoseconds) {
  if (nanoseconds < worth_waking_nanoseconds) {
    const int64_t time = now();
    nanoseconds += time - pool.passed_at < spin_nanoseconds ? pool.passed : 0;
    pool.passed_at = time;
  }
  pool.passed = nanoseconds < worth_waking_nanoseconds ? nanoseconds : 0;
  return nanoseconds >= worth_waking_nanoseconds;
}
