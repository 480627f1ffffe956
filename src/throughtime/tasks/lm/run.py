"""The run folder: everything a model is, movable, without pickle.

config.json         settings as they were resolved, sizes, data, versions
vocabulary.json     the units
cell.txt            the cell's program as text; no Python file is needed to load it
model.safetensors   weights of the best evaluation
manifest.json       SHA-256 of the four
checkpoints/        the newest states of training (see checkpoint.py)
metrics.jsonl, samples.txt, loss-curve.png
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from throughtime.symbolic import load_cell
from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.files import (
    MANIFEST,
    digest,
    manifest_text,
    read_manifest,
    read_verified,
    write_atomic,
)
from throughtime.tasks.lm.corpus import Corpus
from throughtime.tasks.lm.model import LanguageModel, Shape
from throughtime.tasks.lm.vocabulary import Vocabulary

FORMAT = 1
WEIGHTS = "model.safetensors"


class Run:
    """A run folder. `config` is config.json."""

    def __init__(self, folder: Path, accepted: dict[str, list[str]], config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self._accepted = accepted

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any], vocabulary: Vocabulary, cell_text: str) -> Run:
        """Write the fixed files of a new run into an existing, empty folder."""
        run = cls(folder, {}, config)
        run.publish("config.json", json_bytes(config))
        run.publish("vocabulary.json", vocabulary.to_json())
        run.publish("cell.txt", cell_text.encode())
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run; its config is verified."""
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such run folder")
        if not (folder / MANIFEST).exists():
            raise UsageError(f"{folder} is not a run: it has no {MANIFEST}; give the folder that `train lm` made")
        accepted = read_manifest(folder)
        config = json.loads(read_verified(folder, "config.json", accepted))
        if config.get("format") != FORMAT or config.get("task") != "lm":
            raise Failure(
                f"{folder} is a run of task {config.get('task')!r}, format {config.get('format')!r}; "
                f"this version reads task 'lm', format {FORMAT}"
            )
        return cls(folder, accepted, config)

    def publish(self, name: str, content: bytes) -> None:
        """Replace a file and its checksum so that at every moment one of the two versions is accepted."""
        new = digest(content)
        self._accepted[name] = [new, *(old for old in self._accepted.get(name, [])[:1] if old != new)]
        write_atomic(self.folder / MANIFEST, manifest_text(self._accepted))
        write_atomic(self.folder / name, content)

    def vocabulary(self) -> Vocabulary:
        """The model's units."""
        return Vocabulary.from_json(read_verified(self.folder, "vocabulary.json", self._accepted))

    def empty_model(self) -> LanguageModel:
        """The model with its initial weights, its cell read from cell.txt."""
        cell = load_cell(read_verified(self.folder, "cell.txt", self._accepted).decode())
        sizes = self.config["shape"]
        return LanguageModel(cell, Shape(sizes["units"], sizes["embedding"], tuple(sizes["hidden"]), sizes["dropout"]))

    def model(self) -> LanguageModel:
        """The model with the weights of its best evaluation."""
        if WEIGHTS not in self._accepted:
            raise Failure(
                f"{self.folder} has no trained weights yet: it was stopped before its first evaluation; "
                f"continue it with: throughtime train lm --resume {self.folder}"
            )
        model = self.empty_model()
        load_weights(model, read_verified(self.folder, WEIGHTS, self._accepted), self.folder / WEIGHTS)
        return model


def new_config(settings: dict[str, Any], shape: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
    """config.json of a new run."""
    data = {
        "source": corpus.source,
        "files": corpus.files,
        "split": corpus.split,
        "training_characters": corpus.training.characters,
        "held_out_characters": corpus.held_out.characters,
        "sha256": corpus.fingerprint,
    }
    facts = {"settings": settings, "shape": shape, "data": data, "versions": versions()}
    return {"format": FORMAT, "task": "lm", **facts}


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON as people like to read it."""
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def weights_bytes(model: LanguageModel) -> bytes:
    """The model's weights as a safetensors file."""
    return safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()})


def tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whose checksum was right."""
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise Failure(f"{path} is damaged: {error}") from error


def load_weights(model: LanguageModel, content: bytes, path: Path) -> None:
    """Put the weights into the model; names and shapes must be the model's."""
    try:
        model.load_state_dict(tensors(content, path))
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise Failure(f"{path} does not fit the model that config.json and cell.txt describe: {detail}") from error


def versions() -> dict[str, str]:
    """What made this run."""
    try:
        own = importlib.metadata.version("throughtime")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed, run from its source"
    return {"throughtime": own, "torch": torch.__version__}
