"""pcsnn.optimize: converted networks with fused layers."""

import copy

import torch

from pcsnn.convert.canonicalise import fold_batch_norms
from pcsnn.convert.network import SpikingNetwork, check_unfused, describe
from pcsnn.fusion.fuse import CountFuser, RateFuser

WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def optimize(snn, weights="float32"):
    """The same network with each synapse and the neurons behind it as one layer, for inference.

    Args:
        snn: a SpikingNetwork; it is not changed.
        weights: "float32": layers pass on rates, and every count stays what it is in channels-last layout. "bfloat16": counts
            between layers; weights and currents are rounded to bfloat16. "int8": counts between layers, int8 weights with a
            scale for each output channel (of least squared error), sums exact in int32, so that every machine gets the same
            counts from the same first layer; layers that read values (the first), depthwise ones and the last synapse keep
            float32 weights. The last two fold batch norms into convolutions.

    Returns:
        SpikingNetwork, whose report says for every layer what it became; save, load, record, set_timesteps take it.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, one that is optimised already or double precision, or unknown weights.
    """
    check_unfused(snn)
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    dtypes = {value.dtype for value in snn.parameters()} - {torch.float32}
    if dtypes:
        raise ValueError(f"snn: expected float32 weights, got {', '.join(map(str, dtypes))}")
    network = copy.deepcopy(snn.network)
    if weights == "float32":
        fuser = RateFuser(network)
    else:
        fold_batch_norms(network)
        fuser = CountFuser(network, WEIGHTS[weights])
    fuser.run()
    optimised = SpikingNetwork(network, copy.deepcopy(snn.report))
    neurons = dict(optimised.neurons())
    for row in optimised.report.rows:
        if row.name in fuser.fused:
            source = row.detail.partition(":")[0]
            row.detail = f"{source}, {fuser.fused[row.name]}"
            if row.name in neurons:
                row.detail += f": {describe(neurons[row.name], snn.timesteps)}"
    return optimised
