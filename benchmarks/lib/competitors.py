"""The forms of one network that throughput.py compares, on the same weights and images."""

import contextlib
import copy
import functools
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch

import pcsnn
from lib import checks, workloads
from pcsnn import baselines


class Unavailable(Exception):
    """Why a competitor cannot run here; shown in its place."""


@dataclass(frozen=True)
class Form:
    """One competitor.

    build: (Workload, SpikingNetwork) -> a function or module from images to outputs. check: (that, Workload,
    SpikingNetwork) -> checks.Verdict; it also warms up. every_step: its work grows with T. timesteps: it depends on T.
    warms: its first call compiles, or packs weights.
    """

    label: str
    build: Callable
    check: Callable
    every_step: bool = False
    timesteps: bool = True
    warms: bool = False


def _relu(load, snn):
    return load.relu_network()


def _relu_check(network, load, snn):
    if load.quantized:
        network(load.images)
        return checks.Verdict(True, "timed only: trained with QCFS, not ReLU")
    return checks.close(network(load.images), load.network(load.images), "the network before folding")


def _compiled(module):
    return torch.compile(module, fullgraph=True, dynamic=False)


def _relu_compiled(load, snn):
    return _compiled(load.relu_network())


def _relu_compiled_check(network, load, snn):
    return checks.close(network(load.images), load.relu_network()(load.images), "eager")


def _qcfs(load, snn):
    if not load.quantized:
        raise Unavailable("not trained with QCFS")
    return load.network


def _qcfs_check(network, load, snn):
    return checks.Verdict(bool(network(load.images).isfinite().all()), "the source")


def _collapsed(load, snn):
    return snn


def _collapsed_check(network, load, snn):
    output = network(load.images)
    with pcsnn.use_backend("reference"):
        expected = snn(load.images)
    verdict = checks.same_bits(output, expected, "the reference")
    source = load.network(load.images)
    verdict.words += f"; {checks.difference(output, source):.2f} from the network, {checks.agreement(output, source)}"
    return verdict


def _collapsed_compiled(load, snn):
    return _compiled(copy.deepcopy(snn.network))  # with code of its own: not a recompilation of the one before


def _collapsed_compiled_check(network, load, snn):
    return checks.close(network(load.images), snn(load.images), "eager")


def _optimised(load, snn, weights, first_last=False):
    return pcsnn.optimize(snn, weights, example_inputs=load.images, first_last=first_last)


def _float32_check(network, load, snn):
    verdict = checks.same_counts(network, snn, load.images)
    verdict.words += f"; {checks.operators(network, load.images)}"
    return verdict


def _counts_check(network, load, snn):
    """Bit-equal to the reference on one image; how far it is from the network with float weights is said."""
    image = load.images[:1]
    verdict = checks.as_reference(network, image)
    verdict.words += (
        f"; {checks.agreement(network(load.images), snn(load.images))} as float weights; "
        f"{checks.operators(network, image)}"
    )
    return verdict


def _serial(load, snn):
    return baselines.serial(snn)


def _serial_check(network, load, snn):
    return checks.serial_first_layer(network, snn, load.images)


def _packed(load, snn):
    return baselines.packed(snn)


def _packed_check(network, load, snn):
    return checks.packed_layer_by_layer(network, snn, load.images)


def _spikingjelly(load, snn, step_mode):
    """SpikingJelly's own converter (rate coding, thresholds per channel from the same images) and IFNode."""
    try:
        from spikingjelly.activation_based import ann2snn, functional
    except ImportError as error:
        raise Unavailable(f"{error} (pip install --no-deps spikingjelly==2.0.0; pip install loguru requests)") from None
    recipe = ann2snn.RateCodingRecipe(dataloader=[load.calibration], mode="Max", channel_wise=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars and log
            network = ann2snn.Converter(recipe=recipe).convert(workloads.relu_form(load.network))
    except Exception as error:  # whatever its converter says is shown
        raise Unavailable(f"its converter refuses: {error}") from None
    functional.set_step_mode(network, step_mode)
    network = workloads.in_layout(network.eval())
    steps = snn.timesteps

    def step_by_step(images):
        functional.reset_net(network)
        total = network(images)
        for _ in range(steps - 1):
            total = total + network(images)
        return total / steps

    def all_steps(images):
        functional.reset_net(network)
        return network(images.expand(steps, *images.shape)).mean(0)

    return {"s": step_by_step, "m": all_steps}[step_mode]


def _spikingjelly_check(network, load, snn):
    output = network(load.images)
    return checks.Verdict(
        bool(output.isfinite().all()),
        f"{checks.agreement(output, snn(load.images))} as pcsnn; its own thresholds, no half shift",
    )


def spikingjelly_version():
    """The installed version, or None."""
    try:
        return importlib.metadata.version("spikingjelly")
    except importlib.metadata.PackageNotFoundError:
        return None


FORMS = {
    "relu": Form("ReLU network", _relu, _relu_check, timesteps=False),
    "relu-compiled": Form(
        "ReLU network, torch.compile", _relu_compiled, _relu_compiled_check, timesteps=False, warms=True
    ),
    "qcfs": Form("QCFS network as trained", _qcfs, _qcfs_check, timesteps=False),
    "serial": Form("serial IF", _serial, _serial_check, every_step=True),
    "packed": Form("packed, the paper's form", _packed, _packed_check, every_step=True),
    "pcsnn": Form("pcsnn, collapsed", _collapsed, _collapsed_check),
    "pcsnn-compiled": Form("pcsnn, torch.compile", _collapsed_compiled, _collapsed_compiled_check, warms=True),
    "float32": Form("pcsnn.optimize, float32", functools.partial(_optimised, weights="float32"), _float32_check),
    "bfloat16": Form(
        "pcsnn.optimize, bfloat16", functools.partial(_optimised, weights="bfloat16"), _counts_check, warms=True
    ),
    "int8": Form("pcsnn.optimize, int8", functools.partial(_optimised, weights="int8"), _counts_check, warms=True),
    "int8-all": Form(
        "pcsnn.optimize, int8, first and last too",
        functools.partial(_optimised, weights="int8", first_last=True),
        _counts_check,
        warms=True,
    ),
    "spikingjelly": Form(
        "SpikingJelly, single-step",
        functools.partial(_spikingjelly, step_mode="s"),
        _spikingjelly_check,
        every_step=True,
    ),
    "spikingjelly-multi": Form(
        "SpikingJelly, multi-step",
        functools.partial(_spikingjelly, step_mode="m"),
        _spikingjelly_check,
        every_step=True,
    ),
}
