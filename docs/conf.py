"""Sphinx configuration: `make docs` builds the site into build/docs, and every warning is an error.

Nothing is fetched while building or while reading: formulas are MathML, fonts are the reader's own.
"""

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]
# One page after the other is run in this process; threads that wait asleep leave the other cores alone.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

project = "throughtime"
author = "The throughtime authors"
copyright = author
version = release = importlib.metadata.version("throughtime")
extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("mathml", "docstrings", "generated", "formulas", "executed"),
]
exclude_patterns = ["_ext"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
executed_pages = ["tutorial/*/*", "how-it-works", "add-a-cell"]
suppress_warnings = ["misc.highlighting_failure"]  # the kernels' text is C++ with the equation's own Greek letters

default_role = "code"  # docstrings write `name` for code
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "throughtime"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
