"""The GPUs of this process, as kernels see them: torch's devices, contexts and streams."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from throughtime import runtime
from throughtime.codegen.cuda import cuda_skeletons
from throughtime.nn.cuda_kernels import Launch, Machine
from throughtime.nn.cuda_layout import Scheme
from throughtime.nn.cuda_model import Facts
from throughtime.nn.cuda_wish import VARIABLE

MAIN = "kernel.cu"


def arch_of(capability: tuple[int, int]) -> str:
    """What to compile for; from sm_90 on with the features of that very architecture."""
    major, minor = capability
    if major < 8:
        raise NotImplementedError(
            f"the compiled backend works on GPUs of compute capability 8.0 and up, this one has {major}.{minor}: "
            'use backend="reference"'
        )
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def machine_of(device: torch.device) -> Machine:
    """Raises NotImplementedError for a device that kernels do not run on."""
    if device.type != "cuda" or torch.version.hip is not None:
        raise NotImplementedError(
            f"the compiled backend works on the CPU and on NVIDIA GPUs, the tensors are on {device}: "
            'use backend="reference"'
        )
    return _gpu(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _gpu(index: int) -> Gpu:
    return Gpu(index)


class Gpu:
    """One GPU; see `Machine`."""

    def __init__(self, index: int) -> None:
        self.index = index
        properties = torch.cuda.get_device_properties(index)
        arch = arch_of((properties.major, properties.minor))
        self.facts = Facts(arch, properties.multi_processor_count, runtime.shared_memory(index))

    def seconds(self, call: Callable[[], None]) -> float:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"{VARIABLE}=timed measures the first call of each shape: make one before the capture")
        with torch.cuda.device(self.index):
            call()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            call()
            call()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) / 2000

    def program(self, name: str, text: str, scheme: Scheme, capacity: int) -> Launch:
        nvrtc = runtime.find_nvrtc(self.facts.arch, int((torch.version.cuda or "0").split(".")[0]))
        flags = (f"-DTT_WORDS={capacity}", f"-DTT_THREADS={scheme.threads}")
        built = runtime.build(name, {**cuda_skeletons(), MAIN: text}, MAIN, flags, nvrtc)
        with torch.cuda.device(self.index):
            runtime.enter(self.index)
            function = runtime.load_function(built.path.read_bytes(), "tt_run", name)
        allowed = 0

        def launch(words: NDArray[np.int64], scheme: Scheme, shared: int) -> None:
            nonlocal allowed
            cluster = scheme.members if scheme.exchange == "Cluster" else 1
            argument = np.zeros(capacity, dtype=np.int64)
            argument[: len(words)] = words
            with torch.cuda.device(self.index):
                runtime.enter(self.index)
                if shared > allowed:
                    function.allow_shared(shared, cluster)
                    allowed = shared
                function.launch(
                    argument.__array_interface__["data"][0],
                    scheme.teams * scheme.members,
                    scheme.threads,
                    shared,
                    torch.cuda.current_stream().cuda_stream,
                    cluster,
                    scheme.exchange == "Grid",
                )

        return launch
