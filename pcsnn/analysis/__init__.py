"""Looking into converted networks."""

from pcsnn.analysis.costs import EXECUTIONS, Count, Energy, LayerOperations, Operations
from pcsnn.analysis.layer_errors import LayerError, LayerErrors, layer_errors
from pcsnn.analysis.operations import count_operations
from pcsnn.analysis.operations_plot import plot_operations
from pcsnn.analysis.rasters import plot_histograms, plot_raster, plot_rate_maps, plot_rates
from pcsnn.analysis.record import Recording, record
from pcsnn.analysis.shuffle import ShuffleCheck, ShuffledLayer, check_shuffle
from pcsnn.analysis.spike_summary import LayerSpikes
from pcsnn.analysis.sweep import Sweep, SweepRow, sweep
from pcsnn.analysis.trains import pack_spikes, random_order, unpack_spikes

__all__ = [
    "EXECUTIONS", "Count", "Energy", "LayerError", "LayerErrors", "LayerOperations", "LayerSpikes", "Operations", "Recording",
    "ShuffleCheck", "ShuffledLayer", "Sweep", "SweepRow", "check_shuffle", "count_operations", "layer_errors", "pack_spikes",
    "plot_histograms", "plot_operations", "plot_raster", "plot_rate_maps", "plot_rates", "random_order", "record", "sweep",
    "unpack_spikes",
]
