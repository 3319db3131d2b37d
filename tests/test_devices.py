"""Everything that takes a network, on a device that is pretended (gpu_free.other_device): no tensors of two devices meet, what is
made is where the network is, and results are the CPU's bit for bit."""

import copy

import pytest
import torch
from gpu_free.other_device import DEVICE, OnOtherDevice, devices_of, pretended
from tiny_networks import LEVELS, NETWORKS, build, inputs
from tiny_networks import one_thread  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import pcsnn
from pcsnn.nn import QCFS

FORMS = {"float32": {}, "bfloat16": {}, "int8": {}, "first_last": dict(weights="int8", first_last=True)}


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def there(value):
    """A copy on the pretended device: of a module, or of all tensors in a container."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(DEVICE)
    return tree_map(lambda part: part.to(DEVICE) if isinstance(part, torch.Tensor) else part, value)


def assert_there(module):
    wrong = {name: str(device) for name, device in devices_of(module).items() if device != DEVICE}
    assert not wrong


def assert_same(far, near):
    """Tensors on the pretended device, and their like on the CPU."""
    far, near = tree_leaves(far), tree_leaves(near)
    assert len(far) == len(near)
    for one, two in zip(far, near):
        assert one.device == DEVICE and two.device.type == "cpu"
        assert one.dtype == two.dtype and one.stride() == two.stride() and torch.equal(one.cpu(), two)


def ran(snn, x):
    with torch.no_grad(), pcsnn.record(snn) as recording:
        out = snn(*x)
    return out, recording.counts, recording.rates()


def assert_runs_alike(far, near, x):
    """A network there and one on the CPU: where their tensors are, their state, reports, outputs, counts and rates."""
    assert_there(far)
    assert_same(far.state_dict(), near.state_dict())
    assert str(far.report) == str(near.report)
    assert_same(ran(far, there(x)), ran(near, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_learned_thresholds(name):
    net, x = build(name), inputs(name)
    near, far = pcsnn.convert(net, 2 * LEVELS), pcsnn.convert(there(net), 2 * LEVELS)
    assert_runs_alike(far, near, x)
    for form, options in FORMS.items():
        options = dict(weights=form, example_inputs=x) | options
        fused = pcsnn.optimize(near, **options)
        if form != "bfloat16":  # which takes inputs from another device
            options["example_inputs"] = there(x)
        far_fused = pcsnn.optimize(far, **options)
        assert_runs_alike(far_fused, fused, x)
        for timesteps in (7,):
            assert_runs_alike(pcsnn.set_timesteps(far_fused, timesteps), pcsnn.set_timesteps(fused, timesteps), x)
