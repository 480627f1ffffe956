"""Texts as loaded libraries: those of kernels, and the one of the products that all kernels share."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from throughtime import runtime
from throughtime.codegen.source import products_source, skeletons

DTYPES = {torch.float32: "float32", torch.float64: "float64"}

MAIN = "kernel.cpp"


def _files(text: str) -> dict[str, str]:
    return {**skeletons(text), MAIN: text}


def library(text: str, name: str, *flags: str) -> ctypes.CDLL:
    """The library made from this text; `flags`: further ones for the compiler."""
    return runtime.load(runtime.build(name, _files(text), MAIN, flags).path)


def in_cache(text: str, name: str) -> Path | None:
    """The library made from this text, if the cache has it; compiles nothing."""
    return runtime.find(name, _files(text), MAIN)


def _entry(made: ctypes.CDLL) -> Callable[[int], int]:
    function = made.tt_run
    function.argtypes = [ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function


@cache
def compiled(text: str, name: str) -> Callable[[int], int]:
    """The entry point of the library made from this text, a function of the address of its numbers."""
    return _entry(library(text, name))


@cache
def _products(dtype: str) -> ctypes.CDLL:
    """The library of products for "float32" or "float64": it takes longer to compile than a kernel, but only once."""
    # Its loops are unrolled by hand: -O3 takes twice as long and makes nothing faster.
    return library(products_source(dtype), "products", "-O2")


@cache
def products_entry(dtype: str) -> Callable[[int], int]:
    """The entry point of the products of whole matrices."""
    return _entry(_products(dtype))


def has_matrix_units(dtype: str) -> bool:
    """Whether products of this dtype are made by matrix units: the processor has them, the compiler knows them, the
    system allows them and THROUGHTIME_MATRIX_UNITS does not leave them out."""
    return bool(_products(dtype).tt_matrix_units())


@cache
def routines(dtype: str) -> int:
    """The address of the routines that every kernel of this dtype is made with."""
    function = _products(dtype).tt_routines
    function.restype = ctypes.c_void_p
    return int(function())
