"""Launches that are run again: bound once, then told the addresses alone. A stand-in takes the place of the GPU."""

import copy
import pickle
import types
from unittest import mock

import pytest
import torch

import pcsnn
from pcsnn import functional, kernels
from pcsnn.kernels import common, launch, rates, spikes
from pcsnn.levels.spacing import find_spacing
from pcsnn.operators import dispatch

pytestmark = pytest.mark.skipif(
    kernels.INTERPRETED, reason="kernels are interpreted (TRITON_INTERPRET=1), not compiled"
)
STREAM = 77


class Device:
    """Counts what is planned, and keeps what would be enqueued: {name: value} of a launch, an address for a tensor."""

    def __init__(self, monkeypatch):
        self.planned, self.enqueued = 0, []
        monkeypatch.setattr(launch, "_known", {})
        monkeypatch.setattr(launch, "_on_cpu", lambda device: False)
        monkeypatch.setattr(launch, "_architecture", lambda index: ("cuda", 90))
        monkeypatch.setattr(launch.Launch, "__call__", lambda one: self._first(one))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of a CPU's device
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM, raising=False)

    def _first(self, one):
        self.planned += 1
        names = list(one.kernel.arg_names)
        values = one.arguments | one.constants
        self.enqueued.append(
            dict(
                programs=one.programs,
                **{
                    name: value.data_ptr() if isinstance(value, torch.Tensor) else value
                    for name, value in values.items()
                },
            )
        )

        def again(programs, y, z, stream, function, metadata, *rest):
            assert (y, z, stream, function, metadata, rest[:3]) == (1, 1, STREAM, "function", "metadata", (None,) * 3)
            self.enqueued.append(dict(programs=programs, **dict(zip(names, rest[3:], strict=True))))

        return types.SimpleNamespace(run=again, function="function", packed_metadata="metadata")


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def fresh(one):
    """What a launch would enqueue."""
    return dict(
        programs=one.programs,
        **{
            name: value.data_ptr() if isinstance(value, torch.Tensor) else value
            for name, value in (one.arguments | one.constants).items()
        },
    )


def cases(seed):
    """(launcher, its arguments, the plan of what it returned) of every operator of neurons and trains."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.rand(48, generator=generator) + 0.5
    even, bent = functional.levels(theta, 32), (functional.levels(theta, 32) ** 1.2).sort().values
    scale, counts = (
        torch.rand(48, generator=generator),
        torch.randint(32, (2, 48, 4, 4), generator=generator).to(torch.uint8),
    )
    current = torch.randn(2, 48, 4, 4, generator=generator)
    for x in (current, current.contiguous(memory_format=torch.channels_last), current.bfloat16()):
        for levels in (even, bent, even[0].contiguous()):
            repeat, line, reach = find_spacing(levels)
            y = counts.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else counts
            yield (
                kernels.fire_counts,
                (x, levels, y, scale, repeat, line, reach),
                lambda out, x=x, levels=levels, y=y, line=line, reach=reach, repeat=repeat: rates.plan(
                    out, x, levels, None, y, scale, repeat, 0, 0, line, reach
                ),
            )
            yield (
                kernels.fire_rates,
                (x, levels, scale, None, None, repeat, 0, 0, line, reach),
                lambda out, x=x, levels=levels, line=line, reach=reach, repeat=repeat: rates.plan(
                    out, x, levels, scale, None, None, repeat, 0, 0, line, reach
                ),
            )
            steps = torch.stack([x] * 32)
            for depth in (1, 4):
                train = steps[: 32 // depth]
                yield (
                    kernels.fire_spikes,
                    (train, levels, None, torch.uint8, repeat, line, reach, depth),
                    lambda out, train=train, levels=levels, line=line, reach=reach, repeat=repeat, depth=depth: (
                        spikes.plan(out, train, levels, None, repeat, line, reach, depth)
                    ),
                )
    for depth in (1, 7):
        yield (
            kernels.expand_spikes,
            (counts, 32, None, torch.float16, scale, depth),
            lambda out, depth=depth: spikes.plan_expansion(out, counts, 32, None, scale, depth),
        )


def test_what_is_enqueued_again_is_what_a_fresh_plan_says(device):
    for (function, first, _), (_, second, plan) in zip(cases(1), cases(2), strict=True):
        function(*first)
        planned = device.planned
        out = function(*second)
        assert device.planned == planned, function.__name__  # of the same kind: not planned again
        assert device.enqueued[-1] == fresh(plan(out)), function.__name__


def test_another_kind_is_planned_again(device):
    levels = functional.levels(1.0, 8)
    line = find_spacing(levels).line
    x = torch.randn(4, 64)
    kinds = [x, x[:2], x.bfloat16(), x.t().contiguous().t(), torch.randn(4 * 64 + 1)[1:].view(4, 64)]
    for i, current in enumerate(kinds):
        for _ in range(2):
            kernels.fire_counts(current, levels, None, None, 1, line)
            assert device.planned == i + 1
    kernels.fire_counts(x, levels, None, None, 1)
    kernels.fire_counts(x, functional.levels(1.0, 9), None, None, 1)
    assert device.planned == len(kinds) + 2


def test_tensors_that_are_one_stay_apart_when_others_follow(device):
    """A residual that is the current itself, then another one; rates written over the current."""
    levels = functional.levels(1.0, 8)
    line = find_spacing(levels).line
    x, y = torch.randn(4, 64), torch.randn(4, 64)
    scale = torch.tensor(0.1)
    kernels.fire_rates_(x, levels, scale, x, None, 1, 0, 0, line)
    kernels.fire_rates_(y, levels, scale, x, None, 1, 0, 0, line)
    assert device.planned == 1
    one = device.enqueued[-1]
    assert (one["out_ptr"], one["current_ptr"], one["residual_ptr"]) == (y.data_ptr(), y.data_ptr(), x.data_ptr())


def test_a_table_that_changes_is_transposed_again(device):
    levels = (functional.levels(torch.rand(64) + 0.5, 32) ** 3).sort().values
    x = torch.randn(512, 64)
    kernels.fire_counts(x, levels, None, None, 0)
    before = common._transposed(levels)
    levels += 1
    kernels.fire_counts(x, levels, None, None, 0)
    after = common._transposed(levels)
    assert device.planned == 1 and not torch.equal(before, after) and torch.equal(after, levels.t())
    assert device.enqueued[-1]["levels_ptr"] == after.data_ptr()


def test_a_watched_launch_goes_through_triton(device, monkeypatch):
    levels = functional.levels(1.0, 8)
    x = torch.randn(4, 64)
    kernels.fire_counts(x, levels, None, None, 0)
    monkeypatch.setattr(launch, "watched", lambda: True)
    kernels.fire_counts(x, levels, None, None, 0)
    assert device.planned == 2


def test_the_number_of_kinds_kept_is_bounded(device, monkeypatch):
    monkeypatch.setattr(launch, "REMEMBERED", 3)
    levels = functional.levels(1.0, 8)
    for size in range(1, 9):
        kernels.fire_counts(torch.randn(size, 64), levels, None, None, 0)
        assert len(launch._known) <= 3


@pytest.fixture
def direct(device, monkeypatch):
    """The stand-in, for which operators go straight to the kernels."""
    monkeypatch.setattr(dispatch, "is_direct", lambda *tensors: not dispatch.is_forced())
    return device


def layers():
    """Fused layers of an int8 network, and one of bfloat16 weights; images for them."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 36, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 4),
    )
    x = torch.randn(2, 3, 8, 8)
    snn = pcsnn.convert(net, 8, calibration=x, method="max", progress=False)
    return [
        module
        for weights in ("int8", "bfloat16")
        for module in pcsnn.optimize(snn, weights, example_inputs=x).modules()
        if isinstance(module, (pcsnn.nn.SpikingConv2d, pcsnn.nn.SpikingLinear)) and module.counted
    ]


def counts_for(layer, seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 32, 6, 6) if layer.weight.dim() == 4 else (batch, layer.weight.shape[1])
    counts = torch.randint(8, shape, generator=generator).to(torch.uint8)
    return counts.contiguous(memory_format=torch.channels_last) if counts.dim() == 4 else counts


def test_a_layer_repeats_its_launch_with_new_addresses(direct):
    for layer in layers():
        first, second = counts_for(layer, 1), counts_for(layer, 2)
        layer(first)
        before = direct.enqueued[-1]
        with mock.patch.object(kernels.synapses, "run", side_effect=AssertionError("went the long way")):
            out = layer(second)
        after = direct.enqueued[-1]
        assert (out.shape, out.stride(), out.dtype) == (out.shape, layer(first).stride(), torch.uint8)
        assert after["counts_ptr"] == second.data_ptr() and after["out_ptr"] == out.data_ptr()
        different = {name for name in before if before[name] != after[name]}
        assert different == {"counts_ptr", "out_ptr"}, different


def test_a_layer_that_changed_or_other_inputs_do_not_repeat(direct):
    for layer in layers():
        x = counts_for(layer, 1)

        def launches_anew(layer, x=x):
            with mock.patch.object(kernels.synapses, "run", wraps=kernels.synapses.run) as spied:
                layer(x)
            return spied.call_count == 1

        assert launches_anew(layer) and not launches_anew(layer)
        assert launches_anew(layer, counts_for(layer, 1, batch=3)) and not launches_anew(layer)
        twin = copy.deepcopy(layer)
        assert launches_anew(twin) and not launches_anew(layer)
        layer.weight.mul_(1)
        assert launches_anew(layer) and not launches_anew(layer)
        layer.operand_line = layer.operand_line.clone()
        assert launches_anew(layer) and not launches_anew(layer)
        layer.set_timesteps(4)
        assert launches_anew(layer) and not launches_anew(layer)
        with pcsnn.use_backend("reference"):
            expected = layer(x)
            assert expected.any() and not launches_anew(layer)
        pickled = pickle.loads(pickle.dumps(layer))
        assert launches_anew(pickled)


def test_a_layer_whose_input_was_copied_does_not_repeat(direct):
    layer = layers()[0]
    scattered = counts_for(layer, 1).contiguous()  # not channels last: the kernel reads a copy
    for _ in range(2):
        with mock.patch.object(kernels.synapses, "run", wraps=kernels.synapses.run) as spied:
            layer(scattered)
        assert spied.call_count == 1
