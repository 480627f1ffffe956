"""One HTML file that shows a model reading a text: every state, and where every error came from and went."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.inspect.flow import Passes, flow, step_errors
from throughtime.inspect.recording import differentiable, record
from throughtime.inspect.results import LayerFlow
from throughtime.inspect.words import Lang

LIMIT = 400
"""Most steps T of a page: to each belongs a run of the sequence with the error of that step alone."""
NUMBERS = 3_600_000
"""Most numbers of a page, so that the file stays below 10 MB."""
AT_ONCE = 16_000_000
"""Values of so many units and steps, of all copies, are kept at the same time."""
DIGITS = 4


def page_data(
    model: nn.Module,
    batch: Any,
    labels: Sequence[str],
    *,
    loss: Callable[[Any], Tensor] | None = None,
    title: str = "",
    lang: Lang = "en",
    notes: Sequence[str] = (),
    **given: Any,
) -> dict[str, Any]:
    """What `write_page` shows, as plain lists and numbers.

    Args:
        model: as for `flow`; it must read several sequences at once.
        batch: one sequence, [T, 1] word numbers or [T, 1, I].
        labels: T texts, one for each step; characters, say.
        loss: from the model's output (the first, where it returns a tuple) to the error of each step [T, B], for any
            number B of copies of the sequence.
            None: E_t = ½ ‖output_t‖².
        title, lang: of the page.
        notes: T texts, what to say about each step; what the model expected there, say.
        given: further arguments of the model.

    The result's `layers` hold, for each layer and direction: `values` and `errors` (of all steps' losses), name ->
    [T][width]; `vertical`, `horizontal` [T], the two parts of ‖∂E/∂h_t‖; and `reach` [T][T], ‖∂E_k/∂h_t‖ in row k.

    Raises:
        ValueError: the sequence has no steps or too many, for this model too, or not one label (and note) for each.
    """
    steps = batch.shape[0]
    if not 1 <= steps <= LIMIT:
        raise ValueError(f"a page shows 1 to {LIMIT} steps, got {steps}: give a shorter text")
    if batch.dim() < 2 or batch.shape[1] != 1:
        raise ValueError(f"a page shows one sequence, [T, 1, ...], got the shape {tuple(batch.shape)}")
    if len(labels) != steps or (notes and len(notes) != steps):
        raise ValueError(f"a page of {steps} steps needs {steps} labels and notes, got {len(labels)} and {len(notes)}")
    errors = loss or (lambda output: output.square().sum(-1) / 2)
    whole = flow(model, batch, loss_at="all", loss=errors, jacobians=0, **given)
    _check_size(whole.layers, steps)
    arrived = _reach(model, batch, errors, given, whole.layers)
    return {
        "title": title,
        "lang": lang,
        "labels": list(labels),
        "notes": list(notes),
        "loss": _rounded(_losses(model, batch, errors, given)),
        "layers": [_layer(one, reach) for one, reach in zip(whole.layers, arrived, strict=True)],
    }


TABLES = ("values", "errors", "reach")


def _packed(table: list[list[float]]) -> dict[str, Any]:
    """A table in about 2.7 characters a number: half precision, each row in shares of its largest number."""
    numbers = np.asarray(table)
    largest = np.abs(numbers).max(1)
    scale = np.where(largest > 0, largest, 1.0)
    half = (numbers / scale[:, None]).astype("<f2").tobytes()
    return {"scale": scale.tolist(), "half": base64.b64encode(half).decode()}


def page(data: dict[str, Any]) -> str:
    """The page as HTML that needs no other file and no network. `data`: see `page_data`."""
    template = resources.files("throughtime.inspect").joinpath("page.html").read_text(encoding="utf-8")
    packed = [
        {name: {n: _packed(t) for n, t in part.items()} if name in TABLES else part for name, part in one.items()}
        for one in data["layers"]
    ]
    # Inside a script element only "</" and "<!--" could end the text.
    text = json.dumps(data | {"layers": packed}, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("{{data}}", text)


def write_page(data: dict[str, Any], path: str | Path) -> None:
    """Writes the page into a file."""
    Path(path).write_text(page(data), encoding="utf-8")


def _losses(model: nn.Module, batch: Tensor, loss: Callable[[Any], Tensor], given: dict[str, Any]) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        output = model(batch, **given)
        return loss(output[0] if isinstance(output, tuple) else output)[:, 0]


def _check_size(layers: Sequence[LayerFlow], steps: int) -> None:
    """Raises ValueError where the page would be too large."""
    squares = sum(len(one.states) for one in layers)
    units = sum(2 * one.values[name].shape[-1] for one in layers for name in _shown(one))
    if (count := squares * steps**2 + units * steps) > NUMBERS:
        most = (math.isqrt(units**2 + 4 * squares * NUMBERS) - units) // (2 * squares)
        raise ValueError(
            f"a page of this model and {steps} steps would hold {count:,} numbers, more than {NUMBERS:,}: "
            f"give at most {most} steps"
        )


def _reach(
    model: nn.Module, batch: Tensor, loss: Callable[[Any], Tensor], given: dict[str, Any], layers: Sequence[LayerFlow]
) -> list[dict[str, Tensor]]:
    """For each layer and state ‖∂E_k/∂state_t‖ [T, T], k in the rows: copy k of the sequence has the error of step k
    alone, and as many copies are run side by side as memory allows."""
    steps = batch.shape[0]
    some = max(1, AT_ONCE // (steps * sum(v.shape[-1] for one in layers for v in one.values.values())))
    rows: list[dict[str, list[Tensor]]] = [{state: [] for state in one.states} for one in layers]
    for own in torch.split(torch.eye(steps), some, 1):

        def alone(output: Any, own: Tensor = own) -> Tensor:
            return loss(output) * own

        copies = batch.expand(steps, own.shape[1], *batch.shape[2:])
        with torch.random.fork_rng(devices=[]), differentiable(model) as parameters:
            output, recordings = record(model, copies, given)
            errors = step_errors(output, recordings[0], alone)
            found = Passes(recordings, parameters, errors, recordings[0].real, keep=False).run("all")
        for row, (arrived, _) in zip(rows, found.values(), strict=True):
            for state, parts in row.items():
                parts.append(arrived[state].norm(dim=-1).T)
    return [{state: torch.cat(parts) for state, parts in row.items()} for row in rows]


def _shown(layer: LayerFlow) -> list[str]:
    return [name for name in layer.values if not name.startswith("net.")]


def _layer(whole: LayerFlow, reach: dict[str, Tensor]) -> dict[str, Any]:
    names = _shown(whole)
    return {
        "name": whole.name,
        "level": whole.index,
        "reverse": whole.reverse,
        "cell": whole.cell,
        "states": list(whole.states),
        "values": {name: _rounded(whole.values[name][:, 0]) for name in names},
        "errors": {name: _rounded(whole.errors[name][:, 0]) for name in names},
        "vertical": _rounded(whole.vertical[:, 0]),
        "horizontal": _rounded(whole.horizontal[:, 0]),
        "reach": {state: _rounded(table) for state, table in reach.items()},
    }


def _rounded(value: Tensor) -> Any:
    """Nested lists of numbers with a few digits, so that the page stays small."""

    def short(part: Any) -> Any:
        return [short(p) for p in part] if isinstance(part, list) else float(f"{part:.{DIGITS}g}")

    return short(value.detach().double().nan_to_num(0, 0, 0).tolist())


__all__ = ["LIMIT", "page", "page_data", "write_page"]
