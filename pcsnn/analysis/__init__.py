"""Looking into converted networks."""

from pcsnn.analysis.evaluate import Evaluation, evaluate
from pcsnn.analysis.layer_errors import LayerError, LayerErrors, layer_errors
from pcsnn.analysis.record import Recording, record
from pcsnn.analysis.sweep import Sweep, SweepRow, sweep

__all__ = ["Evaluation", "LayerError", "LayerErrors", "Recording", "Sweep", "SweepRow", "evaluate", "layer_errors", "record",
           "sweep"]
