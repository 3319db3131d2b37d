"""How thresholds, shifts and amplitudes are chosen. A method is a function
(network, places, batches, timesteps, progress) -> {place name: Settings}; a new one is a file here and a line in METHODS."""

from pcsnn.convert.methods.paper import paper
from pcsnn.convert.methods.record import from_bounds, recorded_maxima

METHODS = {"none": from_bounds, "max": recorded_maxima, "paper": paper}
NEEDS_DATA = {"max", "paper"}
DEPENDS_ON_TIMESTEPS = {"paper"}

__all__ = ["DEPENDS_ON_TIMESTEPS", "METHODS", "NEEDS_DATA"]
