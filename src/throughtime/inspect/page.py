"""One HTML file that shows a model reading a text: every state, and where every error came from and went."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.inspect.flow import flow
from throughtime.inspect.results import LayerFlow
from throughtime.inspect.words import Lang

LIMIT = 120
"""Most steps T of a page: T copies of the sequence are run at once, with all their values and errors kept."""
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
        ValueError: the sequence has no steps or too many, or not one label (and note) for each.
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
    # T copies of the sequence, of which copy k has the error of step k alone: one pass for all of them.
    copies = batch.expand(steps, steps, *batch.shape[2:])
    each = flow(
        model, copies, loss_at="all", loss=lambda output: errors(output) * torch.eye(steps), jacobians=0, **given
    )
    return {
        "title": title,
        "lang": lang,
        "labels": list(labels),
        "notes": list(notes),
        "loss": _rounded(_losses(model, batch, errors, given)),
        "layers": [_layer(a, b) for a, b in zip(whole.layers, each.layers, strict=True)],
    }


def page(data: dict[str, Any]) -> str:
    """The page as HTML that needs no other file and no network. `data`: see `page_data`."""
    template = resources.files("throughtime.inspect").joinpath("page.html").read_text(encoding="utf-8")
    # Inside a script element only "</" and "<!--" could end the text.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("{{data}}", text)


def write_page(data: dict[str, Any], path: str | Path) -> None:
    """Writes the page into a file."""
    Path(path).write_text(page(data), encoding="utf-8")


def _losses(model: nn.Module, batch: Tensor, loss: Callable[[Any], Tensor], given: dict[str, Any]) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        output = model(batch, **given)
        return loss(output[0] if isinstance(output, tuple) else output)[:, 0]


def _layer(whole: LayerFlow, each: LayerFlow) -> dict[str, Any]:
    names = [name for name in whole.values if not name.startswith("net.")]
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
        "reach": {state: _rounded(each.error[state].T) for state in whole.states},
    }


def _rounded(value: Tensor) -> Any:
    """Nested lists of numbers with a few digits, so that the page stays small."""

    def short(part: Any) -> Any:
        return [short(p) for p in part] if isinstance(part, list) else float(f"{part:.{DIGITS}g}")

    return short(value.detach().double().nan_to_num(0, 0, 0).tolist())


__all__ = ["LIMIT", "page", "page_data", "write_page"]
