"""What each competitor's result is compared with before its time counts."""

import collections
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pcsnn
from pcsnn.baselines.packed_network import PackedNeuron
from pcsnn.tensors.arithmetic import per_channel

ROUNDING = 1e-3  # relative difference of outputs that differ in the order of float32 sums only
TIES = 1e-4  # share of neurons whose current may lie so close to a level that such rounding decides its count
FUSED = ("pcsnn::conv2d_fire", "pcsnn::linear_fire")


@dataclass
class Verdict:
    """Whether a result is what it must be (None: there is none), and a few words on it for the table."""

    right: bool | None
    words: str


def scores(output):
    """The tensor of an output, or the "out" of one with several."""
    return output["out"] if isinstance(output, dict) else output


def difference(output, expected):
    """|output - expected| / |expected| in the 2-norm; infinite where shapes differ or output is not finite."""
    if output.shape != expected.shape or not output.isfinite().all():
        return float("inf")
    if not output.is_floating_point():
        output, expected = output.double(), expected.double()
    return ((output - expected).norm() / expected.norm()).item()


def agreement(output, expected):
    """How many images, or pixels, get the same class, in words."""
    same = output.argmax(1) == expected.argmax(1)
    return f"same class on {same.sum().item()} of {same.numel()}"


def close(output, expected, what):
    """The output must be `expected` up to rounding."""
    apart = difference(output, expected)
    return Verdict(apart <= ROUNDING, f"{apart:.0e} from {what}")


def same_bits(output, expected, what):
    """The output must be `expected`, bit for bit."""
    if torch.equal(output, expected):
        return Verdict(True, f"bit-equal to {what}")
    return Verdict(False, f"{difference(output, expected):.0e} from {what}, must be bit-equal")


def as_reference(network, images):
    """Each output of a spiking network must be what the plain torch reference gives, bit for bit."""
    with pcsnn.use_backend("reference"):
        expected = tree_leaves(network(images))
    found = tree_leaves(network(images))
    verdicts = [same_bits(one, other, "the reference") for one, other in zip(found, expected, strict=True)]
    return next((verdict for verdict in verdicts if not verdict.right), verdicts[0])


def layer_counts(snn, images):
    """{layer: counts}, and the output, of a converted network."""
    with pcsnn.record(snn) as recorded:
        output = snn(images)
    return recorded.counts, output


def same_counts(network, snn, images):
    """Every layer must fire what that of `snn` does, bit for bit."""
    counts, output = layer_counts(network, images)
    expected, other = layer_counts(snn, images)
    wrong = sum((counts[name] != expected[name]).sum().item() for name in expected)
    return Verdict(
        counts.keys() == expected.keys() and wrong == 0 and difference(output, other) <= ROUNDING,
        f"{wrong} of {sum(part.numel() for part in expected.values())} counts differ from the network unfused",
    )


class _Calls(TorchDispatchMode):
    """Counts the operators that a network calls, by name."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names[function.name()] += 1
        return function(*args, **(kwargs or {}))


def operators(network, images):
    """How many operators the spiking layers of an optimised network are, in words."""
    with _Calls() as calls:
        network(images)
    fused = sum(count for name, count in calls.names.items() if name in FUSED)
    search = sum(count for name, count in calls.names.items() if name.startswith("pcsnn::fire"))
    return f"{len(list(network.neurons()))} spiking layers are {fused} fused operators and {search} searches alone"


def packed_layer_by_layer(packed, snn, images):
    """Every layer of the packed form, fed what the collapsed form's layers fire, must fire the same counts, up to ties.

    Fed its own spikes, one neuron decided otherwise by rounding moves currents behind it past levels of their own; in
    a deep network outputs of the two forms then differ by as much as quantization itself does. So each layer's spikes
    are counted, compared, and replaced by those of the collapsed form.
    """
    counts, expected = layer_counts(snn, images)
    steps, wrong, neurons = snn.timesteps, 0, 0

    def compare(name):
        def hook(neuron, arguments, output):
            nonlocal wrong, neurons
            worth = per_channel(neuron.amplitude.to(output.dtype), output.dim())
            spikes = torch.where(worth == 0, 0, output / worth).round()
            fired = spikes.unflatten(0, (steps, -1)).sum(0)
            wrong += (fired != counts[name]).sum().item()
            neurons += fired.numel()
            return pcsnn.functional.expand_spikes(
                counts[name], steps, dtype=output.dtype, amplitude=neuron.amplitude, spike_levels=snn.spike_levels
            ).flatten(0, 1)

        return hook

    hooks = [
        module.register_forward_hook(compare(name))
        for name, module in packed.network.named_modules()
        if isinstance(module, PackedNeuron)
    ]
    if len(hooks) != len(counts):
        return Verdict(False, f"{len(hooks)} packed layers, {len(counts)} in pcsnn")
    output = packed(images)
    for hook in hooks:
        hook.remove()
    apart = difference(output, expected)
    return Verdict(
        wrong <= TIES * neurons and apart <= ROUNDING,
        f"{wrong} of {neurons} counts differ layer by layer, outputs {apart:.0e}",
    )


def serial_first_layer(serial, snn, images):
    """The first layer of serial IF, whose current is constant, must fire as evenly spaced levels say (6), up to ties.

    Later layers see uneven currents and need not; nor do pcsnn's levels for T = m L, which are QCFS's own (10).
    """
    name, neuron = next(snn.neurons())
    layer = serial.network.get_submodule(name)
    table = pcsnn.functional.levels(neuron.threshold, snn.timesteps, offset=neuron.offset).to(images.device)
    fired, due = 0, None

    def note_due(neuron, arguments):
        nonlocal due
        due = pcsnn.functional.fire_counts(arguments[0], table)

    def count(layer, arguments, output):
        nonlocal fired
        fired = fired + (output != 0)

    hooks = [neuron.register_forward_pre_hook(note_due), layer.register_forward_hook(count)]
    expected, output = scores(snn(images)), scores(serial(images))
    for hook in hooks:
        hook.remove()
    wrong = (fired != due).sum().item()
    return Verdict(
        wrong <= TIES * due.numel() and bool(output.isfinite().all()),
        f"{agreement(output, expected)} as pcsnn; {wrong} of {due.numel()} counts wrong in the first layer",
    )
