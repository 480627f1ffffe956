"""What `explain` returns: numbers by name, and a text for people."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from throughtime.nn.counting import Cut, Flops


@dataclass(frozen=True)
class KernelUse:
    """One compiled recurrence.

    Attributes:
        name: as it stands in the cache and in profiles ("throughtime::" and this name).
        purpose: "inference", "forward" (keeps what the backward pass needs) or "backward".
        compiled: whether the cache has it; None where there is no compiler to ask.
        phases: what one step does, phase by phase.
        cut: how the work is divided.
        packed_bytes: of the matrices that a call packs, of all groups; what it reads but once it packs piece by piece.
    """

    name: str
    purpose: str
    compiled: bool | None
    phases: tuple[str, ...]
    cut: Cut
    packed_bytes: int


@dataclass(frozen=True)
class LayerUse:
    """One layer of the stack, all its directions together.

    Attributes:
        level: its number.
        input_size: numbers in each of its input vectors.
        kernels: for inference, forward and backward; empty without the compiled backend.
        forward, backward: operations of the passes.
        weight_bytes: memory of its parameters.
        kept: bytes of every array that stays in memory between forward and backward pass.
        inference: bytes of every array that a call without gradients makes.
    """

    level: int
    input_size: int
    kernels: tuple[KernelUse, ...]
    forward: Flops
    backward: Flops
    weight_bytes: int
    kept: dict[str, int]
    inference: dict[str, int]


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; print it to read it. Bytes and operations are numbers, sums over the layers are properties.

    Attributes:
        layer: the layer as text; `cell`, `backend`, `dtype` and `device`: what decides over the kernels.
        steps, rows: T and B; `real_steps`: time steps of all sequences together that are no padding.
        compiler: its identity, or why there is none; `vector_bytes`: size of a native vector, None without compiler.
        notes: what takes the call off the fast path or changes its cost, a sentence each.
        layers: the layers from the input up.
    """

    layer: str
    cell: str
    backend: str
    dtype: torch.dtype
    device: torch.device
    steps: int
    rows: int
    real_steps: int
    compiler: str
    vector_bytes: int | None
    notes: tuple[str, ...]
    layers: tuple[LayerUse, ...] = field(repr=False)

    @property
    def forward_flops(self) -> Flops:
        return sum((u.forward for u in self.layers), Flops(0, 0, 0))

    @property
    def backward_flops(self) -> Flops:
        return sum((u.backward for u in self.layers), Flops(0, 0, 0))

    @property
    def weight_bytes(self) -> int:
        return sum(u.weight_bytes for u in self.layers)

    @property
    def kept_bytes(self) -> int:
        """Memory that training keeps between the passes, without parameters, the input and the states given."""
        return sum(sum(u.kept.values()) for u in self.layers)

    @property
    def inference_bytes(self) -> int:
        """The largest memory that one layer's arrays take in a call without gradients (each layer's are freed)."""
        return max(sum(u.inference.values()) for u in self.layers)

    def __str__(self) -> str:
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        lines = [f"{self.layer}: backend {self.backend}, {kind}, T={self.steps}, B={self.rows}"]
        wide = "" if self.vector_bytes is None else f", vectors of {self.vector_bytes} bytes"
        lines += [f"compiler: {self.compiler}{wide}", *(f"note: {note}" for note in self.notes)]
        for use in self.layers:
            lines += ["", f"layer {use.level}: input {use.input_size}, weights {_size(use.weight_bytes)}"]
            for k in use.kernels:
                known = {True: "in the cache", False: "not compiled yet", None: "unknown"}[k.compiled]
                team = f" x {k.cut.team} members" if k.cut.team > 1 else ""
                cut = f"{k.cut.groups} x {k.cut.slices}{team} tasks, {k.cut.threads} threads"
                lines.append(f"  {k.purpose:9} {k.name}: {known}; {cut}; packed {_size(k.packed_bytes)}")
                if k.purpose != "inference":  # the same steps as forward, which also writes what is kept
                    lines += [f"            {n}. {text}" for n, text in enumerate(k.phases, 1)]
            for name, flops in (("forward", use.forward), ("backward", use.backward)):
                parts = f"input product {flops.input_product:,}, recurrent product {flops.recurrent_product:,}, "
                lines.append(f"  {name} operations: {flops.total:,} ({parts}pointwise {flops.pointwise:,})")
            for name, arrays in (("kept for training", use.kept), ("inference", use.inference)):
                if arrays:
                    parts = ", ".join(f"{k} {_size(v)}" for k, v in arrays.items())
                    lines.append(f"  {name}: {_size(sum(arrays.values()))} ({parts})")
        lines += ["", f"all layers: forward {self.forward_flops.total:,} operations, "]
        lines[-1] += f"backward {self.backward_flops.total:,}"
        if self.kept_bytes:
            each = self.kept_bytes / max(self.steps * self.rows, 1)
            lines[-1] += f"; kept {_size(self.kept_bytes)} ({each:,.0f} bytes a step of a sequence); "
            lines[-1] += f"inference {_size(self.inference_bytes)}"
        return "\n".join(lines)


def _size(count: float) -> str:
    """Bytes in the unit in which they read best."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


__all__ = ["Explanation", "KernelUse", "LayerUse"]
