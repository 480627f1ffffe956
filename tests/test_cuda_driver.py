"""The binding to NVIDIA's driver against a library that takes its place and writes down what it is told, with the
structures as cuda.h declares them."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from throughtime import runtime
from throughtime.runtime import cuda_driver

DRIVER = r"""
#include <stdio.h>
#include <string.h>

typedef struct { unsigned x, y, z; } Extent;
typedef union { char pad[64]; int cooperative; Extent cluster; } Value;
typedef struct { int id; char pad[8 - sizeof(int)]; Value value; } Attribute;
typedef struct {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, shared;
  void* stream;
  Attribute* attributes;
  unsigned count;
} Config;

static char text[4096];
static void* context;
static int refusal;
#define SAY(...) sprintf(text + strlen(text), __VA_ARGS__)

const char* told(void) { return text; }
void refuse(int status) { refusal = status; }
int cuGetErrorString(int status, const char** found) { *found = "out of luck"; return 0; }
int cuInit(unsigned flags) { SAY("init %u; ", flags); return 0; }
int cuCtxGetCurrent(void** found) { *found = context; return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 100; return 0; }
int cuDeviceGetAttribute(int* value, int what, int device) { *value = what * 1000 + device; return 0; }
int cuDevicePrimaryCtxRetain(void** found, int device) { SAY("retain %d; ", device); *found = (void*)8; return 0; }
int cuCtxSetCurrent(void* given) { context = given; return 0; }
int cuModuleLoadData(void** module, const void* image) {
  SAY("load %s; ", (const char*)image);
  *module = (void*)16;
  return refusal;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  SAY("find %s in %p; ", name, module);
  *function = (void*)0x700000000018;
  return 0;
}
int cuFuncSetAttribute(void* function, int what, int value) {
  SAY("set %d = %d of %p; ", what, value, function);
  return 0;
}
static void say(const Config* c) {
  SAY("grid %u %u %u, block %u %u %u, shared %u, stream %p", c->gridX, c->gridY, c->gridZ, c->blockX, c->blockY,
      c->blockZ, c->shared, c->stream);
  for (unsigned i = 0; i < c->count; ++i) {
    const Attribute* a = c->attributes + i;
    if (a->id == 2) SAY(", cooperative %d", a->value.cooperative);
    if (a->id == 4) SAY(", cluster %u %u %u", a->value.cluster.x, a->value.cluster.y, a->value.cluster.z);
  }
  SAY("; ");
}
int cuOccupancyMaxActiveClusters(int* count, void* function, const Config* c) {
  say(c);
  *count = 7;
  return function == 0;
}
int cuLaunchKernelEx(const Config* c, void* function, void** arguments, void** extra) {
  SAY("launch %p with %lld, ", function, *(long long*)arguments[0]);
  say(c);
  return extra != 0;
}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", str(tmp_path / "driver.c"), "-o", str(library)], check=True)
    opened = ctypes.CDLL(str(library))
    opened.told.restype = ctypes.c_char_p
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: opened)
    cuda_driver._driver.cache_clear()
    yield opened
    cuda_driver._driver.cache_clear()


def test_a_launch(driver: ctypes.CDLL) -> None:
    runtime.enter(1)
    runtime.enter(1)  # the thread has its context now
    function = runtime.load_function(b"a program", "tt_run", "lstm")
    function.allow_shared(200_000, 8)
    function.allow_shared(100, 16)
    number = ctypes.c_longlong(1 << 40)
    function.launch(ctypes.addressof(number), 32, 256, 5000, 0xABC0, 16, False)
    function.launch(ctypes.addressof(number), 6, 64, 0, 0, 1, True)
    assert function.active_clusters(32, 256, 5000, 4) == 7
    assert driver.told().decode().replace("0x700000000018", "f").rstrip("; ").split("; ") == [
        "init 0",
        "retain 101",
        "init 0",
        "load a program",
        "find tt_run in 0x10",
        "set 8 = 200000 of f",
        "set 8 = 100 of f",
        "set 14 = 1 of f",
        "launch f with 1099511627776, grid 32 1 1, block 256 1 1, shared 5000, stream 0xabc0, cluster 16 1 1",
        "launch f with 1099511627776, grid 6 1 1, block 64 1 1, shared 0, stream (nil), cooperative 1",
        "grid 32 1 1, block 256 1 1, shared 5000, stream (nil), cluster 4 1 1",
    ]


def test_shared_memory(driver: ctypes.CDLL) -> None:
    assert runtime.shared_memory(2) == 97_102


def test_what_the_driver_refuses_is_one_sentence(driver: ctypes.CDLL) -> None:
    driver.refuse(209)
    with pytest.raises(runtime.CudaError, match=r"^loading lstm failed: out of luck \(209\)$"):
        runtime.load_function(b"", "tt_run", "lstm")
