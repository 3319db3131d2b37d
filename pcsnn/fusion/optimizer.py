"""pcsnn.optimize: converted networks with fused layers."""

import copy
from typing import Any

import torch

from pcsnn.conversion.tracing.hooks import refuse_hooks
from pcsnn.fusion.counts import CountFuser
from pcsnn.fusion.fuse import RateFuser
from pcsnn.graph.fold import fold_batch_norms
from pcsnn.graph.nodes import shapes
from pcsnn.network.network import MOST_GRAPHS, SpikingNetwork, check_unfused
from pcsnn.tensors import checks

GRAPHS = 8  # of graph=True
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def _sizes(network, inputs):
    """{node name: (H, W) of the images [N, C, H, W] that go into it}."""
    found = shapes(network, *inputs) if inputs else {}
    sources = {
        node.name: found.get(node.all_input_nodes[0], ()) for node in network.graph.nodes if node.all_input_nodes
    }
    return {name: shape[2:] for name, shape in sources.items() if len(shape) == 4}


def _ranges(network, inputs):
    """By input [N, C, H, W]: the least value of each channel and the range above it; both reach to 0, the padding."""
    names = [node.name for node in network.graph.nodes if node.op == "placeholder"]
    ranges = {}
    for name, value in zip(names, inputs):
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            low, high = value.amin((0, 2, 3)).clamp(max=0), value.amax((0, 2, 3)).clamp(min=0)
            ranges[name] = low, (high - low).where(high > low, 1.0)
    return ranges


def optimize(
    snn: SpikingNetwork,
    weights: str = "float32",
    *,
    example_inputs: torch.Tensor | tuple[Any, ...] | None = None,
    first_last: bool = False,
    graph: bool | int = False,
) -> SpikingNetwork:
    """The same network with each synapse and the neurons behind it as one layer, for inference.

    Args:
        snn: a SpikingNetwork; it is not changed.
        weights: "float32": layers pass on rates, and every count stays what it is in channels-last layout. "bfloat16":
            counts between layers; weights and currents are rounded to bfloat16. "int8": counts between layers, int8
            weights with a scale for each output channel (of least squared error), sums exact in int32, so that every
            machine gets the same counts from the same first layer; layers that read values (the first), the last
            synapse, and depthwise ones whose levels are not evenly spaced keep float32 weights. The last two fold batch
            norms into convolutions.
        example_inputs: a batch of the network's inputs, a tensor or a tuple, finite, on any device. Adaptive average
            pooling of images of their size then acts on counts; the optimised network refuses images of another size
            there.
        first_last: for "int8", whether the first layer and the last synapse have int8 weights too. The first one reads
            its input in 256 steps over the range that each channel has in `example_inputs`, which are needed then.
        graph: whether the network replays a CUDA graph for each kind of input: shapes, strides, dtypes and device of
            tensors, values of other arguments. True: up to 8 kinds; a number, 0..1024: so many, the least recently used
            graph goes first. It is the attribute `max_graphs`, which may be set at any time.

    With `graph`, a call with inputs of a new kind runs the network twice to warm up, captures, and replays; later ones
    copy their inputs to where the graph reads, replay, and return copies of its outputs, which are the caller's own.
    Memory: each graph holds its inputs and outputs, and all together hold the results of layers of the largest one;
    `graph_bytes` says how much that is, `drop_graphs()` frees it.

    Graphs are a matter of CUDA (and ROCm) devices: on the CPU calls run as without. So do calls that others watch or
    change: inside `pcsnn.record` or with hooks on modules, under torch.compile, torch.export, autocast, `use_backend`,
    torch.func transforms and modes for tensor functions, inside a capture of the caller's own; and calls with tensor
    subclasses, sparse or empty tensors, tensors on several devices, arguments other than tensors, numbers, texts and
    None, or inputs that require a gradient.

    Changes of tensors, modules and T, `load_state_dict` and `.to()` drop all graphs. Threads may share the network; its
    replays follow one another. `save` and `copy.deepcopy` keep `max_graphs`, and no graph.

    Returns:
        SpikingNetwork on the device of `snn`, whose report says for every layer what it became; save, load, record,
        set_timesteps take it.

    Raises:
        TypeError, ValueError: not a SpikingNetwork, one that is optimised already or double precision, unknown weights,
            example inputs that are missing or not finite, or a number of graphs out of range.
        RuntimeError, TypeError: at a call with `graph`, a network that waits for its device, or whose outputs are no
            tensors and constants in tuples, lists and dicts.
    """
    check_unfused(snn)
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    if first_last and (weights != "int8" or example_inputs is None):
        raise ValueError(
            "first_last: expected with weights='int8' and example_inputs, got "
            f"weights={weights!r}{'' if example_inputs is not None else ', example_inputs=None'}"
        )
    graph = GRAPHS * graph if isinstance(graph, bool) else graph
    checks.integer("graph", graph, 0, MOST_GRAPHS)
    dtypes = {value.dtype for value in snn.parameters()} - {torch.float32}
    if dtypes:
        raise ValueError(f"snn: expected float32 weights, got {', '.join(map(str, dtypes))}")
    inputs = example_inputs if example_inputs is not None else ()
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    for value in inputs:
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise ValueError("example_inputs: expected finite values, got NaN or infinity")
    device = checks.device_of(*snn.parameters(), *snn.buffers())
    inputs = tuple(value.to(device) if isinstance(value, torch.Tensor) else value for value in inputs)
    refuse_hooks(snn.network, "snn")
    network = copy.deepcopy(snn.network)
    if weights == "float32":
        fuser: RateFuser | CountFuser = RateFuser(network)
    else:
        fold_batch_norms(network)
        ranges = _ranges(network, inputs) if first_last else None
        fuser = CountFuser(network, snn.timesteps, WEIGHTS[weights], _sizes(network, inputs), ranges, first_last)
    fuser.run()
    optimised = SpikingNetwork(network, copy.deepcopy(snn.report))
    neurons = dict(optimised.neurons())
    for row in optimised.report.rows:
        if row.name in fuser.fused:
            row.source += f", {fuser.fused[row.name]}"
            if row.name in neurons:
                row.became = neurons[row.name].describe()
    optimised.max_graphs = graph
    optimised.normalisation = snn.normalisation
    return optimised
