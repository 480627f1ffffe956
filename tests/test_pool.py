"""The pool of threads: every task once, at most so many at once, nested, from many threads, after a fork."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
typedef void (*Parallel)(int64_t tasks, int64_t threads, Task task, void* context);

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
  parallel(tasks, threads, count_one, &c);
  return c.most;
}

// Many short jobs of changing sizes; returns the number of jobs that did not add up.
EXPORT int64_t hammer(Parallel parallel, int64_t jobs, int64_t most_threads) {
  int64_t wrong = 0;
  for (int64_t j = 0; j < jobs; ++j) {
    int64_t counts[16] = {0}, tasks = j % 16;
    Count c = {counts, j % 7 * 300, 0, 0};
    parallel(tasks, 1 + j % most_threads, count_one, &c);
    for (int64_t i = 0; i < 16; ++i) wrong += counts[i] != (i < tasks);
  }
  return wrong;
}

struct Nest { Parallel parallel; int64_t* counts; pthread_t threads[64]; };
static void inner(void* context, int64_t index) { __atomic_add_fetch((int64_t*)context + index, 1, 0); }
static void outer(void* context, int64_t index) {
  Nest* n = (Nest*)context;
  n->parallel(8, 4, inner, n->counts + 8 * index);
}
EXPORT void nested(Parallel parallel, int64_t* counts) {
  Nest n = {parallel, counts, {}};
  parallel(8, 4, outer, &n);
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
  parallel(tasks, 4, look_at_mask, &l);
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
  parallel(tasks, 4, look_at_subnormal, found);
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
    parallel(2, 2, look_at_processors, &a);
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
  parallel(6, 2, look_who, &w);
  return w.other;
}
#endif

static void work(void* context, int64_t) { for (int64_t end = now() + *(int64_t*)context; now() < end;) {} }
// The shortest time, in nanoseconds, that a job of one task a thread takes beyond its task.
EXPORT int64_t dispatch(Parallel parallel, int64_t threads, int64_t nanoseconds, int64_t repeats) {
  int64_t best = 1ll << 60;
  for (int64_t i = 0; i < repeats; ++i) {
    int64_t start = now();
    parallel(threads, threads, work, &nanoseconds);
    int64_t taken = now() - start - nanoseconds;
    if (taken < best) best = taken;
  }
  return best;
}
"""


@pytest.fixture(scope="module")
def checks() -> ctypes.CDLL:
    library = runtime.load(runtime.build("checks", {"checks.cpp": CHECKS}, "checks.cpp").path)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.count.argtypes, library.count.restype = [pointer, number, number, number, pointer], number
    library.hammer.argtypes, library.hammer.restype = [pointer, number, number], number
    library.nested.argtypes, library.nested.restype = [pointer, pointer], None
    library.masks.argtypes, library.masks.restype = [pointer, number, pointer], None
    library.subnormals.argtypes, library.subnormals.restype = [pointer, number, number, pointer], None
    library.dispatch.argtypes, library.dispatch.restype = [pointer, number, number, number], number
    return library


@pytest.fixture(scope="module")
def parallel() -> int:
    address = runtime.parallel_address()
    assert address == runtime.parallel_address()
    return address


def eventually(reached: Callable[[int], bool], function: Callable[..., int], *arguments: object) -> int:
    """Call a function until its result is as wished, or for at most ten seconds; its last result."""
    deadline = time.monotonic() + 10
    while not reached(result := function(*arguments)) and time.monotonic() < deadline:
        pass
    return result


@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 100, 1000])
@pytest.mark.parametrize("threads", [-1, 0, 1, 2, 3, 8])
def test_every_task_once(checks: ctypes.CDLL, parallel: int, tasks: int, threads: int) -> None:
    counts = (ctypes.c_int64 * (tasks + 1))()
    most = checks.count(parallel, tasks, threads, 1000, counts)
    assert list(counts) == [1] * tasks + [0]
    assert most <= max(1, threads)


def test_never_more_threads_than_asked_for(checks: ctypes.CDLL, parallel: int) -> None:
    """Also after the pool has grown larger; and two cores do work at once."""
    counts = (ctypes.c_int64 * 64)()
    checks.count(parallel, 64, 6, 10_000, counts)
    for threads in (1, 2, 3, 2):
        arguments = (parallel, 20, threads, 200_000, counts)
        # On a busy machine the workers may get no processor before the caller has done everything.
        eventually(threads.__le__, checks.count, *arguments)
        assert max(checks.count(*arguments) for _ in range(5)) <= threads
        assert eventually(threads.__le__, checks.count, *arguments) == threads


def test_sleeping_workers_wake_up(checks: ctypes.CDLL, parallel: int) -> None:
    counts = (ctypes.c_int64 * 4)()
    for _ in range(5):
        time.sleep(0.02)
        checks.count(parallel, 4, 4, 1_000_000, counts)
    assert list(counts) == [5] * 4


def test_many_short_jobs(checks: ctypes.CDLL, parallel: int) -> None:
    assert checks.hammer(parallel, 20_000, 4) == 0


def test_many_threads_of_the_program(checks: ctypes.CDLL, parallel: int) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: checks.hammer(parallel, 4000, 4), range(6))) == [0] * 6


def test_nested_calls(checks: ctypes.CDLL, parallel: int) -> None:
    counts = (ctypes.c_int64 * 64)()
    checks.nested(parallel, counts)
    assert list(counts) == [1] * 64


def test_workers_block_signals_and_callers_do_not(checks: ctypes.CDLL, parallel: int) -> None:
    found = (ctypes.c_int64 * 40)()
    eventually(lambda _: any(found), checks.masks, parallel, 40, found)
    assert set(found) == {0, 1 + 2 + 4}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_workers_round_and_flush_as_the_caller(checks: ctypes.CDLL, parallel: int) -> None:
    found = (ctypes.c_int64 * 40)()
    for _ in range(5):
        checks.subnormals(parallel, 40, 0, found)
        assert set(found) == {1}
        if platform.machine() == "x86_64":
            checks.subnormals(parallel, 40, 1, found)
            assert set(found) == {0}
    alive: list[bool] = []
    thread = threading.Thread(target=lambda: alive.append(sys.float_info.min / 2 != 0))
    thread.start()
    thread.join()
    assert alive == [True] and sys.float_info.min / 2 != 0


def test_dispatch_is_cheap(checks: ctypes.CDLL, parallel: int) -> None:
    """0.1 µs for the caller alone, 0.5 µs with a spinning worker, 13 µs with a sleeping one were measured."""
    assert checks.dispatch(parallel, 2, 0, 2000) < 5000


def test_idle_pool_uses_no_processor(checks: ctypes.CDLL, parallel: int) -> None:
    counts = (ctypes.c_int64 * 64)()
    checks.count(parallel, 64, 4, 1000, counts)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03


FORK = """
import ctypes, os, sys
from throughtime import runtime
checks = ctypes.CDLL(sys.argv[1])
parallel = ctypes.c_void_p(runtime.parallel_address())
number = ctypes.c_int64
def run():
    counts = (number * 100)()
    checks.count.restype = number
    most = checks.count(parallel, number(100), number(3), number(20000), counts)
    assert list(counts) == [1] * 100
    return most
run()
for busy in (False, True):
    thread = None
    if busy:  # another thread is inside the pool at the time of the fork
        import threading
        thread = threading.Thread(target=lambda: checks.hammer(parallel, number(30000), number(3)))
        thread.start()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            most = 1
            for _ in range(1000):
                most = max(most, run())
                if most > 1:
                    break
            if os.fork() == 0:
                run()
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]) or (0 if most > 1 else 9))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if thread:
        thread.join()
    run()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_of_fork_have_a_pool_of_their_own() -> None:
    library = runtime.build("checks", {"checks.cpp": CHECKS}, "checks.cpp").path
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, library],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_threads_that_the_system_refuses(checks: ctypes.CDLL) -> None:
    """With no room for stacks, the calling thread does all the work."""
    code = (
        "import ctypes, resource, sys\nfrom throughtime import runtime\n"
        "checks = ctypes.CDLL(sys.argv[1]); number = ctypes.c_int64; counts = (number * 9)()\n"
        "parallel = ctypes.c_void_p(runtime.parallel_address())\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)\n"
        "checks.count.restype = number\n"
        "print(checks.count(parallel, number(9), number(4), number(1000), counts), list(counts))"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("the limit on memory is set from /proc")
    library = runtime.build("checks", {"checks.cpp": CHECKS}, "checks.cpp").path
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, library], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"1 {[1] * 9}"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a program say where its threads run")
def test_a_worker_is_not_woken_where_its_caller_runs(checks: ctypes.CDLL, parallel: int) -> None:
    """There it would wait until the caller has done everything alone."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    found = (ctypes.c_int64 * 2)()
    checks.apart(ctypes.c_void_p(parallel), ctypes.c_int64(60), found)
    assert found[0] > 5
    assert found[1] <= found[0] // 10  # the caller may be moved just before it wakes the worker


OPENMP = """
import ctypes, os, sys, time
import torch
from throughtime import runtime
torch.set_num_threads(2)
checks, parallel, number = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p(runtime.parallel_address()), ctypes.c_int64
checks.other.restype = number
large = torch.full((1 << 22,), 1e-39)
def threads():
    return {int(n) for n in os.listdir("/proc/self/task")}
large + large
others = threads() - {os.getpid()}  # OpenMP's, while the pool has none
found = {"spinning": set(), "asleep": set()}
for _ in range(30):
    for _ in range(5):
        large + large
        time.sleep(0.003)
    large + large
    found["spinning"].add(checks.other(parallel))
    time.sleep(0.1)
    found["asleep"].add(checks.other(parallel))
for kind in found.values():
    kind.discard(0)  # a busy machine may leave the caller alone
assert found["spinning"] & others, (found, others)
assert found["asleep"] - others, (found, others)
# Without operators of torch's, jobs of ours do not keep OpenMP's threads spinning.
counts = (number * 9)()
def jobs(seconds):
    end, before = time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end:
        checks.count(parallel, number(2), number(2), number(50000), counts)
        time.sleep(0.002)
    return (time.process_time() - before) / seconds
large + large
jobs(0.5)
assert jobs(0.5) < 0.5
# The modes of OpenMP's threads are their own.
flags = (number * 40)()
for _ in range(20):
    large + large
    checks.subnormals(parallel, number(40), number(1), flags)
    assert ((large + large) > 0).all()
# Threads come and go.
for count in (1, 2, 1, 2, 3) * 4:
    torch.set_num_threads(count)
    large + large
    counts = (number * 9)()
    checks.count(parallel, number(9), number(2), number(1000), counts)
    assert list(counts) == [1] * 9
large + large
child = os.fork()
if child == 0:
    counts = (number * 100)()
    for _ in range(100):
        checks.count(parallel, number(100), number(3), number(20000), counts)
    os._exit(0 if list(counts) == [100] * 100 else 9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread has run")
def test_the_threads_of_openmp_do_our_work_while_they_spin() -> None:
    """And only then, and not for ever; they keep their floating-point mode, may end, and are missing after a fork."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    library = runtime.build("checks", {"checks.cpp": CHECKS}, "checks.cpp").path
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[2])}
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENMP, library],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
