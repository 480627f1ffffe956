"""`explain`: which kernels would run for an input and why, what they cost, and what is kept in memory for training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime import runtime
from throughtime.nn import counting, cuda_twin
from throughtime.nn.calls import Kind
from throughtime.nn.counting import Flops
from throughtime.nn.cuda_device import machine_of
from throughtime.nn.cuda_explain import scheme_notes
from throughtime.nn.cuda_wish import VARIABLE, wish
from throughtime.nn.explanation import Explanation, KernelUse, LayerUse
from throughtime.nn.kernels import column_blocks
from throughtime.nn.precision import NARROW
from throughtime.nn.products import needs_table
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.steps import RecurrentCell


def explain(
    layer: Recurrent, input: Tensor | Sequence[int] | None = None, lengths: Tensor | Sequence[int] | None = None
) -> Explanation:
    """Says which kernels `layer(input, lengths=lengths)` would run and why, and counts operations and bytes.

    Nothing is run and nothing is compiled. `input` may be a tensor (its values are not read) or its shape; None counts
    one step of one sequence. A multiply-add of a product counts as 2 operations, everything else that a step does to a
    number as 1; the loop is counted at real steps only, the products outside it at all of them.

    Raises:
        TypeError: `layer` is no recurrent layer of this package.
        ValueError: the input has the wrong shape for the layer.
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"explain expects a recurrent layer of throughtime, got {type(layer).__name__}: "
            "tt.convert makes torch.nn's layers into such"
        )
    steps, rows, words, wants = _shape(layer, input)
    real = steps * rows if lengths is None else int(torch.as_tensor(lengths).sum())
    weight = layer.any_weight
    compiler: runtime.Compiler | None = None
    compiler_text = "none is used"
    notes = _notes(layer, lengths is not None)
    gpu = layer.backend == "compiled" and weight.device.type == "cuda"
    if gpu:
        if not os.environ.get(VARIABLE):
            notes.append(
                "the CUDA kernels have never run on a GPU, so a call would be refused: "
                f"set {VARIABLE}=block to try them"
            )
        compiler_text, more = _on_gpu(layer, steps, rows)
        notes += more
    elif layer.backend == "compiled":
        try:
            compiler = runtime.find_compiler()
            compiler_text = str(compiler)
        except runtime.CompilerNotFound as error:
            compiler_text = "none"
            notes.append(str(error))
    call = _Call(
        layer, steps, rows, real, words, wants, lengths is not None, compiler, layer.backend == "compiled" and not gpu
    )
    if call.pieces:
        numbers = "bfloat16 weights" if call.pieces == 1 else "float32 numbers in three pieces"
        notes.append(
            f"matrix units (AMX) multiply {numbers}, as exactly as float32 arithmetic does; "
            f"{counting.MATRIX_UNITS}=0 in the environment leaves them out"
        )
    return Explanation(
        f"{type(layer).__name__}({layer.extra_repr()})", layer.cell.name, layer.backend, weight.dtype, weight.device,
        *(steps, rows, real, compiler_text, counting.vector_bytes(compiler) if compiler else None, tuple(notes)),
        tuple(call.use(level) for level in range(layer.num_layers)),
    )  # fmt: skip


def _shape(layer: Recurrent, input: Any) -> tuple[int, int, bool, bool]:
    """T, B, whether the input is word numbers, and whether it wants a gradient."""
    if input is None:
        return 1, 1, False, False
    single = isinstance(layer, RecurrentCell)
    words = isinstance(input, Tensor) and not input.dtype.is_floating_point
    shape = list(input.shape if isinstance(input, Tensor) else input)
    rank = len(shape) + words + single
    if rank not in (2, 3) or (not words and shape[-1] != layer.input_size):
        raise ValueError(f"explain expects an input of the layer's {layer.input_size} numbers, got the shape {shape}")
    if rank == 2:
        shape.insert(int(not layer.batch_first and not single), 1)
    if single:
        shape.insert(0, 1)
    steps, rows = shape[:2] if not layer.batch_first else shape[1::-1]
    return steps, rows, words, isinstance(input, Tensor) and input.requires_grad


def _notes(layer: Recurrent, padded: bool) -> list[str]:
    weight, notes = layer.any_weight, []
    if layer.backend == "reference":
        notes.append(
            'backend="reference" runs the equation step by step on tensors: no kernel is used, and the memory that '
            "autograd keeps for all of them is not counted"
        )
    elif weight.device.type not in ("cpu", "cuda"):
        notes.append(
            "the compiled backend works on the CPU and on NVIDIA GPUs, "
            f"the layer is on {weight.device}: a call would be refused"
        )
    if weight.dtype in NARROW:
        notes.append(f"{weight.dtype} is only stored: weights, input and states are copied to float32 for every call")
    if layer.recompute is not None:
        notes.append(
            f"recompute={layer.recompute} keeps the states at every {layer.recompute} steps only, runs each direction "
            "by itself, and the forward pass once more in the backward pass"
        )
    if padded:
        notes.append("lengths make a copy of the input, with zeros in the padding")
    return notes


def _on_gpu(layer: Recurrent, steps: int, rows: int) -> tuple[str, list[str]]:
    """The compiler, and how each kernel's launch is divided."""
    weight = layer.any_weight
    facts = machine_of(weight.device).facts
    dtype = torch.float32 if weight.dtype in NARROW else weight.dtype
    notes = list(cuda_twin.notes(layer, steps, rows))
    for level in range(0 if wish().scheme == "cudnn" else layer.num_layers):
        notes += scheme_notes(_kind(layer, level), level, rows, dtype, facts)
    try:
        return str(runtime.find_nvrtc(facts.arch)), notes
    except runtime.NvrtcNotFound as error:
        return "none", [*notes, str(error)]


def _kind(layer: Recurrent, level: int) -> Kind:
    numbers = tuple(range(layer.directions if layer.recompute is None else 1))  # directions of one kernel call
    reverse = tuple(layer.runs_backwards(d) for d in numbers)
    found: Kind = layer.derived.kind(layer.sizes(level), reverse, numbers, layer.training)
    return found


@dataclass(frozen=True)
class _Call:
    """What the layers of one call have in common: T, B, time steps that are no padding, and what the input is."""

    layer: Recurrent
    steps: int
    rows: int
    real: int
    words: bool
    wants_gradient: bool
    padded: bool
    compiler: runtime.Compiler | None
    on_cpu: bool

    @property
    def dtype(self) -> torch.dtype:
        """In which the arithmetic is done."""
        stored = self.layer.any_weight.dtype
        return torch.float32 if stored in NARROW else stored

    @property
    def chunk(self) -> int:
        """Steps of one call of a kernel."""
        return min(self.steps, self.layer.recompute or self.steps)

    @property
    def pieces(self) -> int:
        """Into how many pieces matrix units want the packed matrices cut; 0: they are not used."""
        exact = self.layer.any_weight.dtype == torch.bfloat16
        return counting.pieces_of(self.compiler, self.dtype, exact, self.chunk, self.rows)

    def use(self, level: int) -> LayerUse:
        layer = self.layer
        kind = _kind(layer, level)
        forward, backward = self._flops(kind, level)
        reference = layer.backend == "reference"
        return LayerUse(
            level,
            layer.sizes(level)["input"],
            tuple(self._kernels(kind, level)) if self.on_cpu else (),
            forward,
            backward,
            sum(p.numel() for d in range(layer.directions) for p in layer.own_parameters(level, d).values())
            * layer.any_weight.dtype.itemsize,
            {} if reference else self._kept(kind, level),
            {} if reference else self._made(kind, level, keep=False),
        )

    def _kernels(self, kind: Kind, level: int) -> list[KernelUse]:
        dtype, program = self.dtype, kind.program
        groups = len(kind.group_reverse)
        panel = 2 * counting.vector_bytes(self.compiler) // dtype.itemsize if self.compiler else 1
        found = []
        for purpose, kernel in (
            ("inference", program.kernel(False, dtype)),
            ("forward", program.kernel(True, dtype)),
            ("backward", program.backward.kernel(False, dtype)),
        ):
            recurrence = kernel.recurrence
            packed = counting.packed_elements(recurrence, kind.sizes, kind.heads, panel)
            maps = purpose != "backward" and not (self.words and level == 0)
            mapped = counting.packed_input(recurrence, kind.sizes, kind.heads, panel) if maps else 0
            phases = counting.phase_texts(recurrence)
            step = counting.one_step(recurrence, kind.sizes, kind.heads, dtype.itemsize)
            cut = counting.cut(step, packed + mapped, groups, self.chunk, self.rows, torch.get_num_threads())
            compiled = kernel.library() is not None if self.compiler else None
            packed = counting.packed_elements(recurrence, kind.sizes, kind.heads, panel, self.pieces)
            mapped = counting.packed_input(recurrence, kind.sizes, kind.heads, panel, self.pieces) if maps else 0
            size = (packed + mapped) * groups * dtype.itemsize
            found.append(KernelUse(recurrence.name, purpose, compiled, phases, cut, size))
        return found

    def _flops(self, kind: Kind, level: int) -> tuple[Flops, Flops]:
        program, sizes, heads = kind.program, kind.sizes, kind.heads
        directions = self.layer.directions
        real, every = self.real * directions, self.steps * self.rows * directions
        rows = sum(width for _, width in column_blocks(program.recurrence.reads, sizes).get("net", {}).values())
        words = self.words and level == 0  # a gather of columns
        product = 0 if words else 2 * every * rows * sizes["input"]
        forward = Flops(
            product,
            real * counting.step_products(program.forward(True), sizes, heads),
            real * counting.step_pointwise(program.forward(True), sizes, heads),
        )
        derived = program.backward.recurrence
        gradients = counting.matrix_gradients(kind.plan(True, self.dtype))
        backward = Flops(
            product * (2 if level or self.wants_gradient else 1),
            real * counting.step_products(derived, sizes, heads) + every * gradients,
            real * counting.step_pointwise(derived, sizes, heads),
        )
        return forward, backward if self.layer.recompute is None else backward + forward

    def _made(self, kind: Kind, level: int, keep: bool) -> dict[str, int]:
        """Bytes of the arrays that the call makes."""
        dtype = self.dtype
        numbers = counting.array_numbers(kind, kind.plan(keep, dtype), self.steps, self.rows)
        made = {"out", "final states", *kind.plan(keep, dtype).own_writes}
        if len(self.layer.derived.biases) > 1:
            made.add("bias")  # a sum of two parameters; a single one is a parameter
        if self.words and level == 0:
            made |= {"net", "x"}  # of words W x is a gather or looked up in Wᵀ, and x vectors of zeros and a one
            if "net" in numbers and self.on_cpu and needs_table(self.steps * self.rows, kind.sizes["input"]):
                numbers["net"] = numbers["net"] // (self.steps * self.rows) * kind.sizes["input"]
        if not self.on_cpu:
            made.add("net")
        scale = dtype.itemsize * self.layer.directions // len(kind.reverse)
        found = {name: count * scale for name, count in numbers.items() if name in made}
        masked = self.padded and (self.words or "x" in kind.program.reads or self.layer.recompute is not None)
        copied = masked or (self.layer.any_weight.dtype in NARROW and not self.words)
        if level == 0 and copied and not (self.words and "net" not in numbers):
            item = 8 if self.words else kind.sizes["input"] * dtype.itemsize
            found["copied input"] = self.steps * self.rows * item
        return found

    def _kept(self, kind: Kind, level: int) -> dict[str, int]:
        layer = self.layer
        kept = {name: count for name, count in self._made(kind, level, keep=True).items() if name != "net"}
        if layer.recompute is not None:
            chunks = -(-self.steps // layer.recompute)
            states = {"states of all chunks": chunks * kept["final states"]}
            kept = {k: v for k, v in kept.items() if k in ("out", "copied input")} | states
        if level and layer.dropout and layer.training:
            size = self.steps * self.rows * kind.sizes["input"] * self.dtype.itemsize
            kept |= {"dropped input": size, "dropout": size}
        if layer.derived.noisy[layer.training]:
            kept["seed"] = 8
        if layer.any_weight.dtype in NARROW:
            # Biases that are added up are kept as their sum.
            gone = set(layer.derived.biases if len(layer.derived.biases) > 1 else ())
            own = [layer.own_parameters(level, d) for d in range(layer.directions)]
            kept["copied weights"] = sum(p.nbytes for each in own for n, p in each.items() if n not in gone)
        return kept


__all__ = ["explain"]
