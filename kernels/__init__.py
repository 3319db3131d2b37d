"""Triton kernels for CUDA and ROCm: one launch an operation, equal to `pcsnn.reference` bit for bit.

The launchers take the arguments of the operator schemas in `pcsnn.operators.dispatch`, already checked.
"""

import triton

from pcsnn.kernels.attention import spiking_attention
from pcsnn.kernels.common import INTERPRETED
from pcsnn.kernels.pooling import max_pool2d, sum_pool2d
from pcsnn.kernels.rates import fire_counts, fire_rates, fire_rates_
from pcsnn.kernels.spikes import expand_spikes, fire_spikes
from pcsnn.kernels.synapses import conv2d_fire, linear_fire

VERSION = triton.__version__

__all__ = [
    "INTERPRETED",
    "VERSION",
    "conv2d_fire",
    "expand_spikes",
    "fire_counts",
    "fire_rates",
    "fire_rates_",
    "fire_spikes",
    "linear_fire",
    "max_pool2d",
    "spiking_attention",
    "sum_pool2d",
]
