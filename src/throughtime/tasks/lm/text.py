"""Files and folders of text -> documents. UTF-8 (a byte-order mark is taken off) or UTF-16 with its mark."""

from __future__ import annotations

import codecs
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.lm.settings import Unit

# Folders of the standard library that hold no ordinary program text: tests, demonstrations, installed
# packages, generated tables, and what later versions of Python have dropped.
_NOT_LIBRARY = frozenset([
    "test", "tests", "idle_test", "idlelib", "turtledemo", "site-packages", "dist-packages", "__pycache__",
    "encodings", "pydoc_data", "lib2to3", "distutils", "ensurepip",
])  # fmt: skip


@dataclass(frozen=True)
class Document:
    """One file's text; `name` is its path as given, or relative to its folder."""

    name: str
    text: str


@dataclass
class Documents:
    """What was read, and what a reader should know about it."""

    source: str
    items: list[Document]
    notes: list[str] = field(default_factory=list)


def read_documents(paths: tuple[str, ...], unit: Unit, errors: str) -> Documents:
    """The text of `paths`; folders are searched, sorted by name. No path: the standard library.

    Bytes that are not UTF-8 are an error for a file that was named, unless errors="replace"; in a folder such
    files are left out and counted. The unit "byte" takes any bytes.
    """
    if not paths:
        return _standard_library(unit, errors)
    documents = Documents(", ".join(paths), [])
    for given in paths:
        path = Path(given)
        if path.is_dir():
            _read_folder(path, documents, unit, errors)
        elif path.exists():
            document = Document(given, _decode(_content(path), given, unit, errors, documents.notes))
            if not document.text:
                raise Failure(f"{given} is empty: give a file with text")
            documents.items.append(document)
        else:
            raise UsageError(f"{given}: no such file or folder")
    if sum(len(item.text) for item in documents.items) < 2:
        raise Failure(f"{documents.source} holds fewer than two characters: there is nothing to predict")
    _note_line_ends(documents)
    return documents


def _standard_library(unit: Unit, errors: str) -> Documents:
    root = Path(sysconfig.get_path("stdlib"))
    documents = Documents(f"the Python standard library ({root})", [])
    _read_folder(root, documents, unit, errors, pattern="*.py", skipped=_NOT_LIBRARY)
    return documents


def _read_folder(
    root: Path,
    documents: Documents,
    unit: Unit,
    errors: str,
    pattern: str = "*",
    skipped: frozenset[str] = frozenset(),
) -> None:
    unreadable: list[str] = []
    binary = 0
    found = sorted((path.relative_to(root) for path in root.rglob(pattern)), key=Path.as_posix)
    before = len(documents.items)
    for relative in found:
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or skipped.intersection(relative.parts) or not (root / relative).is_file():
            continue
        content = _content(root / relative)
        if not content:
            continue
        if b"\0" in content[:8192] and not _utf16(content):
            binary += 1
            continue
        try:
            text = _decode(content, relative.as_posix(), unit, errors, documents.notes)
        except Failure:
            unreadable.append(relative.as_posix())
            continue
        if text:
            documents.items.append(Document(relative.as_posix(), text))
    if unreadable:
        names = ", ".join(unreadable[:3]) + (", ..." if len(unreadable) > 3 else "")
        documents.notes.append(f"{len(unreadable)} files left out, not UTF-8: {names} (--errors replace keeps them)")
    if binary:
        documents.notes.append(f"{binary} binary files left out")
    if len(documents.items) == before:
        raise Failure(f"{root} holds no text file: give a folder with UTF-8 text")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _utf16(content: bytes) -> bool:
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _decode(content: bytes, name: str, unit: Unit, errors: str, notes: list[str]) -> str:
    if unit == "byte":
        # Bytes that are not UTF-8 become lone surrogates, which encode back to the same bytes.
        return content.decode("utf-8", "surrogateescape")
    encoding = "utf-8"
    if _utf16(content):
        encoding = "utf-16"
        notes.append(f"{name}: read as UTF-16, as its byte-order mark says")
    elif content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
        notes.append(f"{name}: UTF-8 byte-order mark taken off")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        offset = error.start + (len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        if errors == "strict":
            raise Failure(
                f"{name} is not {encoding.upper().removesuffix('-SIG')}: byte 0x{content[offset]:02x} at "
                f"offset {offset} ({error.reason}); convert the file, or use --errors replace or --unit byte"
            ) from error
        text = content.decode(encoding, "replace")
        notes.append(f"{name}: {text.count(chr(0xFFFD))} undecodable places read as U+FFFD")
        return text


def _note_line_ends(documents: Documents) -> None:
    count = sum(item.text.count("\r\n") for item in documents.items)
    if count:
        documents.notes.append(f"{count} lines end in CR LF; the CR is kept as a character")
