"""Where a run is written: a new or empty folder, held by one training at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from throughtime.tasks.errors import UsageError
from throughtime.tasks.files import MANIFEST, exclusive, explained

LOCK = ".lock"


def check_out(wish: str | None) -> None:
    """Refuse, before any work, an --out that holds something."""
    if wish is None:
        return
    folder = Path(wish)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {wish}: this is a file; give a new folder")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        advice = f", or continue it with --resume {wish}" if (folder / MANIFEST).exists() else ""
        raise UsageError(f"--out {wish}: this folder is not empty; give a new one{advice}")


def new_folder(wish: str | None) -> Path:
    """Make the folder of a new run: the one wished for, or the next free one of runs/lm, runs/lm-2, ..."""
    if wish is not None:
        folder = Path(wish)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder
    number = 1
    while True:
        folder = Path("runs", "lm" if number == 1 else f"lm-{number}")
        with explained(folder), suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        number += 1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other training may write to this folder meanwhile."""
    message = f"another training is writing to {folder}: wait for it, or give another folder with --out"
    with exclusive(folder / LOCK, message):
        yield
