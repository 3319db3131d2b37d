"""The operations: sorted spikes and spike counts of parallel neurons, all T time-steps at once.

Math: numbers in brackets are those of docs/mathematics.md. Source: "Faster and Stronger: When ANN-SNN Conversion Meets
Parallel Spiking Calculation" (ICML 2025, arXiv 2412.13610), Eq. 8 and its sorting property.

On every device the result equals `pcsnn.reference` bit for bit. Nothing here has a gradient.
"""

from pcsnn.levels.even import levels
from pcsnn.levels.integer import whole_levels
from pcsnn.levels.signed import signed_levels
from pcsnn.operators.attention import spiking_attention
from pcsnn.operators.pooling import max_pool2d, sum_pool2d
from pcsnn.operators.rates import fire_counts, fire_rates
from pcsnn.operators.spikes import expand_spikes, fire_spikes
from pcsnn.operators.synapses import conv2d_fire, linear_fire

__all__ = [
    "conv2d_fire",
    "expand_spikes",
    "fire_counts",
    "fire_rates",
    "fire_spikes",
    "levels",
    "linear_fire",
    "max_pool2d",
    "signed_levels",
    "spiking_attention",
    "sum_pool2d",
    "whole_levels",
]
