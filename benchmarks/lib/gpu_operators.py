"""Operators of gpu.py: shares of a copy of the same bytes, and what a call costs."""

import copy

import torch

import pcsnn
from lib import checks, timing
from lib.competitors import Unavailable
from lib.gpu_rows import OTHER, OURS, Prepared, Row, all_right, copy_of, faster, reference, same_in_parts
from lib.gpu_setting import TIMESTEPS
from pcsnn import functional

NEURONS, CHANNELS, SIDE, FEW = 2**27, 64, 32, 4096
PARTS = 32  # in which the reference computes
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SPIKES = {"uint8": torch.uint8, "bool": torch.bool, **FLOATS, "float64": torch.float64}
CHAIN = 16


def _shape(setting):
    side = setting.small(SIDE, 2)
    return setting.small(NEURONS // (CHANNELS * SIDE * SIDE), 2), CHANNELS, side, side


def _current(setting, dtype, channels_last):
    current = (0.7 * setting.randn(*_shape(setting))).to(dtype)
    return current.contiguous(memory_format=torch.channels_last) if channels_last else current


def _levels(setting, per_channel=True, timesteps=TIMESTEPS, uneven=False):
    """Even or bent levels of thresholds 0.5..1.5, or of one threshold 1."""
    generator = torch.Generator().manual_seed(1)
    theta = torch.rand(CHANNELS, generator=generator) + 0.5 if per_channel else 1.0
    bend = torch.rand(timesteps, generator=generator) / timesteps if uneven else None
    return functional.levels(theta, timesteps, bend=bend).to(setting.device)


def _scale(setting):
    return (torch.rand(CHANNELS, generator=torch.Generator().manual_seed(2)) + 0.5).to(setting.device)


def _beside_copy(call, verdict, moved, setting):
    def bandwidth(seconds):
        return f"{moved / timing.median(seconds[OURS]) / 1e9:.0f} GB/s"

    return Prepared(verdict, {OURS: call, OTHER: copy_of(moved, setting)}, faster, bandwidth)


def _counts(setting, dtype, channels_last, **levels):
    current, table = _current(setting, dtype, channels_last), _levels(setting, **levels)

    def call():
        return functional.fire_counts(current, table)

    verdict = same_in_parts(call(), lambda part: reference(functional.fire_counts, current[part], table), PARTS)
    return _beside_copy(call, verdict, current.nbytes + current.numel(), setting)


def _rates(setting, dtype, residual):
    """residual: None, "uint8" or the dtype of the current."""
    current, table, scale = _current(setting, dtype, True), _levels(setting), _scale(setting)
    branch = worth = None
    if residual == "uint8":
        branch, worth = setting.integers(0, TIMESTEPS + 1, *current.shape), scale / TIMESTEPS
    elif residual is not None:
        branch = setting.randn(*current.shape, dtype=dtype).flip(0)  # not the current itself
    if branch is not None:
        branch = branch.contiguous(memory_format=torch.channels_last)

    def call():
        return functional.fire_rates(current, table, scale, branch, worth)

    def expected(part):
        own = None if branch is None else branch[part]
        return reference(functional.fire_rates, current[part], table, scale, own, worth)

    moved = 2 * current.nbytes + (0 if branch is None else branch.nbytes)
    return _beside_copy(call, same_in_parts(call(), expected, PARTS), moved, setting)


def _trains(setting, dtype):
    return (0.7 * setting.randn(TIMESTEPS, setting.small(NEURONS // TIMESTEPS // 1024, 2), 1024)).to(dtype)


def _spikes(setting, dtype, out):
    current, table = _trains(setting, dtype), _levels(setting, per_channel=False)

    def call():
        return functional.fire_spikes(current, table, out)

    def expected(part):
        return reference(functional.fire_spikes, current[:, part], table, out)

    verdict = same_in_parts(call(), expected, PARTS, dim=1)
    return _beside_copy(call, verdict, current.nbytes + current.numel() * out.itemsize, setting)


def _expansion(setting, out):
    counts = setting.integers(0, TIMESTEPS + 1, setting.small(NEURONS // TIMESTEPS // 1024, 2), 1024)

    def call():
        return functional.expand_spikes(counts, TIMESTEPS, dtype=out)

    def expected(part):
        return reference(functional.expand_spikes, counts[part], TIMESTEPS, dtype=out)

    verdict = same_in_parts(call(), expected, PARTS, dim=1)
    return _beside_copy(call, verdict, counts.numel() * (1 + TIMESTEPS * out.itemsize), setting)


def _spikingjelly(setting):
    try:
        from spikingjelly.activation_based import functional as spikingjelly
        from spikingjelly.activation_based import neuron
    except ImportError as error:
        raise Unavailable(f"SpikingJelly is not installed: {error}") from None
    node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m").to(setting.device).eval()
    shape = TIMESTEPS, setting.small(NEURONS // TIMESTEPS, 1024)
    current = setting.integers(-512, 2048, *shape, dtype=torch.int32) / 1024  # sums are exact
    table = _levels(setting, per_channel=False)

    def multi_step():
        spikingjelly.reset_net(node)
        return node(current)

    def call():
        return functional.fire_spikes(current, table, torch.float32)

    due, potential = [], torch.zeros_like(current[0])
    for step in current:
        potential = potential + step
        due.append((potential >= 1.0).float())
        potential = potential - due[-1]

    def expected(part):
        return reference(functional.fire_spikes, current[:, part], table, torch.float32)

    theirs = checks.same_bits(multi_step(), torch.stack(due), "serial IF")
    verdict = all_right(
        same_in_parts(call(), expected, PARTS, dim=1), checks.Verdict(theirs.right, f"IFNode {theirs.words}")
    )
    return Prepared(verdict, {OURS: call, OTHER: multi_step}, faster)


def _call(setting, name):
    """One operator on few neurons, beside torch.relu."""
    current, table, scale = setting.randn(FEW), _levels(setting, per_channel=False), _scale(setting)[0]
    trains = setting.randn(TIMESTEPS, FEW)
    calls = {
        "torch.relu": lambda: torch.relu(current),
        "fire_counts": lambda: functional.fire_counts(current, table),
        "fire_rates": lambda: functional.fire_rates(current, table, scale),
        "fire_spikes": lambda: functional.fire_spikes(trains, table),
    }
    expected = current.clamp(min=0) if name == "torch.relu" else reference(calls[name])
    verdict = checks.same_bits(calls[name](), expected, "clamp" if name == "torch.relu" else "the reference")
    chosen = {OURS: calls[name]} if name == "torch.relu" else {OURS: calls[name], "torch.relu": calls["torch.relu"]}
    return Prepared(verdict, chosen, _microseconds, _relu_beside, burst=True)


def _microseconds(seconds):
    return timing.median(seconds[OURS]) * 1e6


def _relu_beside(seconds):
    return f"torch.relu {timing.median(seconds['torch.relu']) * 1e6:.1f} us" if "torch.relu" in seconds else ""


def _layer(setting):
    """3x3 convolutions with int8 weights on 4,096 neurons each, called one after the other: the time of one."""
    torch.manual_seed(0)
    layers = [
        part
        for _ in range(setting.small(CHAIN, 3))
        for part in (torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), torch.nn.ReLU())
    ]
    images = torch.randn(1, CHANNELS, 8, 8)
    network = torch.nn.Sequential(*layers).eval()
    snn = pcsnn.convert(network, TIMESTEPS, calibration=images, method="max", progress=False)
    host = pcsnn.optimize(snn, "int8", example_inputs=images)
    on_device = copy.deepcopy(host).to(setting.device)
    chain, due = (
        [module for _, module in optimised.neurons() if getattr(module, "counted", False) and module.emits == "counts"]
        for optimised in (on_device, host)
    )
    first, few = setting.integers(0, TIMESTEPS + 1, *images.shape), setting.randn(FEW)

    def call(modules=chain, counts=first):
        for module in modules:
            counts = module(counts)
        return counts

    verdict = checks.same_bits(call().cpu(), call(due, first.cpu()), f"the CPU's, {len(chain)} layers")
    return Prepared(
        verdict,
        {OURS: call, "torch.relu": lambda: torch.relu(few)},
        lambda seconds: _microseconds(seconds) / len(chain),
        _relu_beside,
        burst=True,
    )


def rows(setting, models):
    """Every operator in every dtype and form that is timed."""
    made = []

    def add(what, build, unit="of a copy", less=False):
        made.append(Row(what, unit, build, less))

    for name in ("float32", "bfloat16"):
        dtype = FLOATS[name]
        add(f"fire_counts {name}, one threshold", lambda s, d=dtype: _counts(s, d, False, per_channel=False))
        add(f"fire_counts {name}, per channel, NCHW", lambda s, d=dtype: _counts(s, d, False))
        add(f"fire_counts {name}, per channel, NHWC", lambda s, d=dtype: _counts(s, d, True))
        add(f"fire_rates {name}, per channel, NHWC", lambda s, d=dtype: _rates(s, d, None))
        for residual in ("uint8", name):
            add(
                f"fire_rates {name}, per channel, NHWC, residual {residual}",
                lambda s, d=dtype, r=residual: _rates(s, d, r),
            )
        for timesteps in (8, 16, 32):
            add(
                f"fire_counts {name}, per channel, uneven levels, NHWC, T = {timesteps}",
                lambda s, d=dtype, t=timesteps: _counts(s, d, True, timesteps=t, uneven=True),
            )
    for name, dtype in FLOATS.items():
        for out in ("uint8", name):
            add(f"fire_spikes {name} to {out}", lambda s, d=dtype, o=SPIKES[out]: _spikes(s, d, o))
    for out, dtype in SPIKES.items():
        add(f"expand_spikes to {out}", lambda s, o=dtype: _expansion(s, o))
    add("fire_spikes / SpikingJelly's IFNode, multi-step", _spikingjelly, "times as fast")
    for name in ("torch.relu", "fire_counts", "fire_rates", "fire_spikes"):
        add(f"a call of {name}", lambda s, n=name: _call(s, n), "us", True)
    add("a layer of an optimised network", _layer, "us", True)
    return made
