"""Pictures of what `inspect.flow` measures, and of any numbers over time. matplotlib is loaded when needed."""

from throughtime.inspect.pictures.errors import draw_flow, draw_saliency
from throughtime.inspect.pictures.series import draw_heat, draw_lines
from throughtime.inspect.pictures.style import picture
from throughtime.inspect.pictures.units import draw_gates, draw_spectrum, draw_states, draw_surprise, draw_weights

__all__ = [
    "draw_flow",
    "draw_gates",
    "draw_heat",
    "draw_lines",
    "draw_saliency",
    "draw_spectrum",
    "draw_states",
    "draw_surprise",
    "draw_weights",
    "picture",
]
