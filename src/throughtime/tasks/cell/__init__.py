"""Commands about one cell: its formulas and the text of its kernels."""
