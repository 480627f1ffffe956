"""Tasks in C++ that look at the pool of threads from inside."""

from __future__ import annotations

from throughtime import runtime

CHECKS = r"""
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))
typedef void (*Task)(void*, int64_t);
typedef void (*Parallel)(int64_t tasks, int64_t threads, int64_t nanoseconds, Task task, void* context);

static int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

struct Count { int64_t* counts; int64_t nanoseconds, running, most; };

static void count_one(void* context, int64_t index) {
  Count* c = (Count*)context;
  int64_t running = __atomic_add_fetch(&c->running, 1, __ATOMIC_SEQ_CST);
  int64_t most = __atomic_load_n(&c->most, __ATOMIC_SEQ_CST);
  while (running > most && !__atomic_compare_exchange_n(&c->most, &most, running, false, 5, 5)) {}
  timespec sleep = {0, (long)c->nanoseconds};
  // Long tasks sleep, so that more of them than there are processors can run at once.
  if (c->nanoseconds >= 100000) nanosleep(&sleep, nullptr);
  else for (int64_t end = now() + c->nanoseconds; now() < end;) {}
  c->counts[index]++;  // not atomic: an index run twice at once, or read too early, would show
  __atomic_sub_fetch(&c->running, 1, __ATOMIC_SEQ_CST);
}

// Returns how many tasks ran at the same time.
EXPORT int64_t count(Parallel parallel, int64_t tasks, int64_t threads, int64_t nanoseconds,
                     int64_t* counts) {
  Count c = {counts, nanoseconds, 0, 0};
  parallel(tasks, threads, INT64_MAX, count_one, &c);
  return c.most;
}

// Many short jobs of changing sizes; returns the number of jobs that did not add up.
EXPORT int64_t hammer(Parallel parallel, int64_t jobs, int64_t most_threads) {
  int64_t wrong = 0;
  for (int64_t j = 0; j < jobs; ++j) {
    int64_t counts[16] = {0}, tasks = j % 16;
    Count c = {counts, j % 7 * 300, 0, 0};
    parallel(tasks, 1 + j % most_threads, INT64_MAX, count_one, &c);
    for (int64_t i = 0; i < 16; ++i) wrong += counts[i] != (i < tasks);
  }
  return wrong;
}

struct Nest { Parallel parallel; int64_t* counts; pthread_t threads[64]; };
static void inner(void* context, int64_t index) { __atomic_add_fetch((int64_t*)context + index, 1, 0); }
static void outer(void* context, int64_t index) {
  Nest* n = (Nest*)context;
  n->parallel(8, 4, INT64_MAX, inner, n->counts + 8 * index);
}
EXPORT void nested(Parallel parallel, int64_t* counts) {
  Nest n = {parallel, counts, {}};
  parallel(8, 4, INT64_MAX, outer, &n);
}

struct Look { int64_t* found; pthread_t caller; };
static void look_at_mask(void* context, int64_t index) {
  Look* l = (Look*)context;
  sigset_t mask;
  pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  bool worker = !pthread_equal(pthread_self(), l->caller);
  l->found[index] = worker + 2 * sigismember(&mask, SIGINT) + 4 * sigismember(&mask, SIGTERM);
  for (int64_t end = now() + 200000; now() < end;) {}
}
EXPORT void masks(Parallel parallel, int64_t tasks, int64_t* found) {
  Look l = {found, pthread_self()};
  parallel(tasks, 4, INT64_MAX, look_at_mask, &l);
}

static void look_at_subnormal(void* context, int64_t index) {
  volatile float small = 1.17549435e-38f;
  ((int64_t*)context)[index] = small * 0.5f != 0;
  for (int64_t end = now() + 200000; now() < end;) {}
}
EXPORT void subnormals(Parallel parallel, int64_t tasks, int64_t flush, int64_t* found) {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  if (flush) _mm_setcsr(before | 0x8040);
#endif
  parallel(tasks, 4, INT64_MAX, look_at_subnormal, found);
#if defined(__SSE__)
  _mm_setcsr(before);
#endif
}

#if defined(__linux__)
struct Apart { int64_t* worker; pthread_t caller; cpu_set_t allowed; };
static void look_at_processors(void* context, int64_t) {
  Apart* a = (Apart*)context;
  for (int64_t end = now() + 3000000; now() < end;) {}
  if (pthread_equal(pthread_self(), a->caller)) return;
  sched_getaffinity(0, sizeof a->allowed, &a->allowed);
  *a->worker = 1;
}
// Of jobs that wake a sleeping worker: in how many one took part, and in how many it may run where the caller does.
EXPORT void apart(Parallel parallel, int64_t jobs, int64_t* found) {
  for (int64_t j = 0; j < jobs; ++j) {
    int64_t worker = 0;
    Apart a = {&worker, pthread_self(), {}};
    timespec sleep = {0, 2000000};
    nanosleep(&sleep, nullptr);
    int before = sched_getcpu();
    parallel(2, 2, INT64_MAX, look_at_processors, &a);
    if (sched_getcpu() != before || !worker) continue;
    found[0]++, found[1] += CPU_ISSET(before, &a.allowed) ? 1 : 0;
  }
}
#endif

#if defined(__linux__)
struct Who { int64_t caller, other; };
static void look_who(void* context, int64_t) {
  Who* w = (Who*)context;
  for (int64_t end = now() + 300000; now() < end;) {}
  if (syscall(SYS_gettid) != w->caller) w->other = syscall(SYS_gettid);
}
// The thread that ran a task besides the caller; 0: none did.
EXPORT int64_t other(Parallel parallel) {
  Who w = {syscall(SYS_gettid), 0};
  parallel(6, 2, INT64_MAX, look_who, &w);
  return w.other;
}
#endif

struct Caller { pthread_t thread; int64_t nanoseconds; int64_t* by; };
static void look_for_caller(void* context, int64_t index) {
  Caller* c = (Caller*)context;
  for (int64_t end = now() + c->nanoseconds; now() < end;) {}
  c->by[index] = pthread_equal(pthread_self(), c->thread) != 0;
}
// Which tasks, `each` nanoseconds long, the caller ran itself; `said`: how long all are said to take.
EXPORT void by_caller(Parallel parallel, int64_t tasks, int64_t said, int64_t each, int64_t* found) {
  Caller c = {pthread_self(), each, found};
  parallel(tasks, 4, said, look_for_caller, &c);
}

static void work(void* context, int64_t) { for (int64_t end = now() + *(int64_t*)context; now() < end;) {} }
// The shortest time, in nanoseconds, that a job of one task a thread takes beyond its task.
EXPORT int64_t dispatch(Parallel parallel, int64_t threads, int64_t nanoseconds, int64_t repeats) {
  int64_t best = 1ll << 60;
  for (int64_t i = 0; i < repeats; ++i) {
    int64_t start = now();
    parallel(threads, threads, INT64_MAX, work, &nanoseconds);
    int64_t taken = now() - start - nanoseconds;
    if (taken < best) best = taken;
  }
  return best;
}
"""


def build_checks() -> str:
    """The path of the library."""
    return runtime.build("checks", {"checks.cpp": CHECKS}, "checks.cpp").path
