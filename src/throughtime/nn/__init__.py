"""Cells as torch modules: one operation, layers, drop-ins, first values.

Importing this package registers the operator that exported programs call.
"""

from throughtime.nn import registered as registered
