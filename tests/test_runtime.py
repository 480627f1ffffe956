"""The runtime's everyday behaviour: compile once, find again, load, choose the compiler and the directory."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from throughtime import runtime
from throughtime.runtime import cache, entries, location

SOURCE = """#include <math.h>
#include "number.h"
template <class T> static T twice(T a) { return a + a; }
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT double answer(double a) { return fmod(twice(a), 100.0) + NUMBER; }
"""
FILES = {"answer.cpp": SOURCE, "number.h": "#define NUMBER 1\n"}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, and no compiler chosen by the environment."""
    for variable in ("THROUGHTIME_CXX", "CXX", "THROUGHTIME_CXXFLAGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answer(built: runtime.Built, value: float = 21.0) -> float:
    function = runtime.load(built.path).answer
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    return float(function(value))


def run_python(code: str, **environment: str) -> str:
    """What a fresh Python, in which every warning is an error, prints."""
    source = str(Path(runtime.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": source, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_build_once_and_find_again(directory: Path) -> None:
    first = runtime.build("answer", FILES, "answer.cpp")
    assert answer(first) == 43.0
    assert not first.cached and first.seconds > 0
    again = runtime.build("answer", FILES, "answer.cpp")
    assert again == dataclasses.replace(first, cached=True, seconds=0.0)
    assert runtime.load(again.path) is runtime.load(first.path)
    assert first.path.parent.parent == directory


def test_entry_is_private_and_readable(directory: Path) -> None:
    path = runtime.build("answer", FILES, "answer.cpp").path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([*FILES, "build.json", path.name])
    assert (path.parent / "answer.cpp").read_text() == SOURCE
    facts = json.loads((path.parent / "build.json").read_text())
    assert facts["key"] == path.parent.name and facts["library"] == path.name
    assert facts["size"] == path.stat().st_size and len(facts["sha256"]) == 64
    assert "-O3" in facts["command"] and facts["compiler"]["version"] and facts["compiler"]["features"]
    assert not [name for name in os.listdir(directory) if name.startswith(("building-", "failed-"))]


def test_key_changes_with_every_input(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = runtime.find_compiler()

    def key(
        name: str = "a",
        files: dict[str, str] = FILES,
        main: str = "answer.cpp",
        flags: tuple[str, ...] = (),
        **changes: Any,
    ) -> str:
        return cache._key(name, files, main, flags, dataclasses.replace(compiler, **changes))

    keys = [
        key(),
        key(name="b"),
        key(files=FILES | {"number.h": "#define NUMBER 2\n"}),
        key(files=FILES | {"other.h": ""}),
        key(main="number.h"),
        key(flags=("-g",)),
        key(flags=("-g", "-O1")),
        key(command=("/opt/other/g++",)),
        key(version="g++ 99"),
        key(target="riscv64-linux-gnu"),
        key(native=()),
        key(features=compiler.features + " -mnew"),
        key(settings=("SDKROOT=/sdk",)),
    ]
    monkeypatch.setattr(cache, "_version", lambda: "another version")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    assert key() == keys[0]


def test_flags_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"answer.cpp": SOURCE, "number.h": "#ifndef NUMBER\n#define NUMBER 1\n#endif\n"}
    assert answer(runtime.build("answer", files, "answer.cpp")) == 43.0
    assert answer(runtime.build("answer", files, "answer.cpp", ["-DNUMBER=2"])) == 44.0
    monkeypatch.setenv("THROUGHTIME_CXXFLAGS", "-UNUMBER '-DNUMBER=1 + 2'")
    assert answer(runtime.build("answer", files, "answer.cpp", ["-DNUMBER=2"])) == 45.0


def test_variables_of_the_compiler_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math.h").write_text("#error taken from CPATH\n")
    for variable in ("CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("GCC_EXEC_PREFIX", str(tmp_path))
    assert answer(runtime.build("answer", FILES, "answer.cpp")) == 43.0


@pytest.mark.parametrize("name", ["../evil", "a b", "-o", "", ".hidden", "a/b", "a\n"])
def test_names_are_plain(name: str) -> None:
    for arguments in ((name, FILES, "answer.cpp"), ("answer", FILES | {name: ""}, "answer.cpp")):
        with pytest.raises(ValueError, match="is not a plain file name"):
            runtime.build(*arguments)


def test_main_is_one_of_the_files() -> None:
    with pytest.raises(ValueError, match=r"'b.cpp', is not among the files given \(answer.cpp, number.h\)"):
        runtime.build("answer", FILES, "b.cpp")


def test_fast_math_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="-ffast-math is refused: it breaks NaN"):
        runtime.build("answer", FILES, "answer.cpp", ["-ffast-math"])
    monkeypatch.setenv("THROUGHTIME_CXXFLAGS", "-g -Ofast")
    with pytest.raises(ValueError, match="-Ofast is refused"):
        runtime.build("answer", FILES, "answer.cpp")


def test_compile_error_says_what_and_where(directory: Path) -> None:
    with pytest.raises(runtime.CompileError) as caught:
        runtime.build("broken", {"broken.cpp": "int f() { return missing; }\n"}, "broken.cpp")
    text = str(caught.value)
    assert text.startswith('The C++ compiler failed with status 1 on "broken".\ncommand: ')
    assert "-O3" in text and "broken.cpp:1:" in text and "missing" in text
    kept = Path(text.rsplit("sources: ", 1)[1])
    assert kept.parent == directory and (kept / "broken.cpp").is_file()
    assert runtime.cache_info().entries == 0


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(runtime.CompilerNotFound) as caught:
        runtime.build("answer", FILES, "answer.cpp")
    assert str(caught.value) == (
        "No C++ compiler was found (looked for g++, clang++, c++ and the ziglang package): get one with "
        '`apt install g++` or `pip install "throughtime[compiler]"`, name one in the variable CXX, or use '
        'backend="reference".'
    )


def test_broken_usual_compiler_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("g++") or shutil.which("clang++")
    assert program is not None
    script(tmp_path / "g++", "exit 3\n")
    script(tmp_path / "clang++", f'exec "{program}" "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert runtime.find_compiler().command == (str(tmp_path / "clang++"),)


@pytest.mark.parametrize("variable", ["THROUGHTIME_CXX", "CXX"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/bin/false", "`/bin/false --version` ended with status 1"),
        ("/bin/echo", "no features of -march=native in what /bin/echo says|which processor"),
        ("no-such-compiler -x", "there is no such program"),
        ('"g++', "No closing quotation"),
    ],
)
def test_named_compiler_is_used_or_refused(
    variable: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(runtime.CompilerNotFound, match=why) as caught:
        runtime.build("answer", FILES, "answer.cpp")
    assert str(caught.value).startswith(
        f'The environment variable {variable} names the C++ compiler "{value}", which does not work ('
    )
    assert str(caught.value).endswith(f'): correct or unset {variable}, or use backend="reference".')


def test_named_compiler_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ccache g++` and the like, in a folder with a space; the project's own variable comes first."""
    folder = tmp_path / "a b"
    folder.mkdir()
    wrapper = script(folder / "wrap", 'exec "$@"\n')
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("THROUGHTIME_CXX", f"'{wrapper}' c++")
    built = runtime.build("answer", FILES, "answer.cpp")
    assert answer(built) == 43.0
    assert built.compiler.startswith(f"'{wrapper}' c++ (")


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = runtime.find_compiler()
    monkeypatch.setenv("THROUGHTIME_CXX", "")
    monkeypatch.setenv("CXX", " ")
    assert runtime.find_compiler() == usual


def test_a_compiler_is_asked_once(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are remembered on disk until the program changes."""
    log = tmp_path / "log"
    wrapper = script(tmp_path / "logged", f'echo "$@" >> "{log}"\nexec c++ "$@"\n')
    monkeypatch.setenv("CXX", str(wrapper))
    code = "from throughtime import runtime; print(runtime.build('a', {'a.cpp': 'int a;'}, 'a.cpp').cached)"

    def run() -> tuple[str, int]:
        return run_python(code), len(log.read_text().splitlines())

    cold, calls = run()
    assert cold == "False" and calls >= 3
    assert run() == ("True", calls)
    next(directory.glob("compiler-*.json")).write_text('{"family": "gcc"}')
    assert run() == ("True", 2 * calls - 1)
    os.utime(wrapper, (1, 1))
    assert run() == ("True", 3 * calls - 2)


@pytest.mark.parametrize("program", ["g++", "clang++", "zig"])
def test_every_family_of_compiler(program: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library needs no C++ runtime library, links no fast-math code, and knows the processor."""
    if program == "zig":
        pytest.importorskip("ziglang")
        monkeypatch.setattr("shutil.which", lambda name: None)
    elif shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    else:
        monkeypatch.setenv("THROUGHTIME_CXX", program)
    built = runtime.build("answer", FILES, "answer.cpp")
    assert answer(built) == 43.0
    assert sys.float_info.min / 2 != 0
    compiler = runtime.find_compiler(directory)
    assert "native" not in compiler.features and len(compiler.features) > 10
    content = built.path.read_bytes()
    for symbol in (b"set_fast_math", b"libstdc++", b"libc++", b"libgomp"):
        assert symbol not in content
    if shutil.which("readelf"):
        needed = subprocess.run(["readelf", "-d", built.path], capture_output=True, text=True, check=True).stdout
        assert "(NEEDED)" in needed and "stdc++" not in needed
        assert "RPATH" not in needed and "RUNPATH" not in needed


def test_subnormals_stay_alive_in_every_thread() -> None:
    runtime.load(runtime.build("answer", FILES, "answer.cpp").path)
    alive = []
    threads = [threading.Thread(target=lambda: alive.append(sys.float_info.min / 2 != 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alive == [True] * 4 and sys.float_info.min / 2 != 0


def test_listeners_hear_of_compiles_only() -> None:
    heard: list[runtime.CompileEvent] = []
    unsubscribe = runtime.subscribe(heard.append)
    built = runtime.build("answer", FILES, "answer.cpp")
    runtime.build("answer", FILES, "answer.cpp")
    assert [(event.stage, event.name, event.compiler) for event in heard] == [
        ("started", "answer", built.compiler),
        ("finished", "answer", built.compiler),
    ]
    assert heard[0].seconds == 0 and heard[1].seconds == built.seconds
    with pytest.raises(runtime.CompileError):
        runtime.build("broken", {"broken.cpp": "?"}, "broken.cpp")
    assert [event.stage for event in heard[2:]] == ["started", "failed"]
    unsubscribe()
    unsubscribe()
    runtime.build("third", FILES, "answer.cpp")
    assert len(heard) == 4


def test_threads_build_at_once() -> None:
    """Eight threads want two libraries: two compiles, and everybody gets the same paths."""
    heard: list[runtime.CompileEvent] = []
    unsubscribe = runtime.subscribe(heard.append)
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda i: runtime.build("ab"[i % 2], FILES, "answer.cpp"), range(8)))
    unsubscribe()
    assert len({one.path for one in built}) == 2
    assert sum(not one.cached for one in built) == 2
    assert len(heard) == 4


def test_info_and_clear(directory: Path) -> None:
    assert runtime.cache_info() == runtime.CacheInfo(directory, 0, 0)
    built = runtime.build("answer", FILES, "answer.cpp")
    library = runtime.load(built.path)
    info = runtime.cache_info()
    assert info.entries == 1 and info.bytes > built.path.stat().st_size
    assert runtime.cache_clear() == 1
    assert runtime.cache_info().entries == 0 and not built.path.exists()
    assert library.answer is not None
    rebuilt = runtime.build("answer", FILES, "answer.cpp")
    assert not rebuilt.cached and rebuilt.path != built.path


def test_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    built = {name: runtime.build(name, FILES, "answer.cpp").path for name in "abc"}
    for age, name in enumerate("cab"):  # b was used longest ago, then a, then c
        os.utime(built[name].parent / "build.json", (1e9 - age, 1e9 - age))
    size = runtime.cache_info().bytes // 3
    monkeypatch.setattr(entries, "CACHE_BYTES", 3 * size)
    runtime.build("d", FILES, "answer.cpp")
    assert [name for name in "abc" if built[name].exists()] == ["a", "c"]
    assert runtime.build("a", FILES, "answer.cpp").cached
    assert built["a"].parent.joinpath("build.json").stat().st_mtime > 1.1e9  # used just now
    monkeypatch.setattr(entries, "CACHE_BYTES", 1)
    newest = runtime.build("e", FILES, "answer.cpp").path
    # a and d were used a moment ago: their process may be about to load them
    assert newest.exists() and runtime.cache_info().entries == 3


def test_leftovers_go_after_a_day(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    for name in ("building-old", "failed-old", "building-new"):
        (directory / name).mkdir()
        (directory / name / "a.cpp").touch()
    for name in ("building-old", "failed-old"):
        os.utime(directory / name, (1e9, 1e9))
    runtime.build("answer", FILES, "answer.cpp")
    assert {path.name for path in directory.iterdir() if "-old" in path.name or "-new" in path.name} == {"building-new"}


def test_default_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("THROUGHTIME_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert location.cache_directory() == tmp_path / "xdg" / "throughtime"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert location.cache_directory() == tmp_path / "home" / ".cache" / "throughtime"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert location.cache_directory() == tmp_path / "home" / "Library" / "Caches" / "throughtime"


def test_unusable_place_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the directory should be: everything works from a temporary directory instead."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(runtime.CacheWarning) as caught:
        built = runtime.build("answer", FILES, "answer.cpp")
    assert str(caught[0].message) == (
        f"The cache directory {tmp_path}/file, which THROUGHTIME_CACHE_DIR names, is not used (it is not a "
        "directory): kernels are compiled anew by every process, into a temporary directory; set "
        "THROUGHTIME_CACHE_DIR to a directory that only you can write to."
    )
    assert answer(built) == 43.0
    private = built.path.parent.parent
    assert private == location.private_directory() and stat.S_IMODE(private.stat().st_mode) == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.build("answer", FILES, "answer.cpp").cached


def test_import_does_nothing_and_needs_nothing() -> None:
    code = (
        "import sys; from throughtime import runtime\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    assert run_python(code, PATH="", HOME="/proc/none", THROUGHTIME_CACHE_DIR="/proc/none") == "[]"
