"""Find a C++ compiler and ask it what it is: its version, its target and the processor it compiles for.

The compiler named by ``THROUGHTIME_CXX``, else by ``CXX``, else the first working one of ``g++``,
``clang++``, ``c++`` and the clang inside the ``ziglang`` package. A compiler that was named is used or
refused, never replaced.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Compiler", "CompilerNotFound", "child_environment", "find_compiler"]

# No fast-math: it breaks NaN, and g++ before 13 then links code that flushes subnormals in the whole process.
# -fmath-errno: without it GCC rewrites pairs of library calls and loses NaN.
# -ffp-contract=off: fused multiply-adds are written where they are meant: all compilers then agree.
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", "-fno-trapping-math",
    "-fmath-errno", "-ffp-contract=off", "-fvisibility=hidden", "-pthread",
)  # fmt: skip

# What each family needs so that the library depends on no C++ runtime library.
if sys.platform == "darwin":
    LINK = {
        "gcc": ("-nodefaultlibs", "-lSystem", "-lgcc"),
        "clang": ("-nostdlib++",),
        "zig": ("-nostdlib++",),
    }
else:
    LINK = {
        # g++ knows -nostdlib++ only from version 13 on.
        "gcc": ("-nodefaultlibs", "-Wl,--as-needed", "-lm", "-lpthread", "-lc", "-lgcc"),
        "clang": ("-nostdlib++", "-Wl,--as-needed", "-lm"),
        "zig": ("-nostdlib++", "-lm"),
    }

# Variables with which a compiler or linker changes what it makes, behind the command line's back.
REMOVED_VARIABLES = (
    "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH",
    "LIBRARY_PATH", "LD_RUN_PATH", "LDEMULATION", "GCC_EXEC_PREFIX", "COMPILER_PATH", "COLLECT_GCC_OPTIONS",
    "GCC_COMPARE_DEBUG", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES", "CCC_OVERRIDE_OPTIONS", "CCC_ADD_ARGS",
    "ZIG_LIB_DIR",
)  # fmt: skip
# Variables that are needed on macOS and change the result: they are part of the compiler's identity.
KEPT_VARIABLES = ("MACOSX_DEPLOYMENT_TARGET", "SDKROOT")


class CompilerNotFound(RuntimeError):
    """No usable C++ compiler; the message is one sentence that says how to get one."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that answered.

    Attributes:
        command: the words that start it; the first is an absolute path.
        family: ``gcc``, ``clang`` or ``zig``: which spelling of the link flags it takes.
        version: the first line of ``--version``.
        target: the target triple.
        native: the flags that select this machine's processor.
        features: what those flags resolve to here (``-mavx2 ...``): "native" differs from machine to machine.
        settings: the environment variables, as ``NAME=value``, that it also obeys.
    """

    command: tuple[str, ...]
    family: str
    version: str
    target: str
    native: tuple[str, ...]
    features: str
    settings: tuple[str, ...]

    suffix = ".so"

    def __str__(self) -> str:
        return f"{shlex.join(self.command)} ({self.version})"

    @property
    def identity(self) -> str:
        """Everything by which two compilers can differ, as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def compile_command(self, source: str, output: str, flags: tuple[str, ...]) -> list[str]:
        """The words that compile the file `source` to the shared library `output`."""
        return [*self.command, *FLAGS, *self.native, *flags, source, "-o", output, *LINK[self.family]]


def child_environment(directory: Path) -> dict[str, str]:
    """A compiler's environment: English messages, no hidden options, temporary files inside `directory`."""
    environment = {name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES}
    environment["LC_ALL"] = "C"
    environment["TMPDIR"] = str(directory)
    environment["ZIG_LOCAL_CACHE_DIR"] = str(directory / "zig")
    # Beside `directory` zig keeps the C library's stubs, which take it three seconds to make.
    environment["ZIG_GLOBAL_CACHE_DIR"] = str(directory.parent / "zig")
    return environment


def find_compiler(memory: Path | None = None) -> Compiler:
    """The compiler to use.

    Args:
        memory: a directory of the user's own in which the answers of a compiler are remembered between
            processes (asking takes about 0.1 s); None: only inside this process.

    Raises:
        CompilerNotFound: none was found, or the one that a variable names does not work.
    """
    if os.name != "posix":
        raise CompilerNotFound(
            "Kernels are compiled on Linux and macOS only, and this is neither: use the Windows Subsystem "
            'for Linux or backend="reference".'
        )
    for variable in ("THROUGHTIME_CXX", "CXX"):
        if os.environ.get(variable, "").strip():
            return _named(variable, os.environ[variable], memory)
    broken = []
    for command in _usual_commands():
        try:
            return _identify(command, _stamp(command), memory)
        except _Broken as error:
            broken.append(f"; {error}")
    raise CompilerNotFound(
        f"No C++ compiler was found (looked for g++, clang++, c++ and the ziglang package{''.join(broken)}): "
        'get one with `apt install g++` or `pip install "throughtime[compiler]"`, name one in the variable '
        'CXX, or use backend="reference".'
    )


class _Broken(Exception):
    """A command that is no working C++ compiler; the message says what it did."""


def _named(variable: str, value: str, memory: Path | None) -> Compiler:
    """The compiler that an environment variable names."""
    try:
        words = shlex.split(value)
        program = shutil.which(words[0]) if words else None
        if program is None:
            raise _Broken("there is no such program")
        command = (os.path.abspath(program), *words[1:])
        return _identify(command, _stamp(command), memory)
    except (_Broken, ValueError) as error:
        raise CompilerNotFound(
            f'The environment variable {variable} names the C++ compiler "{value}", which does not work '
            f'({error}): correct or unset {variable}, or use backend="reference".'
        ) from None


def _usual_commands() -> list[tuple[str, ...]]:
    """The compilers to try when none is named, as far as they are there."""
    found = [shutil.which(name) for name in ("g++", "clang++", "c++")]
    commands: list[tuple[str, ...]] = [(os.path.abspath(program),) for program in found if program]
    ziglang = importlib.util.find_spec("ziglang")
    if ziglang is not None and ziglang.origin is not None:
        commands.append((str(Path(ziglang.origin).parent / "zig"), "c++"))
    return commands


def _stamp(command: tuple[str, ...]) -> str:
    """A text that changes when the program behind `command`, the processor or an obeyed variable changes."""
    names = {os.path.basename(word) for word in command if not word.startswith("-")}
    # Every program of that name on the PATH: the first may be a wrapper (ccache) around one of the others.
    folders = [os.path.dirname(command[0]), *os.environ.get("PATH", "").split(os.pathsep)]
    programs = []
    for path in dict.fromkeys(os.path.join(folder, name) for folder in folders for name in sorted(names)):
        with suppress(OSError):
            status = os.stat(path)
            programs.append([os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino])
    return json.dumps([command, programs, _processor(), _settings()])


@functools.cache
def _processor() -> str:
    """What the kernel says of the first processor, or "" where it does not say."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(1 << 14).split("\n\n")[0]
    except OSError:
        return ""
    return "\n".join(line for line in first.splitlines() if "MHz" not in line and "mips" not in line.lower())


def _settings() -> tuple[str, ...]:
    return tuple(f"{name}={os.environ[name]}" for name in KEPT_VARIABLES if name in os.environ)


@functools.lru_cache(maxsize=16)
def _identify(command: tuple[str, ...], stamp: str, memory: Path | None) -> Compiler:
    """Ask the compiler, or remember what it answered when its stamp was the same."""
    # Without a description of the processor, "native" could have meant another machine's.
    file = memory / f"compiler-{hashlib.sha256(stamp.encode()).hexdigest()[:32]}.json" if memory else None
    if file is None or not _processor():
        return _ask(command)
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(file.read_text(encoding="utf-8"))
        compiler = Compiler(
            command, known["family"], known["version"], known["target"], tuple(known["native"]),
            known["features"], _settings(),
        )  # fmt: skip
        if json.loads(compiler.identity) == known and compiler.family in LINK:
            return compiler
    compiler = _ask(command)
    with suppress(OSError):  # Not being able to remember only costs time.
        handle, name = tempfile.mkstemp(dir=memory, prefix="compiler-", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as part:
            part.write(compiler.identity)
        os.replace(name, file)
    return compiler


def _ask(command: tuple[str, ...]) -> Compiler:
    """Run the compiler a few times to learn what it is."""
    is_zig = os.path.basename(command[0]) == "zig"
    full_version = _answer(*command, "--version")
    version = full_version.splitlines()[0] if full_version else ""
    if is_zig:
        version = f"zig {_answer(command[0], 'version')}, {version}"
    target = _answer(*command, "-dumpmachine")
    if not target:
        raise _Broken(f"`{shlex.join(command)} -dumpmachine` names no target")
    family = "zig" if is_zig else "clang" if "clang" in full_version.lower() else "gcc"
    on_x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    for native in ("-march=native",) if on_x86 else ("-mcpu=native", "-march=native"):
        with suppress(_Broken):
            features = _features(command, family, native)
            return Compiler(command, family, version, target, (native,), features, _settings())
    raise _Broken(f"`{shlex.join(command)}` does not say which processor {native} stands for")


def _features(command: tuple[str, ...], family: str, native: str) -> str:
    """The processor features that the flag `native` resolves to, as the compiler proper is told them."""
    if family == "gcc":
        # The driver shows the compiler proper's command line.
        output = _answer(*command, native, "-E", "-v", "-x", "c++", os.devnull)
        lines = [line for line in output.splitlines() if re.match(r"\s*\S*/cc1", line)]
        features = re.findall(r"-m\S+|--param \S+", lines[0]) if lines else []
    else:
        output = _answer(*command, native, "-###", "-c", "-x", "c++", os.devnull)
        features = re.findall(r'"-(?:target|tune)-(?:cpu|feature|abi)" "([^"]*)"', output)
    if not features:
        raise _Broken(f"no features of {native} in what {command[0]} says")
    return " ".join(features)


def _answer(*command: str) -> str:
    """What a command prints (both streams), when it succeeds."""
    shown = shlex.join(command)
    try:
        with tempfile.TemporaryDirectory(prefix="throughtime-") as scratch:
            empty = Path(scratch, "empty")
            empty.mkdir()
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=60, cwd=empty, env=child_environment(empty), encoding="utf-8", errors="replace",
                check=False,
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Broken(f"`{shown}` could not be run: {error}") from None
    if done.returncode != 0:
        raise _Broken(f"`{shown}` ended with status {done.returncode}")
    return done.stdout.strip()
