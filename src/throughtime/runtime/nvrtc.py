"""NVRTC, the CUDA compiler that is a library: it needs no CUDA toolkit and no C++ compiler, nor a GPU.

It comes with torch's own CUDA packages, or as the package nvidia-cuda-nvrtc.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Nvrtc", "NvrtcNotFound", "find_nvrtc"]

# No fast-math, and a multiply-add is fused only where it is written, as on the CPU. Everything is for the device: the
# skeletons say it nowhere, so that they are plain C++.
FLAGS = ("-std=c++17", "-default-device", "--fmad=false")

# The libraries by CUDA's major version, and where their packages put them.
FOLDERS = {13: ("cu13/lib",), 12: ("cuda_nvrtc/lib", "cu12/lib")}


class NvrtcNotFound(RuntimeError):
    """No usable NVRTC; the message is one sentence that says how to get one."""


@dataclass(frozen=True)
class Nvrtc:
    """An NVRTC that answered, for one architecture.

    Attributes:
        path: the library, or the name by which the system finds it.
        version: its version.
        arch: what it compiles for: "sm_90a".
    """

    path: str
    version: str
    arch: str

    suffix = ".cubin"

    def __str__(self) -> str:
        return f"NVRTC {self.version} for {self.arch}"

    @property
    def identity(self) -> str:
        """Everything by which two compilers can differ, as one line of JSON; where it lies does not matter."""
        return json.dumps({"nvrtc": self.version, "arch": self.arch})

    def compile_command(self, source: str, output: str, flags: tuple[str, ...]) -> list[str]:
        """What is compiled, and how, as words."""
        return ["nvrtc", f"-arch={self.arch}", *FLAGS, *flags, source, "-o", output]

    def compile(self, main: str, output: str, flags: tuple[str, ...], directory: Path) -> tuple[int, str]:
        """Compiles the file `main` with every other file of `directory` as a header; the status (0: done) and what the
        compiler says."""
        library = _library(self.path)
        headers = {p.name: p.read_bytes() for p in sorted(directory.iterdir()) if p.name != main and p.is_file()}
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*headers.values())
        names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
        text = (directory / main).read_bytes()
        _check(
            library,
            library.nvrtcCreateProgram(ctypes.byref(program), text, main.encode(), len(headers), texts, names),
        )
        try:
            options = [f"-arch={self.arch}", *FLAGS, *flags]
            words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
            status = int(library.nvrtcCompileProgram(program, len(options), words))
            log = _taken(library, program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            if status == 0:
                code = _taken(library, program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
                (directory / output).write_bytes(code)
            return status, log.rstrip(b"\0").decode("utf-8", "replace")
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))


def find_nvrtc(arch: str, major: int | None = None) -> Nvrtc:
    """The NVRTC to use for an architecture, such as "sm_90a".

    Args:
        arch: what to compile for.
        major: the major version of CUDA to look for first: the one that the rest of the process uses.

    Raises:
        NvrtcNotFound: none was found, or none that knows the architecture.
    """
    refused = []
    for path in _places(major):
        try:
            library = _library(path)
        except OSError:
            continue
        high, low = ctypes.c_int(), ctypes.c_int()
        _check(library, library.nvrtcVersion(ctypes.byref(high), ctypes.byref(low)))
        if int(arch.removeprefix("sm_").rstrip("af")) in _architectures(library):
            return Nvrtc(path, f"{high.value}.{low.value}", arch)
        refused.append(f"; NVRTC {high.value}.{low.value} does not know {arch}")
    raise NvrtcNotFound(
        f"No NVRTC, CUDA's compiler library, was found for {arch} (looked beside torch and for the package "
        f"nvidia-cuda-nvrtc{''.join(refused)}): get it with `pip install nvidia-cuda-nvrtc`, or use "
        'backend="reference".'
    )


def _places(major: int | None) -> Iterator[str]:
    """Where the library may lie: already in the process, in packages, or where the system looks."""
    wanted = sorted(FOLDERS, key=lambda m: (m != major, -m))
    found = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in found.submodule_search_locations or ()] if found else []
    for version in wanted:
        for root in roots:
            for folder in FOLDERS[version]:
                path = root / folder / f"libnvrtc.so.{version}"
                if path.is_file():
                    yield str(path)
        yield f"libnvrtc.so.{version}"


@functools.cache
def _library(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


def _architectures(library: ctypes.CDLL) -> list[int]:
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    found = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(found))
    return list(found)


def _taken(library: ctypes.CDLL, program: ctypes.c_void_p, size: str, get: str) -> bytes:
    """The bytes that a pair of functions says the length of and copies."""
    count = ctypes.c_size_t()
    _check(library, getattr(library, size)(program, ctypes.byref(count)))
    content = ctypes.create_string_buffer(max(count.value, 1))
    _check(library, getattr(library, get)(program, content))
    return content.raw[: count.value]


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC failed: {library.nvrtcGetErrorString(status).decode()}")
