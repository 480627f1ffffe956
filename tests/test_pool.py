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

from pool_checks import build_checks
from throughtime import runtime
from throughtime.runtime import pool as pool_module


@pytest.fixture(scope="module")
def checks() -> ctypes.CDLL:
    library = runtime.load(build_checks())
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.count.argtypes, library.count.restype = [pointer, number, number, number, pointer], number
    library.hammer.argtypes, library.hammer.restype = [pointer, number, number], number
    library.nested.argtypes, library.nested.restype = [pointer, pointer], None
    library.masks.argtypes, library.masks.restype = [pointer, number, pointer], None
    library.subnormals.argtypes, library.subnormals.restype = [pointer, number, number, pointer], None
    library.by_caller.argtypes, library.by_caller.restype = [pointer, number, number, number, pointer], None
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


def test_the_first_task_is_the_callers(checks: ctypes.CDLL, parallel: int) -> None:
    found, others = (ctypes.c_int64 * 6)(), 0
    for _ in range(300):  # workers that spin are quicker than their caller
        checks.by_caller(parallel, 6, 1 << 62, 20_000, found)
        assert found[0] == 1
        others += 6 - sum(found)
    assert others > 0


def test_sleeping_workers_are_not_woken_for_little(checks: ctypes.CDLL, parallel: int) -> None:
    found = (ctypes.c_int64 * 6)()
    for said, alone in ((90_000, True), (1 << 62, False), (90_000, True)):
        time.sleep(0.02)
        checks.by_caller(parallel, 6, said, 1_000_000, found)
        assert (sum(found) == 6) == alone


def test_short_jobs_that_follow_one_another_wake_a_worker(checks: ctypes.CDLL, parallel: int) -> None:
    found = (ctypes.c_int64 * 6)()

    def run() -> bool:
        time.sleep(0.02)
        for _ in range(2):
            checks.by_caller(parallel, 6, 60_000, 10_000, found)
            if sum(found) < 6:
                return False  # the first job found a worker awake
        checks.by_caller(parallel, 6, 60_000, 1_000_000, found)
        return sum(found) < 6

    assert eventually(bool, run)


def test_how_long_a_meeting_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_measured", [])
    assert runtime.meeting_nanoseconds(measure=False) == pool_module.USUAL_MEETING
    found = runtime.meeting_nanoseconds()
    assert 5 < found < 100_000
    assert runtime.meeting_nanoseconds() == runtime.meeting_nanoseconds(measure=False) == found


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
    library = build_checks()
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
    library = build_checks()
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
