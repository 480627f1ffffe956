"""Cells as torch modules: one operation, layers, drop-ins, first values."""
