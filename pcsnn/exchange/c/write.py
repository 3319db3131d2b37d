"""Optimised networks of small size as C."""

import copy
import os
import pathlib
from typing import NamedTuple

import torch
from torch import fx

from pcsnn.exchange.c import library
from pcsnn.exchange.c.steps import Steps, Value
from pcsnn.exchange.c.text import identifier
from pcsnn.graph.nodes import shapes
from pcsnn.network.network import SpikingNetwork, check_converted
from pcsnn.tensors import checks

_HEAD = """\
/* A spiking network, T = {timesteps}, spikes of 0..{several}, written by pcsnn.
   C99; no other file, no library, no allocation.

   void {prefix}_run(const float *input, float *output);

   input: {input_text}; output: {output_text}. Up to the last neurons all sums are of integers: every compiler and
   machine gives the same counts.
   Buffers are static: one run at a time. {constants} bytes of constants, {buffers} bytes of buffers.

   Compiled with -DPCSNN_COUNTS it calls, after each layer of neurons, a function that you write:
   void {prefix}_counts(int layer, const unsigned char *counts, int size);  counts lie [H][W][C]. */

#include <stddef.h>
#include <stdint.h>

#ifdef PCSNN_COUNTS
void {prefix}_counts(int layer, const unsigned char *counts, int size);
#endif
void {prefix}_run(const float *input, float *output);

"""


class CodeSize(NamedTuple):
    """Bytes of a written network: weights and tables, which may lie in read-only memory, and buffers."""

    constants: int
    buffers: int


def to_c(snn: SpikingNetwork, path: str | os.PathLike[str], example: torch.Tensor) -> CodeSize:
    """Write an int8 network as one C99 file with its weights: no other files, no libraries, no allocation.

    `void NAME_run(const float *input, float *output)`, NAME that of the file, takes one input `[C][H][W]` and gives the
    average over time of the output. Counts are those of `snn` in every layer, since all sums are integers; the image is
    read in 256 steps by float32 arithmetic that C has too. The file says the rest in its first lines.

    Args:
        snn: of `pcsnn.optimize(snn, "int8", example_inputs=images, first_last=True)`, with one input, images, and one
            output; it is not changed.
        path: of the file to write, NAME.c; one that is there is replaced when all has gone well.
        example: an input [N, C, H, W], whose size the code is made for.

    Returns:
        CodeSize(constants, buffers), in bytes.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; an example that does not fit; a layer that is not of integers or
            has no form here (attention, signed neurons, float weights), which the message names.
    """
    check_converted(snn)
    checks.tensor("example", example, (torch.float32,), 4)
    network = copy.deepcopy(snn.network).cpu()
    if sum(node.op == "placeholder" for node in network.graph.nodes) != 1:
        raise ValueError("snn: expected a network of one input for C")
    try:
        found = shapes(network, example[:1].cpu())
    except Exception as error:  # whatever the network does
        raise ValueError(f"example: the network does not run on {tuple(example.shape)}: {error}") from error
    prefix = identifier(pathlib.Path(path).stem)
    last = _last(network)
    steps, values = Steps(prefix, last), {}
    for node in network.graph.nodes:
        if node.op != "output":
            values[node] = steps.visit(node, network, values, found.get(node, ())[1:])
    if values[last].block is not None or last.op == "placeholder":
        raise ValueError(f"snn: {last.name} gives the output; expected rates or values for C")
    size = CodeSize(steps.bytes, steps.counts.place() + 4 * (steps.currents.place() + steps.floats.place()))
    content = _file(snn, steps, tuple(example.shape[1:]), values[last].shape, size)
    pathlib.Path(path).write_text(content, encoding="ascii")
    return size


def _last(network):
    """The node that makes the output, behind which only flattening and the like may stand."""
    modules = dict(network.named_modules())
    (node,) = (node.args[0] for node in network.graph.nodes if node.op == "output")
    if not isinstance(node, fx.Node):
        raise ValueError("snn: expected one output tensor for C, got a structure of several")
    while Steps.passes(node, modules):
        node = node.args[0]
    return node


def _file(snn, steps, shape, outputs, size):
    used = {function for function, _ in steps.calls}
    head = _HEAD.format(
        timesteps=snn.timesteps,
        several=snn.spike_levels,
        prefix=steps.prefix,
        input_text="".join(f"[{length}]" for length in shape),
        output_text="".join(f"[{length}]" for length in outputs),
        constants=size.constants,
        buffers=size.buffers,
    )
    parts = [head]
    if used & {"fire", "current", "values"}:
        parts.append(library.SYNAPSE)
    if "pool" in used:
        parts.append(library.POOL)
    parts += [text for name, text in library.FUNCTIONS.items() if name in used]
    parts += steps.constants
    for block in (steps.counts, steps.currents, steps.floats):
        if block.buffers:
            parts.append(f"static {block.kind} {block.name}[{block.place()}];\n")
    lines, layer = [], 0
    for function, arguments in steps.calls:
        if function == "COUNTED":
            name, value = arguments
            total = value.shape[0] * value.shape[1] * value.shape[2]
            lines += [
                f"#ifdef PCSNN_COUNTS /* {_comment(name)} */",
                f"    {steps.prefix}_counts({layer}, {_text(value, False)}, {total});",
                "#endif",
            ]
            layer += 1
        else:
            last = len(arguments) - 1
            words = [_text(value, place == last) for place, value in enumerate(arguments)]
            lines.append(f"    {function}({', '.join(words)});")
    body = "\n".join(lines)
    return "\n".join(parts) + f"\nvoid {steps.prefix}_run(const float *input, float *output)\n{{\n{body}\n}}\n"


def _comment(name):
    return name.encode("ascii", "replace").decode().replace("*/", "* /").replace("\n", " ")


def _text(value, last):
    """An argument of a call; what has no buffer is the output behind all others, and the input elsewhere."""
    if not isinstance(value, Value):
        return str(value)
    if value.block is None:
        return "output" if last else "input"
    return f"{value.block.name} + {value.buffer.offset}"
