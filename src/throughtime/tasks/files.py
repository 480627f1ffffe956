"""Files that are either whole or absent: atomic writes, checksums, and a lock that dies with its holder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from throughtime.tasks.errors import Failure, UsageError

MANIFEST = "manifest.json"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk or a refused write into one sentence; what was there before stays."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Failure(
                f"no room to write {path} ({error.strerror}): free some space and continue with --resume; "
                "what was saved before is intact"
            ) from error
        raise Failure(f"cannot write {path}: {error.strerror}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with explained(path):
        try:
            _write_synced(temporary, content)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def publish_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder `path` with `files` and their manifest; it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with explained(path):
        try:
            temporary.mkdir()
            for name, content in files.items():
                _write_synced(temporary / name, content)
            _write_synced(temporary / MANIFEST, manifest_text({n: [digest(c)] for n, c in files.items()}))
            _sync_folder(temporary)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def digest(content: bytes) -> str:
    """SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def manifest_text(accepted: Mapping[str, list[str]]) -> bytes:
    """The manifest: for each file the SHA-256 digests under which it is accepted."""
    return json.dumps({"sha256": accepted}, indent=1, sort_keys=True).encode() + b"\n"


def read_manifest(folder: Path) -> dict[str, list[str]]:
    """File names and accepted digests, as `manifest_text` wrote them."""
    content = read_whole(folder / MANIFEST)
    try:
        accepted = json.loads(content)["sha256"]
        return {str(name): [str(value) for value in values] for name, values in accepted.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{folder / MANIFEST} is damaged: it is not the list of checksums it should be") from error


def read_verified(folder: Path, name: str, accepted: Mapping[str, list[str]]) -> bytes:
    """The content of `folder/name`, after its checksum was found to be right."""
    content = read_whole(folder / name)
    if digest(content) not in accepted.get(name, []):
        raise Failure(
            f"{folder / name} is damaged: its SHA-256 is not the one in {MANIFEST}; copy the folder again "
            "from where it came"
        )
    return content


def read_whole(path: Path) -> bytes:
    """The bytes of a file of a run; a missing file is named."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Failure(f"{path} is missing: the run is incomplete; copy the whole folder again") from error
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error


def append_line(path: Path, text: str) -> None:
    """Add `text` to the end of a log file."""
    with explained(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel releases it when this process ends, however it ends.

    Raises UsageError(message) when another process holds it.
    """
    with explained(path):
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(message) from error
        yield


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
