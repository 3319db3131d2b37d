"""What a converted network is compared with: the same weights as serial IF, and as the paper's T steps in the batch."""

from pcsnn.baselines.packed_network import PackedNetwork, packed
from pcsnn.baselines.serial_network import SerialNetwork, serial

__all__ = ["PackedNetwork", "SerialNetwork", "packed", "serial"]
