"""Triton kernels for CUDA and ROCm: one launch an operation, equal to `pcsnn.reference` bit for bit.

The launchers take the arguments of the operator schemas in `pcsnn.ops`, already checked.
"""

import triton

from pcsnn.kernels.common import INTERPRETED
from pcsnn.kernels.expansion import expand_spikes
from pcsnn.kernels.mean_current import fire_counts, fire_rates, fire_rates_
from pcsnn.kernels.spike_trains import fire_spikes

VERSION = triton.__version__

__all__ = ["INTERPRETED", "VERSION", "expand_spikes", "fire_counts", "fire_rates", "fire_rates_", "fire_spikes"]
