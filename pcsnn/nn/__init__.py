"""Thin modules over the operators.

QCFS and DAQCFS, with which networks are trained, and neurons of converted networks have a straight-through gradient.
"""

from pcsnn.nn import synapses
from pcsnn.nn.attention import SpikingAttention, TimeAverage
from pcsnn.nn.counts import CountMaxPool2d, CountSumPool2d, PixelCounts, Rates
from pcsnn.nn.daqcfs import DAQCFS
from pcsnn.nn.neuron import CollapsedNeuron
from pcsnn.nn.parallel import ParallelSpikingNeuron
from pcsnn.nn.qcfs import QCFS
from pcsnn.nn.scale import ChannelScale
from pcsnn.nn.signed import SignedNeuron
from pcsnn.nn.synapses import *  # noqa: F403 the layers of each kind of synapse

__all__ = [
    "DAQCFS",
    "QCFS",
    "ChannelScale",
    "CollapsedNeuron",
    "CountMaxPool2d",
    "CountSumPool2d",
    "ParallelSpikingNeuron",
    "PixelCounts",
    "Rates",
    "SignedNeuron",
    "SpikingAttention",
    "TimeAverage",
]
__all__ += synapses.__all__
