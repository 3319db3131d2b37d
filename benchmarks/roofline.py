"""A model, not a measurement: the least time of a network's layers on large GPUs, from bytes and operations.

    python benchmarks/roofline.py                                  # ResNet-34, 224x224, batch 8
    python benchmarks/roofline.py --model vgg16_bn --batch 1 --layers

Every launch takes the longer of what its bytes take at the memory's published bandwidth and its operations at the
published peak; every operand is read once. Nothing reaches that, and small layers stay far from it: compare the
columns, not a clock. Fused: one launch a layer reads counts, one byte each, and writes counts. Unfused: the synapse
writes currents, which the neurons read to write rates (counts, with int8 weights). Neither depends on T. A layer that
reads an image or currents has bfloat16 weights where others have int8.
"""

import argparse
import json
import operator
from typing import NamedTuple

import torch
from torch.fx.passes.shape_prop import ShapeProp

from pcsnn import models
from pcsnn.kernels.synapses import DIRECT_BELOW


class Machine(NamedTuple):
    """Published peaks: bytes a second, and operations a second by bytes of a weight; a multiply-add is two."""

    bandwidth: float
    operations: dict
    source: str


MACHINES = {
    "A100": Machine(2.039e12, {1: 624e12, 2: 312e12, 4: 19.5e12}, "NVIDIA A100 datasheet, 80 GB SXM, dense"),
    "H100": Machine(
        3.35e12, {1: 1979e12, 2: 989.5e12, 4: 67e12}, "NVIDIA H100 datasheet, SXM, half of the sparse figures"
    ),
    "MI300X": Machine(5.3e12, {1: 2614.9e12, 2: 1307.4e12, 4: 163.4e12}, "AMD Instinct MI300X datasheet, dense"),
}
WEIGHTS = {"int8": (1, 4), "bfloat16": (2, 2), "float32": (4, 4)}  # bytes of a weight, and of a current
MODELS = [name for name in models.__all__ if not name.startswith("cifar") and not name.endswith("small")]


class Layer(NamedTuple):
    """Numbers of elements, and of multiply-adds."""

    name: str
    inputs: int
    weights: int
    outputs: int
    products: int
    direct: bool  # groups of too few channels for tensor cores
    valued: bool  # its input is an image or currents, not counts
    fires: bool  # neurons follow; else it writes currents
    residual: str  # of the sum behind it: "none", "counts", "current"


def layers(network, shape):
    """The synapses of an fx-traceable network, each with what stands behind it, for images of `shape`.

    Of the synapses of one sum, the last to run takes the others' currents as its residual.
    """
    graph = torch.fx.symbolic_trace(network.eval())
    ShapeProp(graph.to("meta")).propagate(torch.empty(shape, device="meta"))
    modules = dict(graph.named_modules())

    def is_a(node, *kinds):
        return node.op == "call_module" and isinstance(modules[node.target], kinds)

    def is_synapse(node):
        return is_a(node, torch.nn.Conv2d, torch.nn.Linear)

    def is_sum(node):
        return node.target in (operator.add, operator.iadd, torch.add)

    def carries_counts(node):
        """Whether neurons, and not an image or a synapse, are what a node comes from, past pooling and the like."""
        if is_a(node, torch.nn.ReLU, torch.nn.ReLU6):
            return True
        return node.op != "placeholder" and not is_synapse(node) and carries_counts(node.args[0])

    def activates(nodes):
        return all(is_a(node, torch.nn.ReLU, torch.nn.ReLU6) for node in nodes)

    def behind(node):
        """What uses a current, past batch norm."""
        users = list(node.users)
        return behind(users[0]) if is_a(users[0], torch.nn.BatchNorm2d, torch.nn.Identity) else users

    synapses = [node for node in graph.graph.nodes if is_synapse(node)]
    last = {
        user: node for node in synapses for user in behind(node) if is_sum(user)
    }  # the last synapse before each sum
    found = []
    for node in synapses:
        synapse, result, residual, users = modules[node.target], node.meta["tensor_meta"].shape, "none", behind(node)
        fires = activates(users)
        if last.get(users[0]) is node:
            residual = "counts" if any(map(carries_counts, users[0].args)) else "current"
            fires = activates(users[0].users)
        groups = getattr(synapse, "groups", 1)
        found.append(
            Layer(
                node.target,
                node.args[0].meta["tensor_meta"].shape.numel(),
                synapse.weight.numel(),
                result.numel(),
                result.numel() * synapse.weight[0].numel(),
                groups > 1 and synapse.weight.shape[1] < DIRECT_BELOW,
                not carries_counts(node.args[0]),
                fires,
                residual,
            )
        )
    return found


def launches(layer, weights, fused):
    """(bytes, operations) of each launch of a layer."""
    counts_bytes = 1 if fused or weights == "int8" else WEIGHTS[weights][1]
    weight_bytes, current_bytes = WEIGHTS[_dtype(layer, weights)]
    read = layer.inputs * (current_bytes if layer.valued else counts_bytes) + layer.weights * weight_bytes
    residual = layer.outputs * {"none": 0, "counts": counts_bytes, "current": current_bytes}[layer.residual]
    written = layer.outputs * (counts_bytes if layer.fires else current_bytes)
    operations = 2 * layer.products
    if fused or not layer.fires and layer.residual == "none":
        return [(read + residual + written, operations)]
    return [(read + layer.outputs * current_bytes, operations), (layer.outputs * current_bytes + residual + written, 0)]


def _dtype(layer, weights):
    """int8 weights multiply counts: a layer that reads values has bfloat16 ones."""
    return "bfloat16" if layer.valued and weights == "int8" else weights


def seconds(layer, weights, fused, machine):
    peak = machine.operations[4 if layer.direct else WEIGHTS[_dtype(layer, weights)][0]]
    return sum(
        max(moved / machine.bandwidth, operations / peak) for moved, operations in launches(layer, weights, fused)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet34")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--layers", action="store_true", help="a row for each layer, too")
    parser.add_argument("--json", help="also write the rows to this file")
    arguments = parser.parse_args()
    with torch.device("meta"):
        network = getattr(models, arguments.model)()
    found = layers(network, (arguments.batch, 3, arguments.size, arguments.size))
    rows = []
    for name, machine in MACHINES.items():
        for weights in WEIGHTS:
            times = [[seconds(layer, weights, fused, machine) * 1e6 for fused in (True, False)] for layer in found]
            moved = [
                sum(m for layer in found for m, _ in launches(layer, weights, fused)) / 1e6 for fused in (True, False)
            ]
            count = [sum(len(launches(layer, weights, fused)) for layer in found) for fused in (True, False)]
            total = [sum(column) for column in zip(*times)]
            rows.append(
                dict(
                    machine=name,
                    weights=weights,
                    microseconds=total,
                    megabytes=moved,
                    launches=count,
                    layers={layer.name: pair for layer, pair in zip(found, times)},
                )
            )
    print(
        f"MODELLED, not measured: {arguments.model}, {arguments.size}x{arguments.size}, batch {arguments.batch}; "
        "each pair is fused / unfused"
    )
    print(f"{'':7} {'weights':9} {'microseconds':>19} {'ratio':>6} {'MB':>17} {'launches':>10}")
    for row in rows:
        (fused, unfused), (bytes_fused, bytes_unfused), (one, two) = (
            row["microseconds"],
            row["megabytes"],
            row["launches"],
        )
        print(
            f"{row['machine']:7} {row['weights']:9} {fused:8.1f} / {unfused:8.1f} {unfused / fused:6.2f} "
            f"{bytes_fused:7.1f} / {bytes_unfused:7.1f} {one:4} / {two:3}"
        )
        if arguments.layers:
            for layer, (fused, unfused) in row["layers"].items():
                print(f"  {layer:30} {fused:8.2f} / {unfused:8.2f} {unfused / fused:6.2f}")
    print("\n".join(f"{name}: {machine.source}" for name, machine in MACHINES.items()))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(
                dict(
                    modelled=True,
                    model=arguments.model,
                    batch=arguments.batch,
                    size=arguments.size,
                    sources={name: machine.source for name, machine in MACHINES.items()},
                    rows=rows,
                ),
                file,
                indent=1,
            )


if __name__ == "__main__":
    main()
