"""One conversion or evaluation by several processes, on one machine or many, through torch.distributed.

Every process runs the same program on its own share of the data. Where a process group is initialised, `pcsnn.convert`,
`pcsnn.analysis.sweep` and `pcsnn.analysis.evaluate` add up what all processes found, and return the same to each. See
docs/cluster.md.
"""

from pcsnn.distributed.processes import TIMEOUT, alone, group, rank, shard, size

__all__ = ["TIMEOUT", "alone", "group", "rank", "shard", "size"]
