"""Looking into converted networks."""

from pcsnn.analysis.costs import EXECUTIONS, Count, Energy, LayerOperations, Operations
from pcsnn.analysis.layer_errors import LayerError, LayerErrors, layer_errors
from pcsnn.analysis.operations import count_operations
from pcsnn.analysis.operations_plot import plot_operations
from pcsnn.analysis.record import Recording, record
from pcsnn.analysis.sweep import Sweep, SweepRow, sweep

__all__ = [
    "EXECUTIONS", "Count", "Energy", "LayerError", "LayerErrors", "LayerOperations", "Operations", "Recording", "Sweep", "SweepRow",
    "count_operations", "layer_errors", "plot_operations", "record", "sweep",
]
