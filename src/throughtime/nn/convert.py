"""`convert`: the recurrent layers of torch.nn inside a model become this package's, or the other way round."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from throughtime import cells
from throughtime.nn import dropins, steps
from throughtime.nn.libraries import DTYPES
from throughtime.nn.precision import NARROW
from throughtime.nn.recurrent import Recurrent
from throughtime.symbolic.language import Cell
from throughtime.symbolic.options import Variant

LAYERS = ("RNN", "GRU", "LSTM")
STEPS = ("RNNCell", "GRUCell", "LSTMCell")
NO_NUMBER = ("training", "derived", "options", "recompute", "backend")
"""Attributes of a layer that say nothing about its numbers, or nothing that `cell` does not say."""
OURS = {name: getattr(dropins, name) for name in LAYERS} | {name: getattr(steps, name) for name in STEPS}


class ConversionWarning(UserWarning):
    """`convert` left a recurrent layer as it was, or found none."""


@dataclass(frozen=True)
class Converted:
    """One layer of the model: `names` are its dotted paths (more than one where it is shared; "" is the model itself),
    `layer` its text, `result` the class that took its place or, where nothing did, why not."""

    names: tuple[str, ...]
    layer: str
    result: str


@dataclass(frozen=True)
class Conversion:
    """What `convert` did: the `model`, the layers `replaced` and those `kept`, as a table in print."""

    model: nn.Module
    replaced: tuple[Converted, ...]
    kept: tuple[Converted, ...]

    def __str__(self) -> str:
        rows = [(", ".join(n or "(the model)" for n in c.names), c.layer, f"-> {c.result}") for c in self.replaced]
        rows += [(", ".join(n or "(the model)" for n in c.names), c.layer, f"kept: {c.result}") for c in self.kept]
        widths = [max((len(r[k]) for r in rows), default=0) for k in (0, 1)]
        lines = [f"{len(self.replaced)} replaced, {len(self.kept)} kept"]
        lines += [f"  {a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows]
        return "\n".join(lines)


def convert(model: nn.Module, *, to: Literal["throughtime", "torch"] = "throughtime", report: bool = False) -> Any:
    """Replaces every torch.nn.RNN, GRU, LSTM and every RNNCell, GRUCell, LSTMCell inside `model`, in place.

    The new layers hold the same Parameter objects, so that an optimizer made before goes on working; training mode,
    hooks, parametrizations, requires_grad, further attributes and shared instances stay as they were. Only layers that
    are registered as modules are found (one in a plain Python list is not).

    Args:
        model: any module; if it is such a layer itself, use what is returned.
        to: "torch" replaces this package's layers by torch.nn's, where torch.nn has the equation and every option
            (`recompute` and `backend` change no number and are dropped).
        report: returns a `Conversion` (`.model`, `.replaced`, `.kept`; print it) instead of the model.

    Returns:
        The model, or the `Conversion`.

    Warns:
        ConversionWarning: without `report`, when layers were kept as they were, with the reasons, or none was found.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert expects a torch.nn.Module, got {type(model).__name__}")
    if to not in ("throughtime", "torch"):
        raise ValueError(f'to should be "throughtime" or "torch", got {to!r}')
    is_meant, reason, twin = (
        (_is_of_torch, _why_not_ours, _ours_like) if to == "throughtime" else (_is_ours, _why_not_torchs, _torchs_like)
    )
    names: dict[int, list[str]] = {}
    found: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if is_meant(module):
            names.setdefault(id(module), []).append(name)
            found[id(module)] = module
    new: dict[int, nn.Module] = {}
    replaced: list[Converted] = []
    kept: list[Converted] = []
    for key, module in found.items():
        why = reason(module)
        if why is None:
            new[key] = _in_place_of(module, twin)
        after = why if why is not None else _class_name(new[key])
        (kept if why is not None else replaced).append(Converted(tuple(names[key]), _text(module), after))
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    result = Conversion(new.get(id(model), model), tuple(replaced), tuple(kept))
    if report:
        return result
    if kept or not replaced:
        what = str(result) if kept else f"found no recurrent layer to convert to {to} in {type(model).__name__}"
        warnings.warn(f"convert: {what}", ConversionWarning, stacklevel=2)
    return result.model


def _type(module: nn.Module) -> type[nn.Module]:
    """The class, without the one that parametrizations put before it."""
    return parametrize.type_before_parametrizations(module)


def _class_name(module: nn.Module) -> str:
    kind = _type(module)
    home = kind.__module__.split(".")[0]
    return f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else f"{home}.{kind.__name__}"


def _text(module: nn.Module) -> str:
    return f"{_class_name(module)}({module.extra_repr()})"


# ---- what is meant, and what stands against it


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, Recurrent)


def _is_of_torch(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in (*LAYERS, *STEPS)
    if type(module).__module__.startswith("torch.ao.nn.quant"):
        # The cells inside a quantisable LSTM are a part of it.
        return type(module).__name__ in (LAYERS if "quantizable" in type(module).__module__ else (*LAYERS, *STEPS))
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and not type(module).__module__.startswith("throughtime.")


def _why_not_ours(module: nn.Module) -> str | None:
    """Why a layer of torch's cannot be replaced, or None."""
    kind = _type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "it was compiled by torch.jit: convert the model before"
    if kind.__module__.startswith("torch.ao.nn.quant"):
        return "it is quantised: convert the model before"
    if kind not in (getattr(nn, name) for name in (*LAYERS, *STEPS)):
        return "it is a class of its own, whose methods would be lost: write its equation as a throughtime.Cell"
    return _why_not_replaceable(module, _torchs_fresh(module)) or _why_not_compiled(module)


def _why_not_compiled(module: nn.Module) -> str | None:
    weight = next(module.parameters())
    if weight.device.type != "cpu":
        return f"it is on {weight.device}, and only on the CPU have compiled kernels been compared with torch.nn's"
    if weight.dtype not in (*DTYPES, *NARROW):
        return f"its weights are {weight.dtype}, and compiled kernels work on floating-point numbers"
    return None


def _why_not_replaceable(module: nn.Module, fresh: nn.Module) -> str | None:
    """What a layer carries that a new one could not take over."""
    if "forward" in vars(module):
        return "its forward was replaced on this instance"
    own, known = {*module._parameters, *_parametrizations(module)}, set(fresh._parameters)
    further = {*module._buffers, *module._modules} - {"parametrizations", *fresh._buffers, *fresh._modules}
    if own != known or further:
        odd = sorted((own ^ known) | further)
        return (
            f"its weights are computed from others, as by weight_norm or pruning ({', '.join(odd)}): remove that first"
        )
    for name, usual in fresh.named_parameters():
        shape = tuple(getattr(module, name).shape)
        if shape != tuple(usual.shape):
            return f"its {name} has the shape {shape} instead of {tuple(usual.shape)}"
    return None


def _why_not_torchs(module: nn.Module) -> str | None:
    """Why torch.nn has no layer that can take the module's place, or None."""
    assert isinstance(module, Recurrent)
    if _type(module) not in (Recurrent, steps.RecurrentCell, *OURS.values()):
        return "it is a class of its own, whose methods would be lost"
    twin = torch_twin(module)
    return twin if isinstance(twin, str) else _why_not_replaceable(module, _ours_like(twin, "meta"))


def torch_twin(module: Recurrent) -> nn.Module | str:
    """torch.nn's layer that computes the same from the same weights, on the meta device; or why there is none."""
    name = kind_of(module)
    cell = _without_options(module)
    if type(cell) not in (cells.Elman, cells.GRU, cells.LSTM):
        return f"torch.nn has no {name}"
    if cell is not module.cell:
        return f"torch.nn.{name} has no {', '.join(module.options.given())}"
    if not module.uniform:
        return f"torch.nn.{name} has no hidden_size={module.hidden_size!r}"
    twin = _torchs_like(module, "meta").train(module.training)
    usual = _ours_like(twin, "meta")
    for key, value in vars(usual).items():
        own = getattr(module, key, value)
        if not key.startswith("_") and key not in NO_NUMBER and own != value:
            if key == "cell":  # frozen data: name the field that differs
                key, own = next((k, v) for k, v in vars(own).items() if v != getattr(value, k))
            return f"torch.nn.{name} has no {key}={own!r}"
    return twin


# ---- the twins


def kind_of(module: nn.Module) -> str:
    """The name that torch.nn has for a layer."""
    if isinstance(module, Recurrent):
        cell = _without_options(module)
        name = {cells.Elman: "RNN", cells.GRU: "GRU", cells.LSTM: "LSTM"}.get(type(cell), cell.name)
        return name + "Cell" if isinstance(module, steps.RecurrentCell) else name
    return _type(module).__name__


def _without_options(module: Recurrent) -> Cell:
    return module.cell.cell if isinstance(module.cell, Variant) else module.cell


def _parametrizations(module: nn.Module) -> dict[str, nn.Module]:
    """By the name of the weight that each computes."""
    return dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}  # type: ignore[union-attr, operator]


def _sizes(module: Any) -> dict[str, Any]:
    """The arguments that torch.nn's constructor and ours share."""
    options = {k: getattr(module, k) for k in ("input_size", "hidden_size", "bias")}
    name = kind_of(module)
    if name in ("RNN", "RNNCell"):
        cell = getattr(module, "cell", None)
        options["nonlinearity"] = module.nonlinearity if cell is None else cell.activation
    if name in LAYERS:
        options |= {k: getattr(module, k) for k in ("num_layers", "batch_first", "dropout", "bidirectional")}
    projection = module.cell.projection if isinstance(module, Recurrent) and name == "LSTM" else 0
    if proj_size := projection or getattr(module, "proj_size", 0):
        options["proj_size"] = proj_size
    return options


def _made(kind: Callable[..., nn.Module], options: dict[str, Any], device: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its maker was told when the first layer was made
        return kind(**options, device=device)


def _torchs_fresh(module: nn.Module) -> nn.Module:
    return _made(_type(module), _sizes(module), "meta")


def _ours_like(module: nn.Module, device: Any) -> nn.Module:
    return _made(OURS[kind_of(module)], _sizes(module), device)


def _torchs_like(module: nn.Module, device: Any) -> nn.Module:
    options = _sizes(module)
    if options.get("nonlinearity", "tanh") not in ("tanh", "relu"):
        options["nonlinearity"] = "tanh"  # the difference is found when the layers are compared
    return _made(getattr(nn, kind_of(module)), options, device)


def _in_place_of(module: nn.Module, twin: Callable[[nn.Module, Any], nn.Module]) -> nn.Module:
    """A new layer with everything that was the old one's: parameters, mode, hooks, further attributes."""
    new = twin(module, "meta")  # draws no random numbers, and its parameters take no memory
    usual = _torchs_fresh(module) if twin is _ours_like else _ours_like(new, "meta")
    for name, parameter in module._parameters.items():
        setattr(new, name, parameter)
    for name, parametrization in _parametrizations(module).items():
        parametrize.register_parametrization(new, name, nn.Identity())  # a place to put the old one
        new.parametrizations._modules[name] = parametrization  # type: ignore[union-attr]
    new.training = module.training
    for key in vars(nn.Module()).keys() - {"training", "_parameters", "_buffers", "_modules"}:
        value = vars(module)[key]
        if isinstance(value, dict):
            value.update(vars(new)[key])
        vars(new)[key] = value  # the same dict: whoever holds a hook's handle can still remove it
    hooks: Iterable[Any] = new._load_state_dict_pre_hooks.values()
    for hook in hooks:
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    for key in vars(module).keys() - vars(usual).keys():
        vars(new)[key] = vars(module)[key]
    return new


__all__ = ["Conversion", "ConversionWarning", "Converted", "convert"]
