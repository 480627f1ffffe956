"""A backward pass that only makes numbers, planned once for each layout of its tensors; see `planned.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.nn.calls import Job, empty_results
from throughtime.nn.kernels import PreparedCall, addresses_of, layout_of
from throughtime.nn.matmul import (
    BY_WORD,
    PIECE,
    REAL,
    Matrix,
    PreparedProducts,
    Products,
    flat_matrix,
    imaginary,
    matrix,
)
from throughtime.nn.memory import Form
from throughtime.nn.planned import (
    Extra,
    Row,
    kept_call,
    prepared,
    real_rows,
    seeds,
    with_extras,
)
from throughtime.nn.program import Plan
from throughtime.nn.route import Block, Product, Route, Source


class _Made(NamedTuple):
    """A gradient that products make; `zeros`: they leave rows of it out."""

    form: Form
    zeros: bool

    def new(self) -> Tensor:
        return self.form.new().zero_() if self.zeros else self.form.new()


class _Backward(NamedTuple):
    """`done`: what the kernel makes; `made`: what the products make; `answers`: for the input and each operand how its
    gradient is found: it is "made", also "turned" with rows for columns, or a "result" of the recurrence; and which."""

    extras: list[Extra]
    kernel: PreparedCall
    route: Route
    done: list[Form]
    made: list[_Made]
    products: PreparedProducts
    answers: list[tuple[str, int] | None]


def backward(
    job: Job, saved: Sequence[Tensor | None], grads: Sequence[Tensor | None], x: Tensor | None, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x and of a call's operands after lengths and seed. `saved`: operands and results; `grads`: the
    errors that enter through the results; `wanted`: which gradients somebody asks for."""
    like = saved[-1]
    assert like is not None
    plan = job.kind.plan(True, like.dtype)
    words = x is not None and x.dim() == 2
    row = [*saved, *grads, x.unsqueeze(2) if words else x]  # type: ignore[union-attr]
    shape = job.steps, job.rows, job.batch_first
    key = layout_of(row), words, tuple(wanted), len(grads), shape, torch.get_num_threads()
    call: _Backward = kept_call(plan.calls, key, lambda: _Planning(job, plan, row, len(grads)).backward(wanted))
    with_extras(row, call.extras, job.batch_first)
    done = [form.new() for form in call.done]
    made = [g.new() for g in call.made]
    addresses = addresses_of([*row, *done, *made])
    call.kernel.run(addresses, job.origin, seeds(job.kind, saved[1]), saved[0])
    if job.errors is not None:
        for d, at in enumerate(call.route.errors):
            job.errors(d, done[at], row[call.route.out])
    call.products.run(addresses, real_rows(job, saved[0]))
    found: list[Tensor | None] = []
    for answer in call.answers:
        if answer is None:
            found.append(None)
        elif answer[0] == "made":
            found.append(made[answer[1]])
        elif answer[0] == "turned":
            found.append(made[answer[1]].t())
        else:
            found.append(done[answer[1]])
    return found


class _Planning:
    """Plans a backward pass. `given`: operands and results of the call, `errors` errors that enter, and x."""

    def __init__(self, job: Job, plan: Plan, given: Sequence[Tensor | None], errors: int) -> None:
        self.job, self.given = job, given
        self.row = Row(given, job.batch_first)
        self.results = len(given) - 1 - errors  # so many tensors stand before the errors
        entering = given[self.results : -1]
        second = any(g is not None and k in plan.kept for k, g in enumerate(entering))
        self.kind = job.kind.backward_of_kept if second else job.kind.backward
        self.plan = self.kind.plan(False, plan.dtype)
        self.route = plan.route(job.kind, second, False)
        self.count = self.results - errors  # of operands
        self.products = Products(plan.dtype)
        self.made: list[_Made] = []

    def backward(self, wanted: Sequence[bool]) -> _Backward:
        row, job = self.row, self.job
        operands = [row.with_units_together(self._followed(source)) for source in self.route.sources]
        x = None if self.given[-1] is None else row.flat(len(self.given) - 1)
        for product in (p for products in self.route.products for p in products):
            row.flat(product.vector.array)
        like = row[self.results - 1]
        self.ones = row.constant(like.new_ones(job.rows))
        self.first_done = len(row.tensors)
        done = empty_results(job, self.plan, like)
        row.tensors += done
        kernel = prepared(self.kind, self.plan, job, row, operands, self.first_done)
        d_x: int | None = None
        answers: list[tuple[str, int] | None] = []
        for k, (gradient, asked) in enumerate(zip(self.route.gradients, wanted[1:], strict=True), 2):
            if gradient is None or self.given[k] is None:
                answers.append(None)
                continue
            how, d, at = gradient
            if how == "net" and x is not None and row[x].is_floating_point():
                if wanted[0]:
                    d_x = self._input_gradient(at, k, x, d_x)
                answers.append(("made", self._weight_gradient(at, k, x)) if asked else None)
            elif how == "net" and x is not None:
                answers.append(("turned", self._words_gradient(at, k, x)) if asked else None)
            elif how == "parameter":
                answers.append(("made", self._parameter_gradient(d, at, k)) if asked else None)
            elif how == "sum":
                answers.append(("made", self._sum(at)) if asked else None)
            else:
                answers.append(("result", at))
        answers.insert(0, None if d_x is None else ("made", d_x))
        products = PreparedProducts(self.products)
        forms = [Form(d) for d in done]
        return _Backward(row.extras, kernel, self.route, forms, self.made, products, answers)

    def _followed(self, source: Source) -> int:
        """The number of the tensor that a source names, of zeros that take no memory where no error enters; of None
        for a state that begins with 0."""
        at, like = source
        if at is not None and (self.given[at] is not None or like is None):
            return at
        model = self.row[like]  # type: ignore[index]
        return self.row.constant(model.new_zeros(model.shape[-1]).expand(model.shape))

    def _new(self, size: Sequence[int], zeros: bool = False, batch_first: bool = False) -> tuple[int, int]:
        """Its number among those made, and in the row."""
        model = self.row[self.results - 1].new_empty(tuple(size))
        model = model.transpose(0, 1) if batch_first else model
        self.made.append(_Made(Form(model), zeros))
        return len(self.made) - 1, self.row.add(model)

    def _flat(self, at: int) -> Matrix:
        return flat_matrix(self.row[at], imaginary(at))

    def _matrix(self, at: int) -> Matrix:
        return matrix(self.row[at], imaginary(at))

    @property
    def _real(self) -> str | None:
        return None if self.given[0] is None else REAL

    def _input_gradient(self, delta: int, weight: int, x: int, known: int | None) -> int:
        """δ W, added to what another direction has made."""
        if known is None:
            steps, rows, width = self.row[x].shape
            first = self.job.batch_first
            known, self.d_x = self._new((rows, steps, width) if first else (steps, rows, width), batch_first=first)
            more = False
        else:
            more = True
        errors = self._flat(self.first_done + delta)
        clear = self._real is not None and not more
        self.products.add(
            *(errors, self._matrix(weight), self._flat(self.d_x)),
            chain=PIECE,
            more=more,
            rows=self._real,
            clear=clear,
        )
        return known

    def _weight_gradient(self, delta: int, weight: int, x: int) -> int:
        """Σ δ xᵀ."""
        made, at = self._new(self.row[weight].shape)
        errors = self._flat(self.first_done + delta)
        self.products.add(errors.t, self._flat(x), self._matrix(at), chain=PIECE, depth=self._real)
        return made

    def _words_gradient(self, delta: int, weight: int, x: int) -> int:
        """The transpose of Σ δ xᵀ where every x is a one-hot vector, given as the word's number."""
        rows, words = self.row[weight].shape
        made, at = self._new((words, rows))
        errors = self._flat(self.first_done + delta)
        numbers = self._flat(x)._replace(rows=words, columns=errors.rows, column_step=self._flat(x).row_step)
        self.products.add(numbers, errors, self._matrix(at), chain=BY_WORD)
        return made

    def _sum(self, result: int) -> int:
        """Σ over the sequences of a result [B, W], as the product of a row of ones with it: torch's sum would wake its
        threads for a large one, which then spin on the cores that the next call needs."""
        at = self.first_done + result
        rows, width = self.row[at].shape
        made, out = self._new((width,))
        ones = Matrix(imaginary(self.ones), 1, rows, rows, 1)
        self.products.add(ones, self._matrix(at), Matrix(imaginary(out), 1, width, width, 1), chain=8)
        return made

    def _parameter_gradient(self, direction: int, number: int, parameter: int) -> int:
        """Σ δ vᵀ for a parameter that holds matrices of the loop."""
        own = [p for p in self.route.products[direction] if p.of.parameter == number]
        shape = self.row[parameter].shape
        covered = {p.of.row: p.of.rows for p in own}
        made, at = self._new(shape, zeros=sum(covered.values()) < shape[0])
        begun = set()
        for p in own:
            for left, right, out in self._blocks(p, direction, self._matrix(at)):
                more = p.of.row in begun
                self.products.add(left.t, right, out, chain=PIECE, more=more, depth=self._real)
            begun.add(p.of.row)
        return made

    def _blocks(self, p: Product, direction: int, out: Matrix) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
        """Each head's error terms and vectors, and where their product goes."""
        sides = (self._block(p.delta, direction, True), self._block(p.vector, direction, False))
        (rows, first, tall), (columns, second, wide) = sides[::-1] if p.of.transposed else sides
        heads, size = self.job.kind.heads, self.plan.dtype.itemsize
        tall, wide = tall // heads, wide // heads
        begin, count = self._rows_with_state(p.of.state, direction)
        for head in range(heads):
            yield (
                rows.part(begin, count, first + head * tall, tall, size),
                columns.part(begin, count, second + head * wide, wide, size),
                out.part(p.of.row + head * tall, tall, 0, wide, size),
            )

    def _rows_with_state(self, state: int | None, direction: int) -> tuple[int, int]:
        """The first of the T · B rows, and how many, without those of the first step, where the state is zero as none
        was given. Whole pieces are left out, so that the sum has the same bits."""
        steps, rows = self.job.steps, self.job.rows
        first = 2 + len(self.job.kind.program.joint)
        given = state is None or self.given[first + state] is not None
        if given or self._real is not None or (self.job.batch_first and steps > 1):
            return 0, steps * rows
        if steps == 1:
            return 0, 0
        if self.job.kind.reverse[direction]:
            return 0, min(-(-(steps - 1) * rows // PIECE) * PIECE, steps * rows)
        without = rows // PIECE * PIECE
        return without, steps * rows - without

    def _block(self, block: Block, direction: int, done: bool) -> tuple[Matrix, int, int]:
        """The array that holds a block as a matrix, the block's first column and its width."""
        whole = self._flat(self.first_done + block.array if done else self.row.flat(block.array))
        shared = direction * (whole.columns // len(self.kind.reverse)) if block.joint else 0
        return whole, block.first + shared, block.width
