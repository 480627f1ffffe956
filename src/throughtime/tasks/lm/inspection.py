"""`throughtime inspect`: pictures of what a trained language model does with a text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from throughtime import inspect
from throughtime.fonts import FontMissing
from throughtime.inspect import pictures
from throughtime.inspect.page import page, page_data
from throughtime.inspect.words import Lang, Say, layer_name, speaker
from throughtime.tasks.errors import Failure, UsageError
from throughtime.tasks.files import write_atomic
from throughtime.tasks.lm.model import LanguageModel
from throughtime.tasks.lm.run import Run
from throughtime.tasks.lm.settings import InspectSettings
from throughtime.tasks.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_UNITS = 400
"""A picture of more steps cannot be read."""


@dataclass(frozen=True)
class Subject:
    """A model and a text of T units: at step t it has read `read[t]` and is to predict `next[t]`. `inputs`, `targets`
    [T, 1]."""

    model: LanguageModel
    inputs: Tensor
    targets: Tensor
    read: list[str]
    next: list[str]
    name: str
    vocabulary: Vocabulary

    @classmethod
    def of(cls, run: Run, text: str) -> Subject:
        """Raises UsageError for a text that is too short or too long."""
        vocabulary = run.vocabulary()
        ids = np.asarray(vocabulary.encode(text), dtype=np.int64)
        if not 2 <= len(ids) <= MOST_UNITS:
            raise UsageError(
                f"inspect: the text has {len(ids)} {vocabulary.unit}s: a picture can show 2 to {MOST_UNITS}"
            )
        numbers = torch.from_numpy(np.concatenate([[vocabulary.start], ids])).unsqueeze(1)
        spelled = ["\n", *_units(vocabulary, text, ids)]
        settings = run.config["settings"]
        name = f"{settings['cell'].rpartition(':')[2]} {'-'.join(map(str, settings['hidden']))}"
        return cls(run.model().eval(), numbers[:-1], numbers[1:], spelled[:-1], spelled[1:], name, vocabulary)

    def errors(self, features: Tensor) -> Tensor:
        """-log p of what came next, in nats [T, B]."""
        scores = self.model.logits(features)
        targets = self.targets.expand(-1, scores.shape[1])
        return torch.nn.functional.cross_entropy(scores.transpose(1, 2), targets, reduction="none")

    def flow(self, loss_at: Any, jacobians: int = 1) -> inspect.Flow:
        """The error flow of this text."""
        return inspect.flow(self.model, self.inputs, loss_at=loss_at, loss=self.errors, jacobians=jacobians)

    def surprise(self) -> np.ndarray:
        """Bits of every unit [T]."""
        with torch.no_grad():
            nats = self.errors(self.model(self.inputs)[0])[:, 0]
        return np.asarray(nats.double().numpy() / np.log(2))

    @torch.no_grad()
    def guesses(self) -> list[str]:
        """For each step the probability of what came next, and the three likeliest units with theirs."""
        scores = self.model.logits(self.model(self.inputs)[0])[:, 0].softmax(-1)
        best = scores.topk(min(3, scores.shape[-1]))
        told = []
        for t, came in enumerate(self.targets[:, 0].tolist()):
            likely = zip(best.indices[t].tolist(), best.values[t].tolist(), strict=True)
            parts = [f"{self.vocabulary.decode([i])!r} {p:.0%}" for i, p in likely]
            told.append(f"p({self.next[t]!r}) = {scores[t, came]:.0%}; max p: {', '.join(parts)}")
        return told

    def saliency(self) -> np.ndarray:
        """|∂E_t/∂x_k · x_k| [T, T], of the error at step t (row) by what was read at step k (column).

        Gradient times input; Denil et al. 2014, arXiv:1412.6815. All rows are one batch of T copies of the text, each
        with the error of another step.
        """
        count = len(self.inputs)
        words = self.inputs.expand(-1, count)
        table = self.model.embedding
        weight = self.model.output.weight
        if table is None:
            x = torch.nn.functional.one_hot(words, self.model.shape.units).to(weight.dtype)
        else:
            x = table(words).detach()
        x.requires_grad_()
        features: Tensor = x
        for stack in self.model.recurrent:
            features = stack(features)[0]
        chosen = self.errors(features).diagonal().sum()  # copy t has the error of step t
        (gradient,) = torch.autograd.grad(chosen, x)
        return np.asarray((gradient * x).sum(-1).abs().detach().double().numpy().T)


def _units(vocabulary: Vocabulary, text: str, ids: np.ndarray) -> list[str]:
    """What each number stands for, as it is shown; unknown units as they are in the text."""
    if vocabulary.unit == "byte":
        return [chr(i) if 32 <= i < 127 or i == 10 else f"{i:02x}" for i in ids.tolist()]
    return vocabulary.split(text)


def inspect_run(settings: InspectSettings) -> None:
    """Draws one picture into a file and says in words what it shows."""
    run = Run.open(Path(settings.run))
    subject = Subject.of(run, _text(settings.text))
    out = Path(settings.out or ("page.html" if settings.kind == "page" else f"{settings.kind}.png"))
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}: make it, or name another file")
    if settings.kind == "page":
        _write_page(subject, out, settings.lang)
        return
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {out}: give a file that ends in .png or .svg")
    loss_at = _loss_at(settings.loss_at, len(subject.inputs))
    try:
        figure = _figure(settings.kind, subject, loss_at, settings.lang)
    except FontMissing as error:
        raise Failure(str(error)) from error
    import io

    content = io.BytesIO()
    figure.savefig(content, format=out.suffix[1:])
    write_atomic(out, content.getvalue())
    print(out)


def _write_page(subject: Subject, out: Path, lang: Lang) -> None:
    if out.suffix != ".html":
        raise UsageError(f"--out {out}: give a file that ends in .html")
    try:
        data = page_data(subject.model, subject.inputs, subject.read, loss=subject.errors, title=subject.name,
                         lang=lang, notes=subject.guesses())  # fmt: skip
    except ValueError as error:
        raise UsageError(f"inspect: {error}") from error
    write_atomic(out, page(data).encode())
    print(out)


def _text(given: str) -> str:
    """The text, or that of a file if there is one of this name."""
    if os.path.isfile(given):  # which a text too long for a name is not, either
        return Path(given).read_text(encoding="utf-8")
    return os.fsencode(given).decode("utf-8", "replace")


def _loss_at(given: str, steps: int) -> str | int:
    if given in ("last", "all"):
        return given
    if not given.isdigit() or int(given) >= steps:
        raise UsageError(f"--loss-at {given}: give last, all, or the number of a step from 0 to {steps - 1}")
    return int(given)


def _figure(kind: str, subject: Subject, loss_at: Any, lang: Lang) -> Figure:
    say = speaker(lang)
    if kind == "surprise":
        title = say("{model}: how surprised it was", model=subject.name)
        return pictures.draw_surprise(subject.surprise(), subject.next, title, lang=lang)
    if kind == "saliency":
        title = say("{model}: which of the characters read decide each prediction", model=subject.name)
        return pictures.draw_saliency(subject.saliency(), subject.read, subject.next, title, lang=lang)
    if kind == "weights":
        title = say("{model}: the matrices of the recurrent layers", model=subject.name)
        return pictures.draw_weights(_matrices(subject.model, say), title, lang=lang)
    flow = subject.flow(loss_at, jacobians=int(kind == "flow"))
    if kind == "flow":
        print(flow.summary(lang))
        return pictures.draw_flow(flow, subject.read, _flow_title(subject, loss_at, say), lang=lang)
    if kind == "states":
        title = say("{model}: the states over time", model=subject.name)
        return pictures.draw_states(flow, subject.read, title, lang=lang)
    if kind == "gates":
        if not any(f.gates for f in flow.layers):
            raise Failure("inspect gates: nothing that has a name in this cell's step is made by sigmoid, tanh or relu")
        title = say("{model}: gates over time, and how often they are stuck", model=subject.name)
        return pictures.draw_gates(flow, subject.read, title, lang=lang)
    if not any(f.spectra for f in flow.layers):
        raise Failure("inspect spectrum: this cell has no square recurrent matrix, so no eigenvalues")
    title = say("{model}: eigenvalues of the recurrent matrices, and the unit circle", model=subject.name)
    return pictures.draw_spectrum(flow, title, lang=lang)


def _flow_title(subject: Subject, loss_at: Any, say: Say) -> str:
    model = subject.name
    if loss_at == "all":
        return say("{model}: how the error of all predictions flows back", model=model)
    if loss_at == "last":
        unit = repr(subject.next[-1])
        return say("{model}: how the error of the last prediction, {unit}, flows back", model=model, unit=unit)
    unit = repr(subject.next[loss_at])
    return say("{model}: how the error of the prediction {unit} at step {step} flows back",
               model=model, unit=unit, step=loss_at)  # fmt: skip


def _matrices(model: LanguageModel, say: Say) -> dict[str, dict[str, np.ndarray]]:
    """ "layer 1, weight_hh" -> "r" -> numbers, for every block of rows of every matrix."""
    found: dict[str, dict[str, np.ndarray]] = {}
    layers = 0
    for stack in model.recurrent:
        for level in range(stack.num_layers):  # type: ignore[arg-type]
            own = stack.own_parameters(level, 0)  # type: ignore[operator]
            layers += 1
            for spec in stack.derived.layout.parameters:  # type: ignore[union-attr]
                if spec.columns is not None:
                    sizes = stack.sizes(level)  # type: ignore[operator]
                    parts = own[spec.name].detach().split([int(sizes.get(w, w)) for _, w in spec.rows])
                    names = [n for n, _ in spec.rows]
                    blocks = {n: p.double().numpy() for n, p in zip(names, parts, strict=True)}
                    found[f"{layer_name(say, layers)}, {spec.name}"] = blocks
    return found
