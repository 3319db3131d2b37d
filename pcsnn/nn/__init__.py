"""Thin modules over the operators; only QCFS, the activation networks are trained with, has a gradient."""

from pcsnn.nn.neuron import CollapsedNeuron, ParallelSpikingNeuron
from pcsnn.nn.qcfs import QCFS

__all__ = ["QCFS", "CollapsedNeuron", "ParallelSpikingNeuron"]
