"""What a converted network is compared with: the same weights as serial IF, and as the paper's T steps in the batch."""

from pcsnn.baselines.packed import PackedNetwork, packed
from pcsnn.baselines.serial import SerialNetwork, serial

__all__ = ["PackedNetwork", "SerialNetwork", "packed", "serial"]
