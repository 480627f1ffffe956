"""From a cell's equation to the programs of its forward and backward pass."""

from throughtime.symbolic.stored import load_cell, save_cell

__all__ = ["load_cell", "save_cell"]
