"""pcsnn.convert: from a trained network to a spiking one."""

from collections.abc import Iterable

import torch
from torch.utils.data import Dataset

from pcsnn.calibration import METHODS, Method, Task
from pcsnn.calibration.check import check_calibration
from pcsnn.calibration.places import Place, on_host
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.channels import Lost, has_channels, layout, mixed_by_max_pool, unequal
from pcsnn.conversion.check import Trial
from pcsnn.conversion.classify import classify
from pcsnn.conversion.context import in_own_context
from pcsnn.conversion.heads import without_heads
from pcsnn.conversion.replace import replace_activations
from pcsnn.conversion.tracing.trace import trace
from pcsnn.data.batches import LARGEST_CALIBRATION, Batches
from pcsnn.data.inputs import required_inputs
from pcsnn.distributed import collectives
from pcsnn.graph.fold import fold_batch_norms
from pcsnn.graph.places import bound, worth
from pcsnn.network.imported import ImportedNetwork
from pcsnn.network.network import SpikingNetwork
from pcsnn.network.report import Report
from pcsnn.tensors import checks


@in_own_context
def convert(
    model: torch.nn.Module,
    timesteps: int,
    *,
    calibration: Iterable | Dataset | None = None,
    method: str | Method = "auto",
    strict: bool = True,
    fold: bool | None = None,
    signed: bool = False,
    progress: bool = True,
    seed: int = 0,
    example_inputs: torch.Tensor | tuple | None = None,
    check: bool = True,
    spike_levels: int = 1,
) -> SpikingNetwork:
    """A spiking network from a trained one: a collapsed neuron at every ReLU, clipped ReLU and QCFS activation.

    Networks of SpikingJelly with soft-reset IF nodes are read too, thresholds kept (pcsnn.exchange.read_spikingjelly).
    What pcsnn.exchange.read_nir gave is copied at `timesteps` and `spike_levels`, without calibration.

    The result computes all T time-steps at once: between layers go firing rates, and every synaptic operation runs once
    (11). With QCFS activations and T D a multiple of their level count L it is lossless and needs no data (8), (10).

    Args:
        model: a trained network that torch.fx can trace; it is not changed. Options of its forward (arguments whose
            default is None, a flag or a string) keep their default.
        timesteps: T, 1..255.
        calibration: needed by all methods but "none". Inputs as the model takes them, of its dtype, the batch first:
            - a tensor [N, ...], a tuple (inputs [N, ...], labels [N]), or a dict of inputs by name, taken in batches of
              32;
            - an iterable of batches, e.g. a DataLoader, a list or a generator. A batch is a tensor; (input, label,
              ...); for a model with several inputs (input 1, input 2, ..., label) or ((input 1, input 2, ...), label);
              a dict with the inputs by name; or, for a model that reads the parts of one dict or list, that dict or
              list, or (that, label);
            - a torch.utils.data.Dataset of single items, taken in batches of 32.
            Labels and unread keys are ignored. A model that mixes the inputs of a batch, or runs on no other size of
            it, gets the batches uncut. "quick", "light" and "advanced" take the first 1,024 inputs and keep them in
            memory, whatever follows; the others stream, up to 4,194,304 inputs. An iterator that can be read once is
            kept in memory. Refused by name, before anything is computed: an image without a batch, another dtype,
            arrays, paths. With an initialised torch.distributed process group each process gives its own share,
            `pcsnn.distributed.shard(images)`, and the result, the same in all, is that of one process with all data.
            See docs/cluster.md.
        method: "none" (learned thresholds and bounds, no data), "max" (thresholds are recorded maxima), "paper"
            (recorded maxima, then the paper's calibration (17)), "quick" (least squares layer after layer (C1)-(C3)),
            "light" ("quick", then gradient steps on thresholds, shifts, levels and amplitudes (C4), (C5)), "advanced"
            (on weights too, fitted by least squares before (C6)), "auto" (16): "none" where every activation is a QCFS
            whose L divides T D, "light" else. Or a `pcsnn.calibration.Method`: METHODS there holds all by name, and
            METHODS["light"].with_options(steps=150) is one with other options. See docs/calibration.md.
        strict: raise for operations that can neither spike nor be exact on rates; False keeps them analog, applied to
            averages over time.
        fold: fold batch norms into the convolutions before them. None: only where the conversion is not lossless, since
            folding rounds anew, and unfolded the result is bit-equal to the source network.
        signed: let activations that go below zero, or fall before they rise, spike as well, with spikes of two signs
            (`pcsnn.nn.SignedNeuron`, (S1)-(S4)): those that docs/signed.md lists, and your own
            (`pcsnn.register_activation`); off, they are operations that cannot spike.
        progress: show progress bars on a terminal.
        seed: of what "light" and "advanced" draw at random, the order of the inputs.
        example_inputs: inputs to check the network on, a tensor [N, ...], of which the first 32 are taken, or a tuple
            of tensors; by default the first batch of `calibration`. Without either nothing is checked.
        check: run what was traced beside the model, before neurons take places, and raise where it computes something
            else up to rounding, naming the first layer that differs. It costs a copy of the model and two forward
            passes of one batch, three where batch norms are folded. False goes without. A SpikingJelly network of many
            steps a call is not checked.
        spike_levels: D, T D <= 255: a time-step sends an integer 0..D, of signed neurons -D..D (22). 1: binary spikes;
            2^n - 1: n of them a step, of weights 1, 2, 4, ...; integers are the spikes of I-LIF. The accuracy and,
            collapsed, the time are those of T D time-steps of binary spikes.

    It computes in a context of its own: autocast, inference mode, gradients, torch's default dtype and default device
    change no result, and the model, its mode and torch's random state are afterwards what they were. Half-precision
    networks are calibrated in float32.

    Returns:
        SpikingNetwork, in evaluation mode, on the model's device; its `report` names every layer.

    Raises:
        TypeError, ValueError: arguments of the wrong kind or range; a model that cannot be traced, has no activation
            that can spike, or (strict) has operations that cannot, or is another network once traced (see check); a
            method that needs data and has none; empty, NaN, infinite or endless data, or data that the model cannot run
            on; a model or arguments that differ between processes.

    Source: arXiv 2412.13610; the staircase levels for T = m L are this project's.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, SpikingNetwork) and not isinstance(model, ImportedNetwork):
        raise TypeError("model: is a SpikingNetwork already; pcsnn.set_timesteps changes its T")
    full = checks.full_count(timesteps, spike_levels)
    checks.integer("seed", seed, 0, 2**63 - 1)
    check_method(method)
    if isinstance(model, ImportedNetwork):
        return model.at(timesteps, spike_levels)
    tensors = [*model.parameters(), *model.buffers()]
    device = checks.device_of(*tensors)

    network = trace(model)
    canonicalise(network, signed)
    places = _places(network, strict)
    batches = None
    if calibration is not None:
        batches = Batches(calibration, required_inputs(network), device, most=LARGEST_CALIBRATION)
    first = None if batches is None else check_calibration(batches, network)
    lossless = all(place.lossless(full) for place in places)
    if method == "auto":
        method = "none" if lossless else "light"
    if isinstance(method, str):
        method = METHODS[method]
    if method.needs_data and batches is None:
        learned = [place.name for place in places if not place.lossless(full)]
        steps = f"T = {timesteps}" if spike_levels == 1 else f"T D = {full}"
        raise ValueError(
            f"calibration: expected data for method {method.name!r}, got None ({', '.join(learned[:3])}"
            f"{', ...' if len(learned) > 3 else ''} cannot be lossless at {steps})"
        )
    trial = _trial(model, network, first, example_inputs, device) if check else None
    if fold or (fold is None and (method.needs_data or not lossless)):
        fold_batch_norms(network)
        if trial is not None:
            trial.compare(network, folded=True)
    rows, _ = classify(network)
    if method.needs_data:
        collectives.agree("model", model, timesteps, spike_levels, method, strict, fold, signed, seed)
    with without_heads(network):
        settings = method.settings(Task(network, places, batches, full, progress, seed))
    if method.needs_data:  # processors differ in how they round: what process 0 found goes for all
        settings = collectives.from_first({name: on_host(chosen) for name, chosen in settings.items()})
        collectives.like_first(network)
    neurons = {place.name: settings[place.name].neuron(place, timesteps, spike_levels).to(device) for place in places}
    by_name = {row.name: row for row in rows if row.kind == "spiking"}
    for place in places:
        row = by_name[place.name]
        if method.needs_data:
            row.source += place.why_one(neurons[place.name])
        row.became = neurons[place.name].describe()
    _check_maxima(network, neurons, rows, method.name, strict)
    replace_activations(network, neurons)
    double = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None) == torch.float64
    calibrated_for = full if method.depends_on_timesteps else None
    snn = SpikingNetwork(network, Report(method.name, timesteps, rows, calibrated_for, spike_levels))
    return snn.double() if double else snn


def check_method(method):
    """ValueError for what `convert` does not take as method."""
    if not isinstance(method, Method) and (not isinstance(method, str) or method not in ("auto", *METHODS)):
        raise ValueError(f"method: expected one of auto, {', '.join(METHODS)}, got {method!r}")


def serves_every_timesteps(method):
    """Whether a network of this method is at every T what `convert` would make of it: "auto" chooses by T, and without
    data batch norms are folded by T."""
    if method == "auto":
        return False
    method = METHODS[method] if isinstance(method, str) else method
    return method.needs_data and not method.depends_on_timesteps


def _trial(model, network, first, example_inputs, device):
    """The outputs of the model on the first inputs there are, with which those of `network` agree; None without inputs.

    first: those of the calibration, or None.
    """
    name = "calibration"
    if example_inputs is not None:
        name = "example_inputs"
        given = example_inputs if isinstance(example_inputs, torch.Tensor) else [example_inputs]
        first = Batches(given, required_inputs(network), device, name=name).first()
    if first is None:
        return None
    trial = Trial(model, network, first, name)
    trial.compare(network)
    return trial


def _places(network, strict):
    """The activation places of a canonical network. ValueError where there is none or (strict) one cannot spike."""
    rows, problems = classify(network)
    if strict and problems:
        listed = "\n".join(f"  {row.name} ({row.location or 'unknown place'}): {row.source}" for row in problems)
        raise ValueError(f"model: {len(problems)} operation{'s' if len(problems) > 1 else ''} cannot spike:\n{listed}")
    modules = dict(network.named_modules())
    mixed = mixed_by_max_pool(network)
    uneven = [
        node.target for node in mixed if worth(modules[node.target]) is None and bound(modules[node.target]) is not None
    ]
    if uneven:
        raise ValueError(
            f"model: a max pool compares channels of {', '.join(uneven)} whose spikes are worth different values; "
            "expected one scale for all"
        )
    places = [_place(node, modules, mixed) for node in network.graph.nodes if node.meta.get("activation")]
    if not places:
        raise ValueError(
            "model: nothing was converted: it has no ReLU, clipped ReLU, QCFS or IF activation (signed=True takes "
            "others), only " + ", ".join(sorted({row.source for row in rows}) or ["operations without activation"])
        )
    return places


def _place(node, modules, mixed):
    place = Place(node.target, modules[node.target], node not in mixed and has_channels(node.args[0], modules))
    lost = layout(node.args[0], modules)
    if node in mixed:
        place.mixed = "a max pool compares its channels"
    elif isinstance(lost, Lost):
        place.mixed = f"{lost.node.name if lost.node else 'what comes before'} mixes its channels"
    return place


def _check_maxima(network, neurons, rows, method, strict):
    """Raise (strict), or call analog, where a maximum compares spikes that calibration made worth different values."""
    for pool, names in unequal(network, neurons):
        text = (
            f"{pool.name} compares spikes of several layers ({', '.join(names)}), worth different values after "
            f"method {method!r}"
        )
        if strict:
            raise ValueError(
                f"model: {pool.meta['location'] or pool.name}: {text}; method 'none' leaves them what they have"
            )
        row = next(row for row in rows if row.name == (pool.target if pool.op == "call_module" else pool.name))
        row.kind, row.source = "analog", text
