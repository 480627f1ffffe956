"""Formulas: a cell's own equations and its derived error recursions, as text, LaTeX and pictures."""

from throughtime.typeset.formulas import Formulas, Section, formulas

__all__ = ["Formulas", "Section", "formulas"]
