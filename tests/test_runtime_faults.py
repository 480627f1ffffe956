"""The runtime under faults: damage, races, kills, hostile or unusable directories, failing compilers."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from throughtime import runtime
from throughtime.runtime import cache, location

EXPORT = 'extern "C" __attribute__((visibility("default")))'
FILES = {"seven.cpp": f"static int table[4096] = {{7}};\n{EXPORT} int seven(int i) {{ return table[i]; }}\n"}
# What a fresh process does; it prints whether the library was cached, and what the library says.
BUILD = f"""
from throughtime import runtime
built = runtime.build("seven", {FILES!r}, "seven.cpp")
assert runtime.load(built.path).seven(0) == 7
print(built.cached, built.path)
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, and no compiler chosen by the environment."""
    for variable in ("THROUGHTIME_CXX", "CXX", "THROUGHTIME_CXXFLAGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(runtime.__file__).parents[2]))
    return tmp_path / "cache"


def build() -> runtime.Built:
    return runtime.build("seven", FILES, "seven.cpp")


def start(code: str = BUILD, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A fresh Python in a process group of its own."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def slow_compiler(folder: Path, seconds: float) -> Path:
    """A compiler that notes its process number in a file and sleeps before it compiles."""
    program = folder / "slow"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo $$ >> "{folder}/started"; sleep {seconds};; esac\nexec c++ "$@"\n'
    )
    program.chmod(0o755)
    return program


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def truncate(library: Path, metadata: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def zero_tail(library: Path, metadata: Path) -> None:
    content = library.read_bytes()
    library.write_bytes(content[:4096] + bytes(len(content) - 4096))


def flip_a_bit(library: Path, metadata: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 3] ^= 4
    library.write_bytes(content)


def remove_library(library: Path, metadata: Path) -> None:
    library.unlink()


def remove_metadata(library: Path, metadata: Path) -> None:
    metadata.unlink()


def garbage_metadata(library: Path, metadata: Path) -> None:
    metadata.write_bytes(b"\xff{]")


def list_metadata(library: Path, metadata: Path) -> None:
    metadata.write_text("[1, 2]")


def metadata_pointing_elsewhere(library: Path, metadata: Path) -> None:
    facts = json.loads(metadata.read_text())
    shutil.copy(library, library.parent.parent)
    metadata.write_text(json.dumps(facts | {"library": f"../{library.name}"}))


def entry_is_a_file(library: Path, metadata: Path) -> None:
    shutil.rmtree(library.parent)
    library.parent.touch()


@pytest.mark.parametrize(
    "damage",
    [truncate, zero_tail, flip_a_bit, remove_library, remove_metadata, garbage_metadata, list_metadata,
     metadata_pointing_elsewhere, entry_is_a_file],
)  # fmt: skip
def test_damaged_entry_is_rebuilt(damage: Callable[[Path, Path], None], directory: Path) -> None:
    first = build()
    damage(first.path, first.path.parent / "build.json")
    with pytest.warns(runtime.CacheWarning, match="The cached library seven was damaged") as caught:
        second = build()
    assert len(caught) == 1
    assert not second.cached and second.path != first.path
    assert runtime.load(second.path).seven(0) == 7
    assert len(list(directory.glob("damaged-*"))) == 1
    assert build().cached


def test_damage_under_a_loaded_library(tmp_path: Path) -> None:
    """The loader would hand out the loaded library again if the rebuilt one had its path."""
    first = build()
    # The bytes of another valid library under the same name stand for damage that the loader does not notice.
    wrong = runtime.build("seven", {"seven.cpp": FILES["seven.cpp"].replace("{7}", "{8}")}, "seven.cpp")
    shutil.copy(wrong.path, tmp_path / "copy")
    os.replace(tmp_path / "copy", first.path)
    assert ctypes.CDLL(str(first.path)).seven(0) == 8
    with pytest.warns(runtime.CacheWarning, match="checksum"):
        second = build()
    assert runtime.load(second.path).seven(0) == 7


def test_sixteen_processes_and_some_killed(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that live get the one library, whoever is killed while compiling."""
    monkeypatch.setenv("CXX", str(slow_compiler(tmp_path, 0.3)))
    processes = [start() for _ in range(16)]
    started = tmp_path / "started"
    killed = []
    for count in (1, 2):  # kill twice: each time a process other than those killed before is compiling
        wait_for(lambda count=count: started.exists() and len(started.read_text().split()) >= count)  # type: ignore[misc]
        compiler = int(started.read_text().split()[count - 1])
        parent = int(Path(f"/proc/{compiler}/stat").read_text().rsplit(")", 1)[1].split()[1])
        victim = next(process for process in processes if process.pid == parent)
        victim.kill()
        killed.append(victim)
    results = [finish(process) for process in processes if process not in killed]
    assert [code for code, _, _ in results] == [0] * 14, results
    assert len({out.split()[1] for _, out, _ in results}) == 1
    assert sum(out.startswith("False") for _, out, _ in results) == 1
    assert [finish(process)[0] for process in killed] == [-signal.SIGKILL] * 2
    assert runtime.cache_info().entries == 1


def test_killed_builder_leaves_nothing_that_is_used(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(slow_compiler(tmp_path, 0.2)))
    process = start()
    wait_for((tmp_path / "started").exists)
    process.kill()
    finish(process)
    assert [path.name for path in directory.glob("building-*")]
    assert not build().cached
    assert runtime.cache_info().entries == 1


def test_interrupt_leaves_nothing(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(slow_compiler(tmp_path, 30)))
    # Processes that a shell has put into the background ignore Ctrl-C, and so do their children.
    process = start(f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{BUILD}")
    started = tmp_path / "started"
    wait_for(lambda: started.exists() and started.read_text().endswith("\n"))
    compiler = int(started.read_text())
    assert alive(compiler)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert time.monotonic() - begin < 15
    assert code == -signal.SIGINT and "KeyboardInterrupt" in err
    assert not alive(compiler)
    assert not list(directory.glob("building-*")) and not list(directory.glob("failed-*"))
    monkeypatch.delenv("CXX")
    assert not build().cached


def test_compiler_killed_by_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dying"
    program.write_text('#!/bin/sh\ncase "$*" in *-shared*) kill -9 $$;; esac\nexec c++ "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(runtime.CompileError) as caught:
        build()
    first, second, third, last = str(caught.value).splitlines()
    assert first == ('The C++ compiler was killed by signal 9 (Killed), as happens when memory runs out, on "seven".')
    assert second.startswith(f"command: {program} -std=c++17") and third == "(it printed nothing)"
    assert (Path(last.removeprefix("sources: ")) / "seven.cpp").is_file()


def test_compiler_that_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "idle"
    program.write_text('#!/bin/sh\ncase "$*" in *-shared*) exit 0;; esac\nexec c++ "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(runtime.CompileError, match="ended with status 0 but wrote no library"):
        build()


@pytest.mark.parametrize(
    "name",
    ["with space", "quo'te\"s", "汉字 é", "$(touch evil)`touch evil`;", "-dash", "x" * 200, "new\nline"],
)
def test_any_name_of_the_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / name / "cache"))
    built = build()
    assert built.path.is_relative_to(tmp_path / name)
    assert runtime.load(built.path).seven(0) == 7 and build().cached
    assert not list(tmp_path.rglob("evil"))


def assert_refused(directory: Path, why: str) -> None:
    """The directory is passed over with one warning, nothing is read from it or written to it."""
    before = sorted(directory.iterdir()) if directory.is_dir() else None
    location._choose.cache_clear()
    with pytest.warns(runtime.CacheWarning, match=why) as caught:
        built = build()
    assert len(caught) == 1
    assert built.path.parent.parent == location.private_directory()
    assert runtime.load(built.path).seven(0) == 7
    if before is not None:
        assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720])
def test_directory_that_others_can_write(mode: int, directory: Path) -> None:
    directory.mkdir()
    directory.chmod(mode)
    assert_refused(directory, f"others can write to it: its mode is {mode:04o}, not 0700")


def test_directory_of_another_user(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, -1)
    assert_refused(directory, "it belongs to user 12345, and this process runs as user 0")


def test_symbolic_link(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "real")
    assert_refused(directory, "it is a symbolic link")


def test_directory_that_anybody_can_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", str(tmp_path / "open" / "cache"))
    assert_refused(tmp_path / "open" / "cache", "anybody can replace it")
    (tmp_path / "open").chmod(0o1777)
    location._choose.cache_clear()
    assert build().path.is_relative_to(tmp_path / "open")


def test_home_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHTIME_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nonexistent")
    assert_refused(Path("/proc/nonexistent"), "directory /proc/nonexistent/.cache/throughtime is not used")


def test_temporary_directory_goes_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("THROUGHTIME_CACHE_DIR", "/proc/nonexistent")
    code, out, err = finish(
        start(BUILD + "import os\nif os.fork() == 0: raise SystemExit\nos.wait()\nassert built.path.exists()")
    )
    assert code == 0, err
    assert out.startswith("False " + str(tmp_path)) and err.count("CacheWarning") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("ro,mode=0700", "Read-only file system"),
        ("noexec,mode=0700", "mounted noexec"),
        ("mode=0700,size=4k", "No space left on device"),
        ("mode=0700,size=24k", "cannot be written (No space left on device)"),
    ],
)
def test_mounted_directory(
    options: str, why: str, tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-only, noexec and full file systems: one warning, and the work is done."""
    directory.mkdir()
    prefix = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'mount -t tmpfs -o {options} none "$0" && exec "$@"',
        str(directory),
    )
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, out, err = finish(start(prefix=prefix))
    assert code == 0, err
    assert out.startswith(f"False {tmp_path}/throughtime-")
    assert err.count("CacheWarning") == 1 and why in err


def test_no_room_anywhere() -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
    code, _, err = finish(start(limited + BUILD))
    assert code == 1
    assert "throughtime.runtime.compiling.CompileError: seven could not be compiled: neither the cache nor" in err
    assert "make room, or set THROUGHTIME_CACHE_DIR or TMPDIR to another directory." in err


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_no_locks_on_this_file_system(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    assert not build().cached and build().cached


def test_lock_that_is_never_released(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process holds it: after a while the work is done without it."""
    path = build().path
    runtime.cache_clear()
    lock = directory / f"lock-{path.parent.name[:2]}"
    with subprocess.Popen(["flock", lock, "sleep", "60"], process_group=0) as holder:
        time.sleep(0.2)
        monkeypatch.setattr(cache, "LOCK_SECONDS", 0.3)
        begin = time.monotonic()
        assert not build().cached
        assert 0.3 <= time.monotonic() - begin < 20
        os.killpg(holder.pid, signal.SIGKILL)


def test_lost_race_uses_the_winners_library(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Without locks two builders finish: the second discards its copy."""
    winner = build()
    entry = winner.path.parent
    hidden = entry.rename(directory / "hidden")

    def show(event: runtime.CompileEvent) -> None:
        if event.stage == "finished":
            hidden.rename(entry)

    unsubscribe = runtime.subscribe(show)
    loser = build()
    unsubscribe()
    assert loser.path == winner.path and loser.cached
    assert not list(directory.glob("building-*"))


def test_publishing_fails(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """As on some network file systems: the library is made again in the temporary directory."""
    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if self.parent == directory and self.name.startswith("building-"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.warns(runtime.CacheWarning, match="cannot be written .Device or resource busy.: seven is compiled"):
        built = build()
    assert runtime.load(built.path).seven(0) == 7
    assert not list(directory.glob("building-*"))


def test_vanished_library_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"The compiled library .*none.so could not be loaded .*set THROUGHTIME_CACHE_DIR"
    ):
        runtime.load(tmp_path / "none.so")


def test_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(runtime.CompileError) as caught:
        runtime.build("broken", {"broken.cpp": "#error on purpose\n"}, "broken.cpp", ["-DA=b c"])
    command = str(caught.value).splitlines()[1].removeprefix("command: ")
    folder = str(caught.value).rsplit("sources: ", 1)[1]
    assert "-DA=b c" in shlex.split(command)
    again = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "on purpose" in again.stderr
