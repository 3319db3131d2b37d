"""Activations written out in several operations, and other ways to write what the converter knows."""

from pcsnn.graph.forms.norms import norms_before_pools, norms_to_modules
from pcsnn.graph.forms.pools import known_pools
from pcsnn.graph.forms.recognition import recognise

__all__ = ["known_forms", "norms_before_pools"]


def known_forms(network, signed):
    """Write what `network` computes with the modules and functions that the later passes know. Changes `network`."""
    known_pools(network)
    norms_to_modules(network)
    recognise(network, signed)
