"""Thin modules over the operators; only QCFS, the activation networks are trained with, has a gradient."""

from pcsnn.nn.fused import CountMaxPool2d, Rates, SpikingConv2d, SpikingLinear, SynapticConv2d
from pcsnn.nn.neuron import CollapsedNeuron, ParallelSpikingNeuron
from pcsnn.nn.qcfs import QCFS

__all__ = ["QCFS", "CollapsedNeuron", "CountMaxPool2d", "ParallelSpikingNeuron", "Rates", "SpikingConv2d", "SpikingLinear",
           "SynapticConv2d"]
