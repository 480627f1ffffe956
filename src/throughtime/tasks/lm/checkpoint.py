"""What exact resume needs: weights, optimizer, random numbers, place in the data, carried state, sums so far.

Each checkpoint is a folder checkpoints/NUMBER-step-N that appears whole, by one rename. The newest two are
kept; a damaged one is told about and the one before it is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from throughtime.tasks.errors import Failure
from throughtime.tasks.files import explained, publish_folder, read_manifest, read_verified
from throughtime.tasks.lm.model import LanguageModel, State, map_state
from throughtime.tasks.lm.run import json_bytes, load_weights, tensors, weights_bytes

KEPT = 2
WEIGHTS, TRAINING, PROGRESS = "model.safetensors", "training.safetensors", "progress.json"


@dataclass
class Progress:
    """Where training stands. seconds: of training so far; the sums run from the last evaluation.

    metrics_bytes, samples_bytes: how long the log files were; what was added later is not part of this state.
    """

    step: int = 0
    epoch: int = 0
    window: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    finished: bool = False
    nats: float = 0.0
    targets: int = 0
    updates: int = 0
    norms: float = 0.0
    clipped: int = 0
    update_seconds: float = 0.0
    metrics_bytes: int = 0
    samples_bytes: int = 0


@dataclass
class Training:
    """All that changes while training."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    progress: Progress
    state: State | None = None


def save(folder: Path, training: Training) -> None:
    """Publish the next checkpoint and remove all but the newest two."""
    checkpoints = folder / "checkpoints"
    with explained(checkpoints):
        checkpoints.mkdir(exist_ok=True)
    before = newest_first(folder)
    number = int(before[0].name.partition("-")[0]) + 1 if before else 0
    target = checkpoints / f"{number:06d}-step-{training.progress.step}"
    publish_folder(
        target,
        {
            WEIGHTS: weights_bytes(training.model),
            TRAINING: safetensors.torch.save(_training_tensors(training)),
            PROGRESS: json_bytes(asdict(training.progress)),
        },
    )
    for old in newest_first(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run."""
    return sorted((folder / "checkpoints").glob("[0-9]*-step-*"), reverse=True)


def load(folder: Path, training: Training, tell: Callable[[str], None]) -> None:
    """Bring `training` to the newest checkpoint that is whole."""
    for checkpoint in newest_first(folder):
        try:
            _load_one(checkpoint, training)
            return
        except Failure as error:
            tell(f"Warning: {error}; going back to the checkpoint before.")
    raise Failure(f"{folder} has no checkpoint that can be continued: start the training again with a new --out")


def load_last_weights(folder: Path, model: LanguageModel) -> None:
    """Put the newest weights into the model."""
    checkpoints = newest_first(folder)
    if not checkpoints:
        raise Failure(f"{folder} has no checkpoint: the newest weights are lost; use --weights best")
    newest = checkpoints[0]
    load_weights(model, read_verified(newest, WEIGHTS, read_manifest(newest)), newest / WEIGHTS)


def _load_one(checkpoint: Path, training: Training) -> None:
    accepted = read_manifest(checkpoint)
    files = {name: read_verified(checkpoint, name, accepted) for name in (WEIGHTS, TRAINING, PROGRESS)}
    load_weights(training.model, files[WEIGHTS], checkpoint / WEIGHTS)
    found = tensors(files[TRAINING], checkpoint / TRAINING)
    training.progress = Progress(**json.loads(files[PROGRESS]))
    _restore_optimizer(training.optimizer, found)
    device = training.model.device
    state = _restore_state(found)
    training.state = None if state is None else map_state(lambda part: part.to(device), state)
    torch.set_rng_state(found["random"])
    if device.type == "cuda" and "random_cuda" in found:  # a run may move to another device
        torch.cuda.set_rng_state(found["random_cuda"], device)


def _training_tensors(training: Training) -> dict[str, Tensor]:
    found = {"random": torch.get_rng_state()}
    if training.model.device.type == "cuda":
        found["random_cuda"] = torch.cuda.get_rng_state(training.model.device)
    for number, values in training.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:  # SGD without momentum keeps an empty place
                found[f"optimizer.{number}.{name}"] = torch.as_tensor(value).contiguous()
    for stack, layer in enumerate(training.state or []):
        parts = [layer] if isinstance(layer, Tensor) else layer
        kind = "tensor" if isinstance(layer, Tensor) else "tuple"
        found |= {f"state.{stack}.{kind}.{k}": part.contiguous() for k, part in enumerate(parts)}
    return found


def _restore_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in found.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _restore_state(found: dict[str, Tensor]) -> State | None:
    stacks: dict[int, tuple[str, dict[int, Tensor]]] = {}
    for key, value in found.items():
        if key.startswith("state."):
            _, stack, kind, part = key.split(".")
            stacks.setdefault(int(stack), (kind, {}))[1][int(part)] = value
    if not stacks:
        return None
    return [
        parts[0] if kind == "tensor" else tuple(parts[k] for k in sorted(parts))
        for _, (kind, parts) in sorted(stacks.items())
    ]
