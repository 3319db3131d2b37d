"""How thresholds, shifts and amplitudes are chosen. A method is a function
(network, places, batches, timesteps, progress, seed) -> {place name: Settings} that may also change the network's weights; a
new one is a file here and a line in METHODS."""

from pcsnn.calibration.layerwise import advanced, light, quick
from pcsnn.calibration.maxima import from_bounds, recorded_maxima
from pcsnn.calibration.moving_average import paper

METHODS = {
    "none": from_bounds,
    "max": recorded_maxima,
    "paper": paper,
    "quick": quick,
    "light": light,
    "advanced": advanced,
}
NEEDS_DATA = set(METHODS) - {"none"}
DEPENDS_ON_TIMESTEPS = set(METHODS) - {"none", "max"}

__all__ = ["DEPENDS_ON_TIMESTEPS", "METHODS", "NEEDS_DATA"]
