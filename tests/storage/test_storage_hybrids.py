"""Networks of other people in files: analog layers, recurrent ones, attention, tied and computed weights, names of
every kind."""

import pathlib

import pytest
import torch
import torch.nn.functional as F
from network_files import parts
from tiny_networks import build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves, tree_structure

import pcsnn
from pcsnn.nn import QCFS
from pcsnn.storage.paths import plain_paths

OLD = pathlib.Path(__file__).parent / "format_1"
TOKENS, IMAGES, WORDS = (2, 5, 8), (2, 3, 16, 16), "words"


def linear(inside=8, outside=8):
    return nn.Linear(inside, outside)


def first(s, x):
    return s.act(s.first(x))


def on_tokens(forward, **parts):
    return network(forward, first=linear(), act=QCFS(4), **parts), TOKENS


def on_images(forward, **parts):
    return network(forward, first=conv(3, 4), act=QCFS(4), **parts), IMAGES


def layers(*parts):
    return nn.Sequential(conv(3, 4), QCFS(4), *parts), IMAGES


def attention(s, x):
    q, k, v = s.qkv(first(s, x)).chunk(3, -1)
    q, k, v = (part.view(part.size(0), part.size(1), 2, 4).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-2, -1)) * q.size(-1) ** -0.5
    weights = weights.masked_fill(s.mask == 0, float("-inf")).softmax(-1)
    return s.norm(x + F.gelu(s.out((weights @ v).transpose(1, 2).contiguous().view(x.size(0), x.size(1), -1))))


def recurrent(s, x):
    out, (hidden, cell) = s.rnn(first(s, x))
    return torch.cat([out[:, -1], hidden[-1], cell[0]], 1)


def gated(s, x):
    y = first(s, x)
    return y * torch.sigmoid(s.gate(y.mean((2, 3), keepdim=True)))


def tied(s, x):
    return F.linear(s.act(s.first(s.embed(x))), s.embed.weight)


def maxima(s, x):
    y = first(s, x)
    both = torch.max(y[:, :2], y[:, 2:]) + 1
    return both, y.max(1).values, y.max(dim=1, keepdim=True)[0] * 2, y.flatten(1).topk(3)[0]


HYBRIDS = {
    "lstm": lambda: on_tokens(recurrent, rnn=nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)),
    "projected lstm": lambda: on_tokens(
        lambda s, x: s.rnn(first(s, x))[0], rnn=nn.LSTM(8, 6, batch_first=True, proj_size=3)
    ),
    "gru": lambda: on_tokens(lambda s, x: s.rnn(first(s, x))[0][:, -1], rnn=nn.GRU(8, 6, batch_first=True, bias=False)),
    "rnn": lambda: on_tokens(lambda s, x: s.rnn(first(s, x))[0], rnn=nn.RNN(8, 6, nonlinearity="relu")),
    "cells": lambda: on_tokens(
        lambda s, x: s.gru(s.cell(first(s, x)[:, 0])[0]), cell=nn.LSTMCell(8, 6), gru=nn.GRUCell(6, 4)
    ),
    "multi-head attention": lambda: on_tokens(
        lambda s, x: s.heads(first(s, x), x, x, need_weights=False)[0],
        heads=nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True),
    ),
    "attention": lambda: on_tokens(
        attention, qkv=linear(8, 24), out=linear(), norm=nn.LayerNorm(8), mask=torch.tril(torch.ones(5, 5))
    ),
    "flash attention": lambda: on_tokens(
        lambda s, x: F.scaled_dot_product_attention(first(s, x), x, x, is_causal=True)
    ),
    "encoder layer": lambda: on_tokens(
        lambda s, x: s.layer(first(s, x)), layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    ),
    "encoder": lambda: on_tokens(
        lambda s, x: s.encoder(first(s, x)),
        encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, bias=False),
            2,
            nn.LayerNorm(8),
            False,
        ),
    ),
    "tied embedding": lambda: (
        network(tied, embed=nn.Embedding(10, 8, padding_idx=0), first=linear(), act=QCFS(4)),
        WORDS,
    ),
    "positions": lambda: on_tokens(
        lambda s, x: s.act(s.first(torch.cat([s.cls.expand(x.shape[0], -1, -1), x], 1))) + s.place[:, : x.size(1) + 1],
        cls=nn.Parameter(torch.randn(1, 1, 8)),
        place=nn.Parameter(torch.randn(1, 9, 8)),
    ),
    "arange": lambda: on_tokens(
        lambda s, x: first(s, x) + torch.arange(x.size(1), device=x.device, dtype=x.dtype)[None, :, None]
    ),
    "zeros": lambda: on_tokens(lambda s, x: torch.cat([x.new_zeros(x.size(0), 1, 8), first(s, x)], 1)),
    "shapes": lambda: on_tokens(lambda s, x: first(s, x).reshape(x.shape[:1] + (-1,)) / x.size(2) ** 0.5),
    "masks": lambda: on_tokens(
        lambda s, x: torch.where(x > 0, first(s, x), 0.0) * ((x > 0) & (x < 1) | ~(x > 2)).to(x.dtype)
    ),
    "rms norm": lambda: on_tokens(lambda s, x: s.norm(first(s, x)) + F.rms_norm(x, (8,)), norm=nn.RMSNorm(8)),
    "maxima": lambda: on_images(maxima),
    "gates": lambda: on_images(gated, gate=conv(4, 4, 1, 0)),
    "interpolation": lambda: on_images(
        lambda s, x: F.interpolate(first(s, x), size=x.shape[-2:], mode="bicubic", align_corners=False)
    ),
    "half size": lambda: on_images(
        lambda s, x: F.interpolate(first(s, x), scale_factor=0.5, mode="bilinear", antialias=True)
    ),
    "einsum": lambda: on_images(
        lambda s, x: torch.einsum("bchw,dc->bdhw", first(s, x), s.w), w=nn.Parameter(torch.randn(5, 4))
    ),
    "dicts": lambda: on_images(lambda s, x: {"out": first(s, x), "aux": [x.mean(), {"n": 1}]}),
    "windows": lambda: on_images(
        lambda s, x: (
            torch.roll(first(s, x), shifts=(-1, -1), dims=(2, 3))
            .view(x.size(0), 4, x.size(2) // 4, 4, x.size(3) // 4, 4)
            .permute(0, 2, 4, 3, 5, 1)
            .reshape(-1, 16, 4)
            .softmax(-1)
        )
    ),
    "grid": lambda: on_images(
        lambda s, x: F.grid_sample(first(s, x), x[..., :2].permute(0, 2, 3, 1)[:, :2, :2, :2], align_corners=False)
    ),
    "constants": lambda: on_images(lambda s, x: first(s, x) * torch.tensor([2.0]) + torch.ones(16)),
    "norms": lambda: layers(
        nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LocalResponseNorm(3), nn.BatchNorm2d(4, bias=False)
    ),
    "activations": lambda: layers(
        nn.PReLU(4),
        nn.ELU(inplace=True),
        nn.CELU(),
        nn.SELU(),
        nn.Softplus(),
        nn.Softshrink(),
        nn.GLU(1),
        nn.Tanhshrink(),
        nn.Threshold(0.1, 0.0),
        nn.LogSigmoid(),
        nn.Hardsigmoid(),
        nn.GELU("tanh"),
        nn.Mish(),
        nn.Softmax2d(),
        nn.LogSoftmax(1),
    ),
    "padding": lambda: layers(
        nn.ReflectionPad2d(1),
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.ConstantPad2d(1, 0.5),
        nn.CircularPad2d(1),
        nn.ReplicationPad2d(1),
    ),
    "pools": lambda: layers(
        nn.LPPool2d(2, 2),
        nn.AdaptiveMaxPool2d((4, None)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Unflatten(1, (4, 4)),
        nn.Upsample(scale_factor=2, mode="linear"),
    ),
    "shuffles": lambda: layers(
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ChannelShuffle(2),
        nn.Unfold(3, padding=1),
        nn.Fold((16, 16), 3, padding=1),
    ),
    "transposed": lambda: layers(
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, output_padding=1), nn.Sigmoid(), nn.Upsample(scale_factor=32)
    ),
    "one pad for all": lambda: layers(nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"), nn.Tanh()),
}


def same(one, two):
    return tree_structure(one) == tree_structure(two) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(tree_leaves(one), tree_leaves(two))
    )


def given(shape):
    generator = torch.Generator().manual_seed(0)
    if shape is WORDS:
        return torch.randint(0, 10, (2, 5), generator=generator)
    return torch.randn(shape, generator=generator)


def check(net, x, path):
    """Save, load, compare; returns the loaded network."""
    snn = pcsnn.convert(net.eval(), 4, strict=False, progress=False)
    pcsnn.save(snn, path)
    loaded = pcsnn.load(path)
    assert same(loaded(x), snn(x))
    pcsnn.save(loaded, path)
    assert same(pcsnn.load(path)(x), snn(x))
    return loaded


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrids_come_back(name, tmp_path):
    torch.manual_seed(0)
    net, shape = HYBRIDS[name]()
    check(net, given(shape), tmp_path / "net")


def test_tied_tensors_stay_tied(tmp_path):
    net, shape = HYBRIDS["tied embedding"]()
    loaded = check(net, given(shape), tmp_path / "net")
    assert sum(name.endswith("embed.weight") for name in loaded.state_dict()) == 1
    assert sum(value.numel() == 80 for value in parts(tmp_path / "net")[1].values()) == 1


# Weights that are computed


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(module):
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        doubled,
    ],
    ids=lambda compute: f"{compute.__module__}.{compute.__name__}",
)
def test_computed_weights_are_saved_as_they_are(compute, tmp_path):
    torch.manual_seed(0)
    net = (
        nn.Sequential(compute(nn.Conv1d(4, 8, 3)), nn.ReLU(), nn.Flatten(), compute(nn.Linear(8 * 18, 4)))
        .eval()
        .requires_grad_(False)
    )
    x = torch.randn(4, 4, 20)
    net(x)
    snn = pcsnn.convert(net, 4, calibration=x, method="max", progress=False)
    before = snn(x)
    pcsnn.save(snn, tmp_path / "net")
    assert torch.equal(pcsnn.load(tmp_path / "net")(x), before) and torch.equal(snn(x), before)
    names = parts(tmp_path / "net")[1]
    assert {name.rpartition(".")[2] for name in names if name.startswith(("0.", "3."))} == {"weight", "bias"}


def test_weights_computed_after_conversion(tmp_path):
    snn = pcsnn.convert(build("residual"), 4, progress=False)
    parametrizations.weight_norm(snn.network.second)
    pcsnn.save(snn, tmp_path / "net")
    assert torch.equal(pcsnn.load(tmp_path / "net")(*inputs("residual")), snn(*inputs("residual")))


@pytest.mark.parametrize("place", ["hook", "pre-hook", "forward", "subclass"])
def test_layers_that_compute_something_else_are_refused(place, tmp_path):
    snn = pcsnn.convert(build("residual"), 4, progress=False)
    layer = snn.network.second
    if place == "hook":
        layer.register_forward_hook(lambda module, given, out: out * 2)
    elif place == "pre-hook":
        layer.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    elif place == "forward":
        layer.forward = lambda x: x
    else:
        layer.__class__ = type("Own", (nn.Conv2d,), {})
    with pytest.raises(ValueError, match="snn: cannot save .*(Conv2d|Own)"):
        pcsnn.save(snn, tmp_path / "net")
    assert not list(tmp_path.iterdir())


# Names


NAMES = (
    "conv-0",
    "batch norm 0",
    "_conv_stem",
    "__private",
    "conv_0",
    "conv 0",
    "conv.".strip("."),
    "ü",
    "1",
    "a" * 150,
    "net/0",
    "x:y",
)


def test_layers_of_any_name_come_back(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential()
    for number, name in enumerate(NAMES):
        net.add_module(name, nn.Linear(8, 8) if number % 2 else nn.Sequential(nn.Linear(8, 8), QCFS(4)))
    loaded = check(net, torch.randn(2, 8), tmp_path / "net")
    description, _tensors = parts(tmp_path / "net")
    assert len(description["modules"]) == sum(1 if number % 2 else 2 for number in range(len(NAMES)))
    with pcsnn.record(loaded) as record:
        loaded(torch.randn(2, 8))
    assert set(record.counts) == {row.name for row in loaded.report.rows if row.kind == "spiking"}
    assert str(pcsnn.set_timesteps(loaded, 5).report).count("T = 5") == 1


def test_paths_become_plain_ones_each_its_own():
    paths = [
        "a-b",
        "a b",
        "a_b",
        "a_b_1",
        "_a.b",
        "a.b",
        "a",
        "graph",
        "code.x",
        "code_",
        "forward",
        "x.training",
        "class",
        "__class__",
        "__class__.__base__",
        "",
        ".",
        "é.è",
        "_",
        "__",
        "a-b.c",
        "a b.c",
        "a" * 300,
        "a" * 301,
    ]
    found = plain_paths(paths)
    assert len(set(found.values())) == len(paths)
    for path in ("a_b", "a_b_1", "a.b", "a"):
        assert found[path] == path
    assert found["a-b.c"].rpartition(".")[0] == found["a-b"] and found["code.x"].rpartition(".")[2] == "x"
    assert all(
        part and not part.startswith("_") and part.isascii() for path in found.values() for part in path.split(".")
    )


# Files of the first format


def test_files_of_the_first_format_are_read():
    x = inputs("residual")
    assert torch.equal(
        pcsnn.load(OLD / "residual.safetensors")(*x), pcsnn.convert(build("residual"), 12, progress=False)(*x)
    )
    net = randomise(
        network(
            lambda s, x: torch.softmax(s._head(s._act(s._conv(x)).flatten(1) * s.gate) + torch.tensor([0.5]), 1),
            _conv=conv(3, 4),
            _act=QCFS(4),
            _head=nn.Linear(64, 4),
            gate=nn.Parameter(torch.ones(1)),
        )
    )
    loaded, x = pcsnn.load(OLD / "underscored.safetensors"), torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded(x), net(x))
    assert [row.name for row in loaded.report.rows][:2] == ["conv", "act"] and [
        name for name, _ in loaded.neurons()
    ] == ["act"]


# What a file cannot carry


@torch.fx.wrap
def own_function(x):
    return x * 2


@pytest.mark.parametrize(
    "forward, words",
    [
        (lambda s, x: own_function(first(s, x)), "a call of .*own_function"),
        (lambda s, x: first(s, x).imag, "reads the attribute 'imag'"),
        (lambda s, x: first(s, x) + torch.randn_like(x)[:, :1], "call of .*randn_like"),
        (lambda s, x: first(s, x).nonzero(), "the method 'nonzero'"),
        (lambda s, x: F.one_hot(first(s, x).long()), "one_hot without num_classes"),
        (lambda s, x: F.pad(first(s, x), (2**20,) * 4), "asks pad"),
        (lambda s, x: torch.empty(x.size(0)) + first(s, x), "call of .*empty"),
        (lambda s, x: {"a\n": first(s, x)}, "the text"),
    ],
    ids=["function", "attribute", "random", "method", "one_hot", "pad", "empty", "text"],
)
def test_what_a_file_cannot_carry_is_refused_by_name(forward, words, tmp_path):
    snn = pcsnn.convert(network(forward, first=conv(3, 4), act=QCFS(4)), 4, strict=False, progress=False)
    with pytest.raises(ValueError, match=f"snn: cannot save.*{words}"):
        pcsnn.save(snn, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["torch", "self_", "device", "inf"])
def test_inputs_that_are_named_like_words_of_the_code(name, tmp_path):
    scope = {}
    exec(f"def forward(s, {name}): return s.act(s.first({name}))", scope)
    snn = pcsnn.convert(network(scope["forward"], first=conv(3, 4), act=QCFS(4)), 4, progress=False)
    if name == "self_":
        pcsnn.save(snn, tmp_path / "net")
        return
    with pytest.raises(ValueError, match="cannot save.*names an input"):
        pcsnn.save(snn, tmp_path / "net")


@pytest.mark.parametrize("wrong", [nn.Linear(1, 1), None, {}])
def test_only_spiking_networks_are_saved(wrong, tmp_path):
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        pcsnn.save(wrong, tmp_path / "net")
