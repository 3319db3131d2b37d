"""Layers, operations and models on a device that is pretended (gpu_free.other_device): they are where the tensors are
that they are made of, and compute what they do on the CPU."""

import pytest
import torch
from gpu_free.other_device import assert_same, assert_there, pretended, there
from tiny_networks import (
    one_thread,  # noqa: F401
    randomise,
)

import pcsnn
from pcsnn import functional, models, nn
from pcsnn.baselines.serial_network import SerialIF

T = 4


@pytest.fixture(autouse=True)
def device():
    with pretended():
        yield


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.2


def whole(dtype, high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(5)).to(dtype)


COUNTS = whole(torch.uint8, T + 1, 2, 3, 5, 5)
VALUES = COUNTS.float()
STEPS = VALUES.expand(T, *VALUES.shape)
WEIGHT = whole(torch.int8, 19, 4, 3, 3, 3) - 9
BY_CHANNEL = dict(
    weight_scale=drawn(4),
    bias=drawn(4),
    threshold=drawn(4),
    offset=drawn(4, seed=1),
    bend=drawn(4, T, seed=2) / 9,
    amplitude=drawn(4, seed=3),
)
# name: (a layer of which `to` takes some tensors to the device, those that say where it is; what goes in)
LAYERS = {
    "collapsed": (lambda to: nn.CollapsedNeuron(to(drawn(3)), T), [VALUES]),
    "collapsed, bent": (lambda to: nn.CollapsedNeuron(1.5, T, bend=to(drawn(3, T) / 9), offset=0.25), [VALUES]),
    "collapsed, mixed": (lambda to: nn.CollapsedNeuron(to(drawn(3)), T, offset=drawn(3), amplitude=drawn(3)), [VALUES]),
    "parallel": (lambda to: nn.ParallelSpikingNeuron(to(drawn(3)), T, amplitude=drawn(3)), [STEPS]),
    "parallel, amplitude": (lambda to: nn.ParallelSpikingNeuron(2.0, T, amplitude=to(drawn(3))), [STEPS]),
    "signed": (
        lambda to: nn.SignedNeuron("leaky_relu", T, amplitude=3.0, lowest=-1.0, slope=to(drawn(3))),
        [VALUES - 3],
    ),
    "signed, amplitude": (
        lambda to: nn.SignedNeuron("gelu", T, amplitude=to(torch.tensor(3.0)), lowest=-1.0),
        [VALUES - 3],
    ),
    "serial": (lambda to: SerialIF(1.5, offset=to(drawn(3)), amplitude=drawn(3)), [VALUES]),
    "qcfs": (lambda to: nn.QCFS(4, to(torch.tensor(2.0))).requires_grad_(False), [VALUES]),
    "daqcfs": (
        lambda to: nn.DAQCFS(T, to(drawn(3)), offset=drawn(3), amplitude=drawn(3)).requires_grad_(False),
        [VALUES],
    ),
    "daqcfs, bent": (
        lambda to: nn.DAQCFS(T, 1.5, offset=0.25, bend=to(drawn(3, T) / 9)).requires_grad_(False),
        [VALUES],
    ),
    "scale": (lambda to: nn.ChannelScale(to(drawn(3))), [VALUES]),
    "rates": (lambda to: nn.Rates(to(drawn(3)), T), [COUNTS]),
    "pixels": (lambda to: nn.PixelCounts(to(-drawn(3)), to(drawn(3)), 1), [drawn(2, 3, 5, 5)]),
    "pixels, mixed": (lambda to: nn.PixelCounts(to(-drawn(3)), drawn(3), 1), [drawn(2, 3, 5, 5)]),
    "convolution": (lambda to: nn.SpikingConv2d(to(drawn(4, 3, 3, 3)), T, threshold=9.0), [COUNTS]),
    "convolution, int8": (lambda to: nn.SpikingConv2d(to(WEIGHT), T, **BY_CHANNEL), [COUNTS]),
    "convolution, residual": (
        lambda to: nn.SpikingConv2d(to(WEIGHT), T, padding=1, residual_worth=drawn(4), **BY_CHANNEL),
        [COUNTS, whole(torch.uint8, T + 1, 2, 4, 5, 5)],
    ),
    "linear": (
        lambda to: nn.SpikingLinear(to(drawn(4, 5).bfloat16()), T, threshold=to(drawn(4)), bias=drawn(4)),
        [COUNTS[0, 0]],
    ),
    "synaptic": (
        lambda to: nn.SynapticConv2d(to(WEIGHT), T, weight_scale=drawn(4), bias=drawn(4), emits="values"),
        [COUNTS],
    ),
    "synaptic, linear": (
        lambda to: nn.SynapticLinear(to(WEIGHT[:, 0, 0]), T, weight_scale=drawn(4), bias=drawn(4)),
        [COUNTS[..., :3]],
    ),
    "attention": (lambda to: nn.SpikingAttention(2, to(drawn(4)), T), [drawn(2, 3, 4, seed=seed) for seed in range(3)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    make, x = LAYERS[name]
    near, far = make(lambda value: value), make(there)

    def check():
        assert_there(far)
        found, expected = far(*there(x)), near(*x)
        if (
            getattr(near, "emits", None) == "counts" and near.weight.dtype == torch.bfloat16
        ):  # on a GPU they have that dtype
            assert found.dtype == torch.bfloat16
            found = found.to(torch.uint8)
        assert_same(found, expected)

    check()
    if hasattr(near, "set_timesteps"):
        near.set_timesteps(T + 3)
        far.set_timesteps(T + 3)
        check()


def test_tables_of_levels():
    theta = drawn(3)
    assert_same(functional.levels(there(theta), T), functional.levels(theta, T))
    assert_same(functional.levels(1.5, T, offset=there(theta)), functional.levels(1.5, T, offset=theta))
    for slope in (drawn(3), torch.tensor(0.1)):
        far, near = (functional.signed_levels("leaky_relu", 0.5, T, -1.0, value) for value in (there(slope), slope))
        assert_same(far[0], near[0])
        assert far[1:] == near[1:]
    near = functional.levels(theta, T), theta, theta
    assert_same(functional.whole_levels(*there(near)), functional.whole_levels(*near))


@pytest.mark.parametrize(
    "call, names",
    [
        (lambda x, t: functional.fire_counts(there(x), t), "current on cuda:0, levels on cpu"),
        (
            lambda x, t: functional.fire_rates(x, t, there(torch.tensor(1.0))),
            "current on cpu, levels on cpu, scale on cuda",
        ),
        (lambda x, t: functional.fire_spikes(STEPS, there(t)), "current on cpu, levels on cuda:0"),
        (lambda x, t: functional.expand_spikes(there(COUNTS), T, torch.arange(T)), "counts on cuda:0, order on cpu"),
        (lambda x, t: functional.conv2d_fire(COUNTS, there(drawn(4, 3, 3, 3))), "counts on cpu, weight on cuda:0"),
        (lambda x, t: functional.whole_levels(t, there(drawn(4))), "levels on cpu, weight_scale on cuda:0"),
        (lambda x, t: nn.SpikingConv2d(there(WEIGHT), T, **BY_CHANNEL)(COUNTS), "counts on cpu, weight on cuda:0"),
        (lambda x, t: there(nn.CollapsedNeuron(drawn(3), T))(x), "current on cpu, levels on cuda:0"),
        (lambda x, t: nn.SpikingAttention(1, 1.0, T)(x[0], there(x[0]), x[0]), "query on cpu, key on cuda:0"),
    ],
)
def test_tensors_of_two_devices_are_named(call, names):
    with pytest.raises(ValueError, match=f"expected all tensors on one device, got {names}"):
        call(VALUES, functional.levels(1.0, T))


# name: size and channels of its images
MODELS = {
    "cifar_resnet20": (12, 3),
    "vgg_small": (28, 1),
    "mobilenet_small": (28, 1),
    "deeplabv3_small": (16, 3),
    "linear_transformer_small": (28, 1),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.quick(2)
def test_models(name):
    size, channels = MODELS[name]
    net, x = randomise(getattr(models, name)(activation=lambda: nn.QCFS(T))), drawn(2, channels, size, size)
    near, far = pcsnn.convert(net, T), pcsnn.convert(there(net), T)
    assert_there(far)
    assert_same(far(there(x)), near(x))
    near, far = (pcsnn.optimize(snn, "int8", example_inputs=x) for snn in (near, far))
    assert_there(far)
    assert_same(far(there(x)), near(x))


def test_text_encoder():
    net = randomise(models.BertEncoder(1, 8, 2, 12, vocabulary=20, positions=9))
    inputs = whole(torch.int64, 20, 2, 7), torch.ones(2, 7)
    options = dict(calibration=[inputs], method="max", strict=False, signed=True, progress=False)
    near, far = (pcsnn.convert(one, 2 * T, **options) for one in (net, there(net)))
    assert_there(far)
    assert_same(far(*there(inputs)), near(*inputs))
