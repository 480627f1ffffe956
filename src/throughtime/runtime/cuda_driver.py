"""NVIDIA's driver, as far as kernels need it: load a program, ask about it, launch it on a stream. No CUDA toolkit.

Kernels run in the device's primary context, which is torch's too.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

__all__ = ["CudaError", "Function", "enter", "load_function", "shared_memory"]

# The numbers of cuda.h.
_MAX_SHARED, _NON_PORTABLE_CLUSTER = 8, 14
_COOPERATIVE, _CLUSTER = 2, 4
_SHARED_OF_A_BLOCK = 97


class CudaError(RuntimeError):
    """The driver refused something; the message says what and why."""


class _Value(ctypes.Union):
    _fields_ = [("pad", ctypes.c_char * 64), ("number", ctypes.c_int), ("extent", ctypes.c_uint * 3)]


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", _Value)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError(f'No NVIDIA driver was found ({error}): install one, or use backend="reference".') from None
    library.cuGetErrorString.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    return library


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise CudaError(f"{what} failed: {(text.value or b'unknown error').decode()} ({status})")


@dataclass(frozen=True)
class Function:
    """A kernel that is loaded. `name`: for messages."""

    handle: ctypes.c_void_p
    name: str

    def allow_shared(self, count: int, cluster: int) -> None:
        """Asks for so many bytes of shared memory for each block, and for clusters of more than 8 blocks if need be."""
        driver = _driver()
        _check(
            driver.cuFuncSetAttribute(self.handle, _MAX_SHARED, count),
            f"{self.name}: asking for {count} bytes of shared memory",
        )
        if cluster > 8:
            _check(
                driver.cuFuncSetAttribute(self.handle, _NON_PORTABLE_CLUSTER, 1),
                f"{self.name}: asking for clusters of {cluster} blocks",
            )

    def active_clusters(self, blocks: int, threads: int, shared: int, cluster: int) -> int:
        """How many clusters the device can run at once."""
        launch, keep = _launch(blocks, threads, shared, None, cluster, False)
        count = ctypes.c_int()
        _check(
            _driver().cuOccupancyMaxActiveClusters(ctypes.byref(count), self.handle, ctypes.byref(launch)),
            f"{self.name}: counting clusters",
        )
        del keep
        return count.value

    def launch(
        self, argument: int, blocks: int, threads: int, shared: int, stream: int, cluster: int, cooperative: bool
    ) -> None:
        """Starts the kernel on a stream. `argument`: the address of its one argument; it is copied."""
        launch, keep = _launch(blocks, threads, shared, stream, cluster, cooperative)
        arguments = (ctypes.c_void_p * 1)(argument)
        _check(
            _driver().cuLaunchKernelEx(ctypes.byref(launch), self.handle, arguments, None),
            f"{self.name}: launching {blocks} blocks of {threads} threads",
        )
        del keep


def _launch(
    blocks: int, threads: int, shared: int, stream: int | None, cluster: int, cooperative: bool
) -> tuple[_Launch, ctypes.Array[_Attribute]]:
    """The launch, and the attributes it points to."""
    attributes = (_Attribute * 2)()
    count = 0
    if cluster > 1:
        attributes[count].id = _CLUSTER
        attributes[count].value.extent[:] = (cluster, 1, 1)
        count += 1
    if cooperative:
        attributes[count].id = _COOPERATIVE
        attributes[count].value.number = 1
        count += 1
    launch = _Launch((blocks, 1, 1), (threads, 1, 1), shared, stream, attributes, count)
    return launch, attributes


def enter(index: int) -> None:
    """Makes a device's primary context the calling thread's, if the thread has none yet."""
    driver = _driver()
    context, device = ctypes.c_void_p(), ctypes.c_int()
    _check(driver.cuInit(0), "starting the NVIDIA driver")
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)), "asking for the context")
    if context.value is None:
        _check(driver.cuDeviceGet(ctypes.byref(device), index), f"finding GPU {index}")
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), f"opening GPU {index}")
        _check(driver.cuCtxSetCurrent(context), f"using GPU {index}")


def shared_memory(index: int) -> int:
    """Bytes of shared memory that a block can ask for on a device, by the driver's number.

    Raises:
        CudaError: there is no driver, or no such device.
    """
    driver = _driver()
    _check(driver.cuInit(0), "starting the NVIDIA driver")
    device, count = ctypes.c_int(), ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(device), index), f"finding GPU {index}")
    _check(driver.cuDeviceGetAttribute(ctypes.byref(count), _SHARED_OF_A_BLOCK, device), f"asking GPU {index}")
    return count.value


def load_function(code: bytes, entry: str, name: str) -> Function:
    """The kernel `entry` of a compiled program, loaded into the current context; it is never unloaded.

    Raises:
        CudaError: there is no driver, or it refuses the program.
    """
    driver = _driver()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuModuleLoadData(ctypes.byref(module), code), f"loading {name}")
    _check(driver.cuModuleGetFunction(ctypes.byref(function), module, entry.encode()), f"finding {entry} in {name}")
    return Function(function, name)
