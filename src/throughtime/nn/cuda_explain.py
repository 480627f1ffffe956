"""What `explain` says of a layer on a GPU: the schemes in which its kernels run, and what the model would choose."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from throughtime.nn import cuda_model
from throughtime.nn.calls import Kind
from throughtime.nn.cuda_kernels import problem
from throughtime.nn.cuda_model import Facts
from throughtime.nn.cuda_wish import PRODUCTS, VARIABLE, Wish, wish
from throughtime.nn.program import Program


def scheme_notes(kind: Kind, level: int, rows: int, dtype: torch.dtype, facts: Facts) -> Iterator[str]:
    """One sentence for each kernel of a layer in training."""
    asked = wish()
    for purpose, keep, program in (("forward", True, kind.program), ("backward", False, kind.program.backward)):
        yield f"layer {level}, {purpose}: {_note(program, keep, kind, rows, dtype, facts, asked)}"


def _note(program: Program, keep: bool, kind: Kind, rows: int, dtype: torch.dtype, facts: Facts, wish: Wish) -> str:
    numbers = kind.plan(True, dtype).numbers_of(program.forward(keep))
    given = problem(program.forward(keep), numbers, dtype, rows, len(kind.group_reverse))
    try:
        scheme = cuda_model.choose(given, facts, wish)
    except NotImplementedError as refusal:
        return f"refused: {refusal}"
    text = cuda_model.described(scheme)
    every = sorted(
        (cuda_model.cycles(given, facts, s), cuda_model.described(s))
        for s in cuda_model.candidates(given, facts, PRODUCTS[wish.product])
    )
    cost, best = every[0]
    if best == text:
        return f"{text}, which the model, not yet measured, would choose too"
    own = cuda_model.cycles(given, facts, scheme)
    return (
        f"{text}; the model, not yet measured, would choose {best} ({cost:,.0f} cycles a step against {own:,.0f}): "
        f"{VARIABLE}=model does so"
    )
