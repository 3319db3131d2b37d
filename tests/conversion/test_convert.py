"""pcsnn.convert against the source network: lossless conversion, every construct, what is refused, what modules do."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import (
    IMAGE,
    LEVELS,
    MOVED_POOLS,
    NETWORKS,
    build,
    conv,
    inputs,
    network,
    one_thread,  # noqa: F401
    randomise,
)
from torch import nn
from torch.utils._pytree import tree_leaves, tree_structure

import pcsnn
from pcsnn.nn import QCFS

DTYPES = [torch.float32, torch.float64]


def same(one, two):
    return tree_structure(one) == tree_structure(two) and all(map(torch.equal, tree_leaves(one), tree_leaves(two)))


def q():
    return QCFS(LEVELS)


# Lossless conversion


def levels_fired(net, x):
    """Output of every QCFS call of `net` in units of threshold / L, in execution order; and the network's output."""
    fired, hooks = [], []
    for module in net.modules():
        if isinstance(module, QCFS):
            hooks.append(
                module.register_forward_hook(
                    lambda module, arguments, output: fired.append(
                        (output * module.levels / module.threshold.detach()).round()
                    )
                )
            )
    with torch.no_grad():
        out = net(*x)
    for hook in hooks:
        hook.remove()
    return fired, out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_qcfs_is_bit_equal_at_every_multiple_of_its_levels(name, dtype):
    net, x = build(name, q, dtype), inputs(name, dtype)
    fired, expected = levels_fired(net, x)
    assert any(0 < level.count_nonzero() < level.numel() for level in fired)
    for m in (1, 2, 3):
        snn = pcsnn.convert(net, m * LEVELS)
        with pcsnn.record(snn) as record:
            out = snn(*x)
        assert same(out, expected)
        assert len(record.counts) == len(fired)
        if name not in MOVED_POOLS:
            for counts, level in zip(record.counts.values(), fired):
                assert torch.equal(counts, (level * m).to(torch.uint8))


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_qcfs_agrees_up_to_rounding(name):
    net, x = build(name, q, torch.float64), inputs(name, torch.float64)
    snn = pcsnn.convert(net, LEVELS, fold=True)
    for out, expected in zip(tree_leaves(snn(*x)), tree_leaves(net(*x)), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("levels, timesteps", [(1, 1), (1, 7), (3, 9), (8, 32), (17, 255), (255, 255)])
def test_other_level_counts_are_lossless(levels, timesteps):
    net, x = build("residual", lambda: QCFS(levels)), inputs("residual")
    assert torch.equal(pcsnn.convert(net, timesteps)(*x), net(*x))


def test_threshold_trained_in_float64_is_lossless():
    net, x = build("mlp", q).double(), inputs("mlp", torch.float64, 200)
    for i, module in enumerate(module for module in net.modules() if isinstance(module, QCFS)):
        module.threshold.data.fill_(1 / (3 + i))  # not a float32 value
    assert torch.equal(pcsnn.convert(net, LEVELS)(*x), net(*x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_and_keeps_its_dtype(dtype):
    net, x = build("mlp", q).to(dtype), inputs("mlp", dtype)
    snn = pcsnn.convert(net, LEVELS)
    assert torch.equal(snn(*x), net(*x))
    assert all(neuron.levels.dtype == torch.float32 for _, neuron in snn.neurons())


def test_on_constant_currents_the_last_layers_match_a_hand_count():
    """One neuron, w = 1: k = clip(floor((z + theta / 2T) / (theta / T)), 0, T)."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), QCFS(4, threshold=2.0))
    net[0].weight.data.fill_(1.0)
    z = torch.tensor([[-1.0], [0.24], [0.25], [0.7], [0.75], [1.74], [1.75], [9.0]])
    expected = torch.tensor([0.0, 0, 0.5, 0.5, 1.0, 1.5, 2.0, 2.0])[:, None]
    assert torch.equal(pcsnn.convert(net, 4)(z), expected)
    assert torch.equal(pcsnn.convert(net, 8)(z), expected)


# Every way to write an activation


def _relu_(s, x):
    x = s.conv(x)
    x.relu_()
    return s.second(x)


ACTIVATIONS = {
    "F.relu": lambda s, x: s.second(F.relu(s.conv(x))),
    "F.relu by name": lambda s, x: s.second(F.relu(input=s.conv(input=x))),
    "F.relu inplace": lambda s, x: s.second(F.relu(s.conv(x), inplace=True)),
    "torch.relu": lambda s, x: s.second(torch.relu(s.conv(x))),
    "torch.relu by name": lambda s, x: s.second(torch.relu(input=s.conv(x))),
    "relu": lambda s, x: s.second(s.conv(x).relu()),
    "relu_": lambda s, x: s.second(s.conv(x).relu_()),
    "relu_, result not used": _relu_,
    "nn.ReLU inplace": lambda s, x: s.second(s.in_place(s.conv(x))),
    "clamp(min=0)": lambda s, x: s.second(s.conv(x).clamp(min=0)),
    "clamp(0)": lambda s, x: s.second(s.conv(x).clamp(0)),
    "clamp(0, None)": lambda s, x: s.second(torch.clamp(s.conv(x), 0.0, None)),
    "clamp_": lambda s, x: s.second(s.conv(x).clamp_(min=0.0)),
    "clamp(0, inf)": lambda s, x: s.second(s.conv(x).clamp(0, float("inf"))),
    "torch.clamp": lambda s, x: s.second(torch.clamp(input=s.conv(x), min=0)),
    "clamp_min": lambda s, x: s.second(s.conv(x).clamp_min(0)),
    "torch.clamp_min": lambda s, x: s.second(torch.clamp_min(s.conv(x), 0)),
    "clamp_min_": lambda s, x: s.second(s.conv(x).clamp_min_(0)),
    "clip": lambda s, x: s.second(s.conv(x).clip(min=0)),
    "torch.clip": lambda s, x: s.second(torch.clip(s.conv(x), 0)),
}
CLIPPED = {
    "nn.ReLU6": lambda s, x: s.second(s.relu6(s.conv(x))),
    "nn.Hardtanh": lambda s, x: s.second(s.hardtanh(s.conv(x))),
    "F.relu6": lambda s, x: s.second(F.relu6(s.conv(x))),
    "F.relu6 inplace": lambda s, x: s.second(F.relu6(s.conv(x), inplace=True)),
    "F.hardtanh": lambda s, x: s.second(F.hardtanh(s.conv(x), 0, 6)),
    "F.hardtanh by name": lambda s, x: s.second(F.hardtanh(s.conv(x), max_val=6.0, min_val=0.0, inplace=True)),
    "clamp(0, 6)": lambda s, x: s.second(s.conv(x).clamp(0, 6)),
    "clamp_(0, 6)": lambda s, x: s.second(s.conv(x).clamp_(min=0, max=6)),
    "torch.clip(0, 6)": lambda s, x: s.second(torch.clip(s.conv(x), max=6, min=0)),
}
PARTS = dict(
    conv=conv(),
    second=conv(4, 4),
    relu=nn.ReLU(),
    in_place=nn.ReLU(inplace=True),
    relu6=nn.ReLU6(),
    hardtanh=nn.Hardtanh(0, 6),
)


def written(forward):
    net = randomise(network(forward, **copy.deepcopy(PARTS)))
    net.conv.weight.data.mul_(4)  # some currents rise above 6
    return net


@pytest.mark.parametrize("form", ACTIVATIONS)
def test_every_form_of_relu_spikes_alike(form):
    x = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    plain = pcsnn.convert(written(lambda s, x: s.second(s.relu(s.conv(x)))), 8, calibration=x, method="max")
    snn = pcsnn.convert(written(ACTIVATIONS[form]), 8, calibration=x, method="max")
    assert len(dict(snn.neurons())) == 1
    assert torch.equal(snn(x), plain(x))


@pytest.mark.parametrize("method", ["none", "max"])
@pytest.mark.parametrize("form", CLIPPED)
def test_every_form_of_clipped_relu_spikes_alike(form, method):
    x = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    net = written(CLIPPED[form])
    snn = pcsnn.convert(net, 255, calibration=x, method=method)
    ((_, neuron),) = snn.neurons()
    if method == "none":
        assert neuron.threshold.item() == 6.0
    else:
        assert neuron.threshold.shape == (4,) and 5.9 < neuron.threshold.max() <= 6
    with torch.no_grad():
        expected = net(x.clone())
    torch.testing.assert_close(snn(x), expected, rtol=0, atol=0.15)  # half a level of 6 / 255, through 36 weights


# What can and what cannot spike


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.down, self.act, self.up = nn.Conv2d(4, 2, 1), q(), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(self.act(self.down(F.adaptive_avg_pool2d(x, 1)))))


ANALOG = {
    "leaky": lambda s, x: s.second(s.leaky(s.act(s.conv(x)))),
    "leaky_relu": lambda s, x: F.leaky_relu(s.second(s.act(s.conv(x)))),
    "leaky_relu_": lambda s, x: s.last(F.leaky_relu_(s.second(s.act(s.conv(x))))),
    "gelu": lambda s, x: s.last(F.gelu(s.second(s.act(s.conv(x))))),
    "stem": lambda s, x: s.act(s.second(s.stem(s.conv(x)))),
    "mul": lambda s, x: (lambda h: s.last(s.second(h)) * h)(s.act(s.conv(x))),
    "mul_1": lambda s, x: (lambda h: (h * 2) * h)(s.act(s.conv(x))),
    "mul_": lambda s, x: (lambda h: s.second(h).mul_(h))(s.act(s.conv(x))),
    "pow_1": lambda s, x: s.act(s.conv(x)) ** 2,
    "layer_norm": lambda s, x: s.last(F.layer_norm(s.second(s.act(s.conv(x))), (8, 8))),
    "scaled_dot_product_attention": lambda s, x: (lambda h: F.scaled_dot_product_attention(h, s.second(h), h))(
        s.act(s.conv(x))
    ),
    "multihead": lambda s, x: (lambda h: s.multihead(h, h, h)[0])(s.act(s.conv(x)).flatten(2)),
    "softmax_attention": lambda s, x: (lambda h: (h @ s.second(h).mT * 0.3).softmax(-1) @ h)(s.act(s.conv(x))),
    "truediv": lambda s, x: (lambda h: s.second(h) / (h + 1))(s.act(s.conv(x))),
    "div": lambda s, x: torch.div(s.act(s.conv(x)), 0.3, rounding_mode="floor"),
    "floordiv": lambda s, x: s.act(s.conv(x)) // 0.3,
    "softmax": lambda s, x: s.last(s.second(s.act(s.conv(x))).softmax(1)),
    "softmax_module": lambda s, x: s.conv(s.softmax_module(s.second(s.act(s.conv(x))))[:, :3]),
    "norm": lambda s, x: s.last(s.norm(s.second(s.act(s.conv(x))))),
    "group": lambda s, x: s.last(s.group(s.second(s.act(s.conv(x))))),
    "prelu": lambda s, x: s.last(s.prelu(s.second(s.act(s.conv(x))))),
    "hardtanh": lambda s, x: s.last(F.hardtanh(s.second(s.act(s.conv(x))))),
    "clamp": lambda s, x: s.last(s.second(s.act(s.conv(x))).clamp(max=1)),
    "clamp_1": lambda s, x: s.last(s.second(s.act(s.conv(x))).clamp(0.1, 0.3)),
    "max_pool2d": lambda s, x: (lambda h: F.max_pool2d(s.second(h) + h, 2))(s.act(s.conv(x))),
    "pool": lambda s, x: s.last(s.pool(s.second(s.act(s.conv(x))) + 1) + 1),
    "max_pool2d_of_padding": lambda s, x: F.max_pool2d(F.pad(s.act(s.conv(x)), (1, 1), value=0.9), 2),
    "eq": lambda s, x: (s.act(s.conv(x)) == 0).to(x.dtype) * 2,
    "conv2d": lambda s, x: F.conv2d(x, s.act(s.conv(x))[:1, :3]),
    "maximum": lambda s, x: (lambda h: torch.maximum(s.second(h), h))(s.act(s.conv(x))),
}
ANALOG_PARTS = dict(
    conv=conv(),
    second=conv(4, 4),
    act=q(),
    last=q(),
    leaky=nn.LeakyReLU(0.3),
    stem=nn.ELU(),
    softmax_module=nn.Softmax(1),
    multihead=nn.MultiheadAttention(64, 2, batch_first=True),
    norm=nn.LayerNorm([4, 8, 8]),
    group=nn.GroupNorm(2, 4),
    prelu=nn.PReLU(),
    pool=nn.MaxPool2d(2),
)
NAMES = {
    "max_pool2d_of_padding": "max_pool2d",
    "mul_": "mul",
    "pow_1": "pow",
    "div": "div",
    "softmax_attention": "softmax",
}


def analog_network(form):
    return randomise(network(ANALOG[form], **copy.deepcopy(ANALOG_PARTS)))


@pytest.mark.parametrize("form", ANALOG)
def test_strict_names_what_cannot_spike_and_where(form):
    with pytest.raises(ValueError, match="cannot spike") as error:
        pcsnn.convert(analog_network(form), LEVELS)
    line = ANALOG[form].__code__.co_firstlineno
    assert f"{NAMES.get(form, form)[:3]}" in str(error.value)
    assert f"{__file__}:{line})" in str(error.value)


@pytest.mark.parametrize("form", ANALOG)
def test_not_strict_keeps_it_analog_on_the_averages(form):
    net, x = analog_network(form), torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(2))
    snn = pcsnn.convert(net, 2 * LEVELS, strict=False)
    assert [row for row in snn.report.rows if row.kind == "analog"]
    assert any(row.kind == "spiking" for row in snn.report.rows)
    with torch.no_grad():
        assert torch.equal(snn(x), net(x))


def test_all_of_several_problems_are_named():
    net = nn.Sequential(conv(), nn.GELU(), conv(4, 4), q(), nn.Sequential(conv(4, 4), nn.SiLU(inplace=True)), Gate())
    with pytest.raises(ValueError, match="4 operations cannot spike") as error:
        pcsnn.convert(net, LEVELS)
    text = str(error.value)
    assert all(word in text for word in ("GELU", "SiLU", "sigmoid", "mul"))
    assert f"{__file__}:{inspect.getsourcelines(Gate.forward)[1] + 1}" in text
    assert "  1 (" in text and "  4.1 (" in text


def test_active_dropout_is_not_dropped():
    net = network(lambda s, x: F.dropout(s.act(s.conv(x)), 0.5), conv=conv(), act=q())
    with pytest.raises(ValueError, match="dropout"):
        pcsnn.convert(net, LEVELS)
    snn, x = pcsnn.convert(net, LEVELS, strict=False), torch.randn(4, *IMAGE)
    assert not torch.equal(snn(x), snn(x))


def test_batch_norm_without_running_statistics_is_analog():
    net = randomise(nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False), q()))
    with pytest.raises(ValueError, match="track_running_stats=True"):
        pcsnn.convert(net, LEVELS)
    x = torch.randn(4, *IMAGE)
    assert torch.equal(pcsnn.convert(net, LEVELS, strict=False)(x), net(x))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3)),
        nn.Flatten(),
        nn.Sequential(conv(), nn.GELU()),
        nn.Hardtanh(),
        nn.Identity(),
    ],
    ids=lambda net: type(net).__name__,
)
def test_nothing_converted_is_an_error(net, strict):
    with pytest.raises(ValueError, match="nothing was converted|cannot spike"):
        pcsnn.convert(net, 4, strict=strict)
    with pytest.raises(ValueError, match="nothing was converted"):
        pcsnn.convert(net, 4, strict=False)


# The source network


@pytest.mark.parametrize("method", ["none", "max", "paper"])
@pytest.mark.parametrize(
    "activation", [q, nn.ReLU6, lambda: nn.Hardtanh(0, 2, inplace=True)], ids=["qcfs", "relu6", "hardtanh"]
)
@pytest.mark.parametrize("name", ["conv_bn", "shared_conv_two_norms", "residual_iadd", "dropout"])
def test_the_source_is_never_changed(name, activation, method):
    net = build(name, activation).train()
    next(net.parameters()).requires_grad_(False)
    before = copy.deepcopy(net)
    ids = {key: value.data_ptr() for key, value in net.state_dict(keep_vars=True).items()}
    snn = pcsnn.convert(net, 6, calibration=inputs(name)[0], method=method)
    snn(*inputs(name))
    assert {key: value.data_ptr() for key, value in net.state_dict(keep_vars=True).items()} == ids
    for (key, value), (other, old) in zip(net.state_dict().items(), before.state_dict().items(), strict=True):
        assert key == other and torch.equal(value, old), key
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in before.parameters()]
    for one, two in zip(net.modules(), before.modules(), strict=True):
        assert one.training == two.training and type(one) is type(two)
        assert getattr(one, "inplace", None) == getattr(two, "inplace", None)
        assert not one._forward_hooks and not one._forward_pre_hooks


def test_the_result_shares_no_memory_with_the_source():
    net, x = build("conv_bn"), inputs("conv_bn")
    snn = pcsnn.convert(net, LEVELS)
    before = snn(*x)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.zero_()
    assert torch.equal(snn(*x), before)


def test_a_network_in_training_mode_is_converted_as_in_evaluation():
    net, x = build("dropout"), inputs("dropout")
    expected = net(*x)
    snn = pcsnn.convert(net.train(), LEVELS)
    assert net.training and not snn.training
    assert torch.equal(snn(*x), expected)
    snn.train()
    assert not any(module.training for module in snn.modules()) and torch.equal(snn(*x), expected)


def test_inputs_are_not_written_to():
    for name in ("on_the_input", "max_pools", "residual_iadd", "two_names"):
        x = inputs(name)
        before = [value.clone() for value in x]
        pcsnn.convert(build(name, nn.ReLU6), 4, method="none")(*x)
        assert same(list(x), before)


# What a module must do


@pytest.mark.parametrize("name", ["residual", "conv1d", "tokens", "cat"])
def test_empty_and_single_batches(name):
    net = build(name)
    snn = pcsnn.convert(net, LEVELS)
    x = inputs(name, batch=1)
    assert torch.equal(snn(*x), net(*x))
    assert snn(x[0][:0]).shape == (0, *net(*x).shape[1:])


@pytest.mark.parametrize("name", ["residual", "max_pools", "transposed"])
def test_channels_last_is_bit_equal_to_the_source_in_channels_last(name):
    net = build(name).to(memory_format=torch.channels_last)
    x = inputs(name)[0].to(memory_format=torch.channels_last)
    snn = pcsnn.convert(net, LEVELS)
    assert torch.equal(snn(x), net(x))
    assert snn(x).stride() == net(x).stride()


@pytest.mark.parametrize("name", ["residual", "conv_bn", "tokens"])
def test_deepcopy_and_state_dict(name):
    x = inputs(name)
    snn = pcsnn.convert(build(name, nn.ReLU), 5, calibration=x[0], method="max")
    expected = snn(*x)
    twin = copy.deepcopy(snn)
    assert torch.equal(twin(*x), expected) and str(twin.report) == str(snn.report)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.mul_(1.5)
    assert torch.equal(snn(*x), expected)
    assert not torch.equal(twin(*x), expected)
    twin.load_state_dict(snn.state_dict())
    assert torch.equal(twin(*x), expected)


def test_to_float64_and_back():
    net, x = build("residual"), inputs("residual")
    snn = pcsnn.convert(net, LEVELS)
    double = copy.deepcopy(snn).double()
    assert torch.equal(double(x[0].double()), copy.deepcopy(net).double()(x[0].double()))
    assert torch.equal(double.float()(*x), net(*x))


def test_a_float64_network_gives_float64():
    snn = pcsnn.convert(build("conv_bn", nn.ReLU, torch.float64), 4, calibration=inputs("conv_bn", torch.float64)[0])
    assert snn(*inputs("conv_bn", torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name, backend", [("residual", "aot_eager"), ("mlp", "inductor")])
def test_torch_compile_full_graph(name, backend):
    net, x = build(name), inputs(name)
    torch._dynamo.reset()
    compiled = torch.compile(pcsnn.convert(net, LEVELS), fullgraph=True, backend=backend)
    for batch in (3, 2):
        torch.testing.assert_close(compiled(x[0][:batch]), net(x[0][:batch]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["residual", "broadcast_sum", "max_pool_first", "dict_output"])
def test_torch_export_runs_the_same(name):
    net, x = build(name), inputs(name)
    program = torch.export.export(pcsnn.convert(net, LEVELS), x)
    assert same(program.module()(*x), net(*x))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("pcsnn" in target for target in targets)


def test_parameters_ask_for_no_gradient_until_they_are_told_to():
    snn = pcsnn.convert(build("mlp"), LEVELS)
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    assert not snn(inputs("mlp")[0]).requires_grad
    with torch.no_grad():
        assert not snn(inputs("mlp")[0].requires_grad_()).requires_grad


def test_named_inputs():
    net = build("two_inputs")
    x, y = inputs("two_inputs")
    assert torch.equal(pcsnn.convert(net, LEVELS)(y=y, x=x), net(x, y))


def test_options_of_forward_keep_their_default():
    net, x = build("options"), inputs("options")
    snn = pcsnn.convert(net, LEVELS)
    assert torch.equal(snn(*x), net(*x))
    with pytest.raises(TypeError):
        snn(*x, mask=x[0])


# Malformed input


@pytest.mark.parametrize(
    "model, timesteps, options, error, words",
    [
        ("text", 4, {}, TypeError, "model: expected a torch.nn.Module, got str"),
        (lambda x: x, 4, {}, TypeError, "model: "),
        (q(), 0, {}, ValueError, "timesteps: expected a value in 1..255, got 0"),
        (q(), -1, {}, ValueError, "timesteps: "),
        (q(), 256, {}, ValueError, "timesteps: .*got 256"),
        (q(), True, {}, TypeError, "timesteps: expected an integer, got bool"),
        (q(), 4.0, {}, TypeError, "timesteps: expected an integer, got float"),
        (q(), None, {}, TypeError, "timesteps: "),
        (q(), torch.tensor(4), {}, TypeError, "timesteps: "),
        (
            q(),
            4,
            {"method": "fast"},
            ValueError,
            "method: expected one of auto, none, max, paper, quick, light, advanced, got 'fast'",
        ),
        (q(), 4, {"method": None}, ValueError, "method: "),
        (nn.ReLU(), 4, {}, ValueError, "calibration: expected data for method 'light', got None"),
        (nn.ReLU(), 4, {"method": "max"}, ValueError, "calibration: expected data for method 'max', got None"),
        (nn.ReLU(), 4, {"method": "none"}, ValueError, "method: 'none' needs activations with a bound"),
    ],
)
def test_malformed_arguments(model, timesteps, options, error, words):
    with pytest.raises(error, match=words):
        pcsnn.convert(model, timesteps, **options)


def test_converting_twice_is_refused():
    snn = pcsnn.convert(build("mlp"), LEVELS)
    with pytest.raises(TypeError, match="is a SpikingNetwork already"):
        pcsnn.convert(snn, LEVELS)


def test_a_negative_learned_threshold_is_refused():
    net = build("mlp")
    net[1].threshold.data.fill_(-1.0)
    with pytest.raises(ValueError, match="threshold: expected values above zero"):
        pcsnn.convert(net, LEVELS)
