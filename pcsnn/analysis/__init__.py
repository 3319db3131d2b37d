"""Looking into converted networks."""

from pcsnn.analysis.costs.count import count_operations
from pcsnn.analysis.costs.neurobench import NeuroBenchMetrics, neurobench_metrics
from pcsnn.analysis.costs.plot import plot_operations
from pcsnn.analysis.costs.results import EXECUTIONS, Count, Energy, LayerOperations, Operations
from pcsnn.analysis.quality.errors import LayerError, LayerErrors, layer_errors
from pcsnn.analysis.quality.evaluation import Evaluation, evaluate
from pcsnn.analysis.quality.sweeps import Sweep, SweepRow, sweep
from pcsnn.analysis.spikes.rasters import plot_histograms, plot_raster, plot_rate_maps, plot_rates
from pcsnn.analysis.spikes.recording import Recording, record
from pcsnn.analysis.spikes.shuffled import ShuffleCheck, ShuffledLayer, check_shuffle
from pcsnn.analysis.spikes.summary import LayerSpikes
from pcsnn.analysis.spikes.trains import pack_spikes, random_order, unpack_spikes

__all__ = [
    "EXECUTIONS",
    "Count",
    "Energy",
    "Evaluation",
    "LayerError",
    "LayerErrors",
    "LayerOperations",
    "LayerSpikes",
    "NeuroBenchMetrics",
    "Operations",
    "Recording",
    "ShuffleCheck",
    "ShuffledLayer",
    "Sweep",
    "SweepRow",
    "check_shuffle",
    "count_operations",
    "evaluate",
    "layer_errors",
    "neurobench_metrics",
    "pack_spikes",
    "plot_histograms",
    "plot_operations",
    "plot_raster",
    "plot_rate_maps",
    "plot_rates",
    "random_order",
    "record",
    "sweep",
    "unpack_spikes",
]
