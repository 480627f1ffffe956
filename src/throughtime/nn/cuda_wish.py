"""What the environment variable THROUGHTIME_CUDA asks for."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

VARIABLE = "THROUGHTIME_CUDA"
EXCHANGES = {"block": "Alone", "cluster": "Cluster", "grid": "Grid", "product": "Product"}
OTHERS = ("model", "timed", "cudnn")
PRODUCTS = {"float": "", "bfloat16": "BFloat16", "float16": "Float16", "tfloat32": "TFloat32"}


@dataclass(frozen=True)
class Wish:
    """What `THROUGHTIME_CUDA` asks for: "block", "cluster:4", "grid:16", "product", "model" (what it estimates to be
    fastest), "timed" (the fastest of the few best by its estimate and of torch.nn's layer, measured at the first call
    of each shape) or "cudnn" (torch.nn's layer, see `cuda_twin.py`); after a comma how products are made: "float",
    "bfloat16", "float16" or "tfloat32"."""

    scheme: str = "block"
    members: int = 1
    product: str = "float"

    @staticmethod
    def of(text: str) -> Wish:
        """Raises ValueError for what is none."""
        scheme, _, product = text.partition(",")
        name, _, number = scheme.strip().partition(":")
        product = product.strip() or "float"
        counted = name in ("cluster", "grid")
        good = name in (*EXCHANGES, *OTHERS) and product in PRODUCTS and bool(number) == counted
        good = good and (name != "cudnn" or product == "float")
        if not good or (counted and not (number.isdigit() and int(number) > 1)):
            raise ValueError(
                f'{VARIABLE} is "{text}", but must be "block", "cluster:4", "grid:16" (or another number of blocks '
                f'above 1), "product", "model" or "timed", and after a comma one of {", ".join(PRODUCTS)}; or "cudnn"'
            )
        return Wish(name, int(number) if counted else 1, product)


def wish() -> Wish:
    return _read(os.environ.get(VARIABLE) or "block")


@functools.cache
def _read(text: str) -> Wish:
    return Wish.of(text)
