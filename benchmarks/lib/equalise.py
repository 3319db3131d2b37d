"""The same PReLU network with channels of one range, so that one amplitude for a layer serves each of them.

PReLU is homogeneous: what scales a channel before it and is taken back in the weights behind changes no output up to
rounding. A signed neuron has one amplitude for its layer, and channels of a small range would get few of its levels.
Source: "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), here by ranges of data.
"""

import copy

import torch
from torch import nn

SHARE = 0.999  # of a channel's values that lie within its range
LEAST = 1e-3  # of the layer's range, for channels that hardly move
SAMPLES = 20_000  # values of a channel that its range is taken of


def _ranges(values):
    """[C]: the range that SHARE of the absolute values of each channel of [N, C, ...] keep to."""
    flat = torch.cat([part.transpose(0, 1).flatten(1) for part in values], 1).abs()
    flat = flat[:, :: -(-flat.shape[1] // SAMPLES)]
    found = flat.quantile(SHARE, 1)
    return found.clamp(min=LEAST * found.max())


def _outputs(network, layer, batches):
    """What a layer returns for each batch."""
    values = []
    handle = layer.register_forward_hook(lambda module, inputs, output: values.append(output))
    for batch in batches:
        network(batch)
    handle.remove()
    return values


@torch.no_grad()
def equalised(network, batches):
    """A copy of a `lib.mtcnn.Stage` whose PReLUs each have channels of one range on the batches."""
    network = copy.deepcopy(network)
    for synapse, activation, readers in network.places():
        ranges = _ranges(_outputs(network, activation, batches))
        scale = ranges.max() / ranges
        synapse.weight.mul_(scale.reshape(-1, *[1] * (synapse.weight.dim() - 1)))
        synapse.bias.mul_(scale)
        for reader in readers:
            if isinstance(reader, nn.Linear):  # channels are last in what it reads
                reader.weight.div_(scale.repeat(reader.in_features // len(scale)))
            else:
                reader.weight.div_(scale.reshape(1, -1, 1, 1))
    return network
