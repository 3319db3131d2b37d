"""convert runs what it traced beside the model; and nothing that stands before the first synapse is exempt."""

import pytest
import torch
from tiny_networks import conv, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.check import Trial
from pcsnn.conversion.tracing.trace import trace
from pcsnn.nn import QCFS

LEVELS = 8


def images(count=4, channels=3):
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def _by_kind(s, x):
    x = s.first(x)
    if isinstance(x, torch.Tensor):  # while tracing it is a Proxy
        x = x * 0.5
    return s.second(s.act(x))


def _by_call(s, x):
    s.calls = getattr(s, "calls", 0) + 1
    return s.second(s.act(s.first(x) * (s.calls if torch.is_tensor(x) else 3)))


@pytest.mark.parametrize("forward, layer", [(_by_kind, "second"), (_by_call, "second")])
def test_a_graph_that_is_another_network_is_refused_with_the_first_layer_that_differs(forward, layer):
    net = randomise(network(forward, first=conv(), second=conv(4, 4), act=QCFS(LEVELS)))
    for given in (
        dict(calibration=images(), method="max"),
        dict(example_inputs=images()),
        dict(example_inputs=(images(),)),
    ):
        with pytest.raises(ValueError, match=rf"{layer} \(.*test_check.py:\d+\) is the first layer that differs"):
            pcsnn.convert(net, LEVELS, **given)
    assert not hasattr(net, "calls")
    pcsnn.convert(net, LEVELS)  # without inputs there is no check
    pcsnn.convert(net, LEVELS, example_inputs=images(), check=False)


def test_a_graph_that_fails_is_refused_with_the_layer():
    def forward(s, x):
        return s.second(s.act(s.first(x))[:, : 4 if isinstance(x, torch.Tensor) else 3])

    net = randomise(network(forward, first=conv(), second=conv(4, 4), act=QCFS(LEVELS)))
    with pytest.raises(ValueError, match=r"second \(.*test_check.py:\d+\) is the first layer that differs: .*channels"):
        pcsnn.convert(net, LEVELS, example_inputs=images())


def test_inputs_that_the_model_does_not_take():
    net = randomise(nn.Sequential(conv(), QCFS(LEVELS)))
    with pytest.raises(
        ValueError, match=r"example_inputs: the model does not run on the first inputs, tensors \[4, 2, 8, 8\]"
    ):
        pcsnn.convert(net, LEVELS, example_inputs=images(channels=2))
    with pytest.raises(ValueError, match="calibration: the network cannot run on the first batch"):
        pcsnn.convert(net, LEVELS, calibration=images(channels=2), method="max")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folding_rounds_and_passes(dtype):
    net = randomise(
        nn.Sequential(
            conv(),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            conv(4, 4),
            nn.BatchNorm2d(4),
            nn.ReLU6(),
            nn.Flatten(),
            nn.Linear(256, 5),
        )
    ).to(dtype)
    pcsnn.convert(net, LEVELS, calibration=images().to(dtype), method="max")
    steps = randomise(
        nn.Sequential(conv(), nn.BatchNorm2d(4), QCFS(LEVELS), conv(4, 4), nn.BatchNorm2d(4), QCFS(LEVELS))
    )
    pcsnn.convert(steps.to(dtype), LEVELS, fold=True, example_inputs=images().to(dtype))


def test_a_wrong_fold_is_found():
    net = randomise(nn.Sequential(conv(), nn.ReLU(), conv(4, 4), nn.ReLU()))
    traced = trace(net)
    canonicalise(traced)
    trial = Trial(net, traced, (images(),), "calibration")
    trial.compare(traced)
    traced.get_submodule("2").weight.mul_(1.02)
    with pytest.raises(ValueError, match=r"fold=False.*2 \(.*first layer that differs"):
        trial.compare(traced, folded=True)


def test_options_named_inputs_outputs_and_chance():
    def forward(s, x, scale=None, flag=False, *, mask):
        h = s.act(s.first(x))
        return {"out": [s.second(h * mask)], "dropped": torch.bernoulli(torch.sigmoid(h))}

    net = randomise(network(forward, first=conv(), second=conv(4, 4), act=QCFS(LEVELS)))
    pcsnn.convert(net, LEVELS, strict=False, example_inputs=(images(), torch.ones(4, 1, 8, 8)))


def front(forward, **parts):
    return randomise(
        network(lambda s, x: s.body(forward(s, x)), body=nn.Sequential(conv(), QCFS(LEVELS), conv(4, 3)), **parts)
    )


@torch.fx.wrap
def of_a_library(x):
    return torch.tanh(x)


class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x)
        return torch.sigmoid(x * weight)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


@pytest.mark.parametrize(
    "forward, name",
    [
        (lambda s, x: s.layer(x.flatten(1, 2))[0].unflatten(1, (3, 8)), "GRU"),
        (lambda s, x: s.encoder(x.flatten(1, 2)).unflatten(1, (3, 8)), "TransformerEncoder"),
        (lambda s, x: torch.tanh(x @ s.weight), "tanh"),
        (lambda s, x: torch.sigmoid(torch.einsum("bchw,wv->bchv", x, s.weight)), "sigmoid"),
        (lambda s, x: torch.tanh(x * s.weight), "tanh"),
        (lambda s, x: torch.exp(x + s.weight[0]), "exp"),
        (lambda s, x: s.norm(x), "LayerNorm"),
        (lambda s, x: of_a_library(x), "of_a_library"),
        (lambda s, x: Sigmoid.apply(x, s.weight), "sigmoid"),
        (lambda s, x: torch.bernoulli(torch.sigmoid(x)), "bernoulli"),
        (lambda s, x: torch.where(x > 0, x, s.weight), "where"),
    ],
)
def test_layers_before_the_first_synapse_are_named(forward, name):
    net = front(
        forward,
        layer=nn.GRU(8, 8, batch_first=True),
        norm=nn.LayerNorm(8),
        weight=nn.Parameter(torch.randn(8, 8)),
        encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1),
    )
    with pytest.raises(ValueError, match=rf"1 operation cannot spike:\n.*: {name} .*strict=False"):
        pcsnn.convert(net, LEVELS)
    snn = pcsnn.convert(net, LEVELS, strict=False)
    assert [row.detail.split()[0] for row in snn.report.rows if row.kind == "analog"] == [name]


@pytest.mark.parametrize(
    "forward, words",
    [
        (lambda s, x: (x - s.mean) / s.mean, ""),
        (lambda s, x: torch.log1p(x.abs()), "log1p of the input alone"),
        (lambda s, x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True), "std of the input alone"),
        (lambda s, x: nn.Tanh()(x), "Tanh of the input alone"),
        (lambda s, x: x * (x > 0.5), "gt of the input alone"),
        (lambda s, x: x @ s.weight, "matmul by a constant"),
    ],
)
def test_functions_of_the_input_alone_are_exact_and_reported(forward, words):
    net, x = front(forward, mean=torch.rand(3, 1, 1) + 0.5, weight=nn.Parameter(torch.randn(8, 8))), images()
    snn = pcsnn.convert(net, LEVELS, example_inputs=x)
    assert torch.equal(snn(x), net(x))
    assert words in str(snn.report) and not [row for row in snn.report.rows if row.kind == "analog"]


def test_tokens_are_looked_up():
    net = randomise(
        network(
            lambda s, tokens: s.head(s.act(s.layer(s.words(tokens) + s.words.weight[0]))),
            words=nn.Embedding(10, 8),
            layer=nn.Linear(8, 8),
            act=QCFS(LEVELS),
            head=nn.Linear(8, 3),
        )
    )
    tokens = torch.randint(0, 10, (4, 5))
    snn = pcsnn.convert(net, LEVELS, example_inputs=tokens)
    assert torch.equal(snn(tokens), net(tokens))
    assert [row.kind for row in snn.report.rows if row.name == "words"] == ["synapse"]
