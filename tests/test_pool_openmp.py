"""The pool and the threads of OpenMP, on which torch's operators run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pool_checks import build_checks
from throughtime import runtime

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
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[2])}
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENMP, build_checks()],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
