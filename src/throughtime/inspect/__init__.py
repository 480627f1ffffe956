"""How error flows through a model: numbers first, pictures second."""

from throughtime.inspect.contributions import StepGradients
from throughtime.inspect.flow import Reach, flow, reach
from throughtime.inspect.jacobians import Jacobians
from throughtime.inspect.results import Flow, LayerFlow
from throughtime.inspect.statistics import GateStatistics, Histogram, Spectrum

__all__ = [
    "Flow",
    "GateStatistics",
    "Histogram",
    "Jacobians",
    "LayerFlow",
    "Reach",
    "Spectrum",
    "StepGradients",
    "flow",
    "reach",
]
