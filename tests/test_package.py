"""The wheel: it can be built, is pure Python, and carries the kernel sources, the types and the licence."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is written beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "throughtime"
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name == f"throughtime-{PROJECT['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        (about,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        assert "Root-Is-Purelib: true" in archive.read(about).decode()


def test_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    kinds = ("*.py", "*.h", "*.cpp", "*.html", "py.typed")
    expected = {path.relative_to(source).as_posix() for kind in kinds for path in source.rglob(kind)}
    assert packed == expected
    assert {"throughtime/runtime/pool.cpp", "throughtime/codegen/skeletons/recurrence.h"} <= packed
    assert "throughtime/py.typed" in packed


def test_wheel_carries_licence_command_and_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        (commands,) = [name for name in names if name.endswith("entry_points.txt")]
        about = Parser().parsestr(archive.read(metadata).decode())
        assert "throughtime = throughtime.cli:main" in archive.read(commands).decode()
        licences = {Path(name).name: archive.read(name) for name in names if ".dist-info/licenses/" in name}
    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "NOTICE")}
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra", [])) == {"compiler", "chinese", "docs", "rivals", "test"}
    needed = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(needed) == len(PROJECT["dependencies"])


def test_constraints_pin_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert {re.split("[<>=]", line)[0] for line in wanted} <= pinned
    assert "torch==2.13.0" in lines


def test_notice_names_every_direct_dependency() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8").lower().replace("pytorch", "torch")
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *(entry for extra in extras.values() for entry in extra)]:
        name = re.split("[<>=]", line)[0].replace("onnxruntime", "onnx runtime")
        assert re.search(rf"^    {name} ", notice, re.MULTILINE), line
