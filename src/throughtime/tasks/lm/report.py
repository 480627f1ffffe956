"""What the person at the terminal sees: facts, a bar, a line per evaluation; plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from throughtime.tasks.lm.training import Measures

NAME_WIDTH = 9  # of the names of facts, so that facts told at different times stand in one column


def visible(text: str) -> str:
    """`text` with control characters made visible, so that a model cannot command the terminal."""
    # U+2400 + n is the picture of control character n; U+2421 that of DEL. C1 controls become U+FFFD.
    table = {n: 0x2400 + n for n in range(32) if n not in (9, 10)} | {127: 0x2421}
    return text.translate(table | dict.fromkeys(range(128, 160), 65533))


def progress_line(measures: Measures, unit: str, best: bool) -> str:
    """The line of an evaluation."""
    parts = [
        f"step {measures.step:>6}",
        f"epoch {measures.epoch:5.2f}",
        f"train {_nats(measures.training_loss)}",
    ]
    if measures.score is not None:
        score = measures.score
        parts += [
            f"held-out {_nats(score.loss)}",
            f"perplexity {score.perplexity:.4g}",
            f"bits/char {_nats(score.bits_per_character)}",
        ]
    parts += [
        f"gradient {measures.gradient_norm:.3g} ({100 * measures.clipped:.0f} % clipped)",
        f"lr {measures.lr:.2g}",
        f"{measures.units_per_second:,.0f} {unit}s/s",
    ]
    return "  ".join(parts) + ("  best" if best else "")


def _nats(value: float) -> str:
    return f"{value:.4f}" if value < 1000 else f"{value:.4g}"


class Screen:
    """Prints to the standard output; a moving bar only on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None

    @property
    def interactive(self) -> bool:
        """Whether a person watches."""
        return self._console.is_terminal

    def line(self, text: str, style: str = "", wrap: bool = False) -> None:
        """One line, above the bar. `wrap`: a narrow terminal breaks it between words, which would hurt a path."""
        self._console.print(Text(visible(text), style), soft_wrap=not (wrap and self.interactive))

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values, aligned."""
        width = max(NAME_WIDTH, *(len(name) for name, _ in rows))
        for name, value in rows:
            self._console.print(Text(f"{name:<{width}}  ", "dim") + Text(visible(value)), soft_wrap=True)

    def sample(self, text: str) -> None:
        """Sampled text, each line set off by a bar."""
        for line in visible(text).split("\n"):
            self._console.print(Text("  | ", "dim") + Text(line, "green"), soft_wrap=True)

    def start(self) -> None:
        """Show the bar."""
        if self.interactive:
            self._bar = Progress(
                BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
                console=self._console, transient=True,
            )  # fmt: skip
            self._bar.add_task("", total=1.0)
            self._bar.start()

    def advance(self, fraction: float, text: str) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=fraction, description=text)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def warn(text: str) -> None:
    """A sentence on the standard error."""
    print(f"throughtime: {text}", file=sys.stderr, flush=True)
