"""pcsnn.optimize: fused networks against those they were made of, layer by layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lib import data, networks
from tiny_networks import LEVELS, NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import reference
from pcsnn.fusion.quantise import limit, quantise
from pcsnn.levels import even
from pcsnn.nn import (
    QCFS,
    CollapsedNeuron,
    CountSumPool2d,
    PixelCounts,
    Rates,
    SpikingConv2d,
    SpikingLinear,
    SynapticConv2d,
    SynapticLinear,
)
from pcsnn.tensors.arithmetic import per_channel

WEIGHTS = ("float32", "bfloat16", "int8")
T = 2 * LEVELS


def converted(name, activation=lambda: QCFS(LEVELS), timesteps=T):
    net = build(name, activation)
    method = (
        dict(method="none") if activation is not nn.ReLU else dict(method="quick", calibration=[inputs(name, batch=24)])
    )
    return pcsnn.convert(net, timesteps, progress=False, strict=False, **method)


def counts(snn, *x):
    with torch.no_grad(), pcsnn.record(snn) as record:
        snn(*x)
    return record.counts


def wide(activation=lambda: QCFS(LEVELS), seed=2):
    """A residual network with every form that passes on counts: 16 and more channels, a branch with a convolution, one
    without, max pools, a concatenation, slices and padding, a flattened end; 16 channels are int8's least."""

    def forward(s, x):
        x = s.a(s.norm(s.stem(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        x = s.c(s.two(s.b(s.one(x))) + x)
        x = s.e(s.four(s.d(s.three(x))) + s.side(x))
        y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = s.g(s.six(s.f(s.five(x))) + y)
        x = torch.cat([x, s.h(s.seven(x))], 1)
        x = s.pool(s.i(s.deep(x)))
        return s.last(s.j(s.linear(torch.flatten(x, 1))))

    parts = dict(
        stem=conv(3, 16, bias=False),
        norm=nn.BatchNorm2d(16),
        one=conv(16, 16),
        two=conv(16, 16),
        three=conv(16, 24, stride=2),
        four=conv(24, 24),
        side=conv(16, 24, 1, 0, stride=2),
        five=conv(24, 16, stride=2),
        six=conv(16, 32),
        seven=conv(32, 16),
        deep=conv(48, 48, groups=48),
        pool=nn.MaxPool2d(2),
        linear=nn.Linear(48, 20),
        last=nn.Linear(20, 7),
    )
    return randomise(network(forward, **parts, **{name: activation() for name in "abcdefghij"}), seed)


def pictures(batch=6, seed=5):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def wide_snn(timesteps=T, **options):
    return pcsnn.convert(
        wide(**options),
        timesteps,
        progress=False,
        **({"calibration": pictures(32), "method": "quick"} if options else {"method": "none"}),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_keeps_every_count(name):
    snn = converted(name)
    before, x = copy.deepcopy(snn.state_dict()), inputs(name)
    fused = pcsnn.optimize(snn)
    expected, found = counts(snn, *x), counts(fused, *x)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)
    torch.testing.assert_close(fused(*x), snn(*x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in snn.state_dict().items())


@pytest.mark.parametrize("weights", WEIGHTS[1:])
@pytest.mark.parametrize("activation", [lambda: QCFS(LEVELS), nn.ReLU], ids=["qcfs", "relu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_counts_between_layers(name, activation, weights):
    snn = converted(name, activation)
    x = inputs(name)
    fused = pcsnn.optimize(snn, weights)
    with pcsnn.use_backend("reference"):
        expected = fused(*x)
    torch.testing.assert_close(fused(*x), expected, rtol=1e-5, atol=1e-5)
    found, before = counts(fused, *x), counts(snn, *x)
    assert found.keys() == before.keys()
    for layer in before:
        assert found[layer].max() <= T and found[layer].shape == before[layer].shape
        assert (found[layer].double() - before[layer].double()).abs().mean() < 0.6, layer


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("timesteps", [T, 5, 127, 129, 255])
def test_int8_is_what_its_whole_numbers_say(timesteps, relu):
    """Every fused layer against float64: its own weights times their scale, on the counts that reach it."""
    snn = (
        wide_snn(timesteps, activation=nn.ReLU)
        if relu
        else pcsnn.convert(wide(), timesteps, method="quick", calibration=pictures(32), progress=False)
    )
    fused = pcsnn.optimize(snn, "int8")
    seen, hooks = {}, []
    for name, module in fused.network.named_modules():
        if isinstance(module, (SpikingConv2d, SpikingLinear)) and module.counted:
            hooks.append(
                module.register_forward_hook(
                    lambda layer, arguments, output, name=name: seen.__setitem__(name, (layer, arguments, output))
                )
            )
    with torch.no_grad():
        out = fused(pictures())
        with pcsnn.use_backend("reference"):
            assert torch.equal(fused(pictures()), out)
    kinds = {name: layer.weight.dtype for name, (layer, *_) in seen.items()}
    bent = snn.network.get_submodule("i").bend is not None  # the depthwise layer
    assert kinds.pop("i") == (torch.float32 if bent else torch.int8)
    assert set(kinds.values()) == {torch.int8} and len(kinds) == 8
    for name, (layer, (x, *residual), found) in seen.items():
        unit = (
            1 if layer.weight_scale is None else layer.weight_scale.double().view(-1, *[1] * (layer.weight.dim() - 1))
        )
        weight = layer.weight.double() * unit / layer.input_steps
        bias = layer.bias.double()
        doubt = (
            (1.5 * unit / layer.input_steps).view(1, -1, *[1] * (found.dim() - 2))
            if layer.weight_scale is not None
            else 1e-5
        )
        z = (
            F.linear(x.double(), weight, bias)
            if isinstance(layer, SpikingLinear)
            else F.conv2d(x.double(), weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        )
        if residual and residual[0].dtype == torch.uint8:
            steps = timesteps // even.repeat_of(timesteps, layer.residual_levels)
            z = z + residual[0].double() * per_channel(layer.residual_worth.double() / steps, 4)
            doubt = doubt * (1 + residual[0].double())
        elif residual:
            z = z + residual[0].double() * layer.weight_scale.double().view(1, -1, 1, 1) / layer.input_steps
        low, high = (
            reference.search(z + shift, layer.levels.double()) // (timesteps // layer.steps)
            for shift in (-doubt, doubt)
        )
        assert ((low <= found) & (found <= high)).all(), name
        assert (high - low).double().mean() < 0.25 * max(1, timesteps / 32), name
        assert found.max() <= layer.steps


def test_what_each_layer_becomes():
    fused = pcsnn.optimize(wide_snn(), "int8")
    kinds = [
        type(fused.network.get_submodule(node.target)) for node in fused.network.graph.nodes if node.op == "call_module"
    ]
    assert kinds.count(SpikingConv2d) == 9 and kinds.count(SpikingLinear) == 1 and kinds.count(SynapticConv2d) == 1
    assert kinds.count(Rates) == 1 and CollapsedNeuron not in kinds and nn.BatchNorm2d not in kinds
    details = {row.name: row.detail for row in fused.report.rows}
    assert details["a"].startswith("QCFS, float32 weights, counts: threshold") and "lossless" not in details["b"]
    assert details["b"].startswith("QCFS, int8 weights, counts: threshold")
    assert details["side"] == "Conv2d, int8 weights, current"
    assert details["i"].startswith("QCFS, int8 weights, counts")
    bent = pcsnn.optimize(wide_snn(activation=nn.ReLU), "int8")
    assert {row.name: row.detail for row in bent.report.rows}["i"].startswith("ReLU, float32 weights, counts")
    in_float = pcsnn.optimize(wide_snn())
    details = {row.name: row.detail for row in in_float.report.rows}
    assert details["b"].startswith("QCFS, float32 weights, rates: threshold") and details["b"].endswith("lossless")
    assert type(in_float.network.get_submodule("a")) is CollapsedNeuron  # its batch norm would round anew


@pytest.mark.parametrize("weights", WEIGHTS)
def test_it_remains_an_ordinary_network(weights, tmp_path):
    x = pictures()
    snn = wide_snn(activation=nn.ReLU, timesteps=6)
    fused = pcsnn.optimize(snn, weights)
    out = fused(x)
    pcsnn.save(fused, tmp_path / "net.safetensors")
    loaded = pcsnn.load(tmp_path / "net.safetensors")
    assert str(loaded.report) == str(fused.report)
    exported = torch.export.export(fused, (x,)).module()
    for other in (copy.deepcopy(fused), loaded, torch.compile(fused, backend="eager", fullgraph=True), exported):
        assert torch.equal(other(x), out)
    state = copy.deepcopy(fused.state_dict())
    twin = pcsnn.optimize(wide_snn(activation=nn.ReLU, timesteps=6), weights)
    twin.load_state_dict(state)
    assert torch.equal(twin(x), out)
    assert torch.equal(fused.double().float()(x), out) or weights == "float32"
    with pcsnn.record(fused) as record:
        fused(x)
    assert record.spikes("b").shape[0] == 6 and record.rates().keys() == record.counts.keys()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_another_number_of_timesteps(weights):
    snn = wide_snn()
    fused = pcsnn.optimize(snn, weights)
    for timesteps in (3, 12, 255, T):
        again = pcsnn.optimize(pcsnn.set_timesteps(snn, timesteps), weights)
        pcsnn.set_timesteps(fused, timesteps)
        x = pictures()
        if timesteps > 129 and weights == "int8":  # the weights kept seven bits or eight, by the T they were made for
            assert (fused(x) - again(x)).abs().mean() < 0.2 * again(x).abs().mean()
            continue
        assert torch.equal(fused(x), again(x))
        assert [row.detail for row in fused.report.rows] == [row.detail for row in again.report.rows]


def inverted_residual():
    """Convolutions of counts with no neuron right behind them: their sum is a value."""

    def forward(s, x):
        x = s.project(s.a(s.stem(x)))
        x = x + s.second(s.c(s.depthwise(s.b(s.expand(x)))))
        return s.last(s.d(s.head(x)))

    parts = dict(
        stem=conv(3, 16),
        project=conv(16, 8, 1, 0),
        expand=conv(8, 32, 1, 0),
        depthwise=conv(32, 32, groups=32),
        second=conv(32, 8, 1, 0),
        head=conv(8, 24, 1, 0),
        last=conv(24, 5),
    )
    return randomise(network(forward, **parts, **{name: nn.ReLU6() for name in "abcd"}))


def test_sums_of_values():
    net, x = inverted_residual(), pictures()
    snn = pcsnn.convert(net, 16, method="max", calibration=x, progress=False)
    fused = pcsnn.optimize(snn, "int8")
    details = {row.name: row.detail for row in fused.report.rows}
    assert details["project"] == details["second"] == "Conv2d, int8 weights, values"
    assert type(fused.network.get_submodule("last")) is nn.Conv2d
    with pcsnn.use_backend("reference"):
        expected = fused(x)
    assert torch.equal(fused(x), expected)
    assert (fused(x) - snn(x)).norm() < 0.05 * snn(x).norm()
    pcsnn.set_timesteps(fused, 64)
    pcsnn.set_timesteps(snn, 64)
    assert (fused(x) - snn(x)).norm() < 0.02 * snn(x).norm()
    for options, error in ((dict(emits="rates"), ValueError), (dict(emits="values"), TypeError)):
        with pytest.raises(error, match="emits: expected|weight: expected"):
            SynapticConv2d(torch.zeros(2, 3, 1, 1), 4, **options)


def averaging(activation=lambda: QCFS(LEVELS), seed=3):
    """Average pools in all forms: windows, a padded function after a max pool, concatenated, a residual, adaptive."""

    def forward(s, x):
        x = s.pool(s.a(s.stem(x)))
        y = F.avg_pool2d(F.max_pool2d(s.b(s.one(x)), 1), 3, stride=1, padding=1)
        x = s.c(s.two(torch.cat([x, s.pool(s.d(s.wide(x)))], 1)) + F.avg_pool2d(y, (1, 2), (2, 2)))
        return s.last(s.e(s.linear(torch.flatten(s.adaptive(x), 1))))

    parts = dict(
        stem=conv(3, 16),
        pool=nn.AvgPool2d(2),
        one=conv(16, 24),
        wide=nn.ConvTranspose2d(16, 16, 2, stride=2),
        two=conv(32, 24, stride=2),
        adaptive=nn.AdaptiveAvgPool2d((2, 1)),
        linear=nn.Linear(48, 20),
        last=nn.Linear(20, 7),
    )
    return randomise(network(forward, **parts, **{name: activation() for name in "abcde"}), seed)


def all_sums(fused):
    return [module for module in fused.network.modules() if isinstance(module, CountSumPool2d)]


def test_average_pools_of_counts(tmp_path):
    x = pictures()
    snn = pcsnn.convert(averaging(), LEVELS, progress=False, method="none")
    plain, fused = pcsnn.optimize(snn, "int8"), pcsnn.optimize(snn, "int8", example_inputs=x)
    assert len(all_sums(plain)) == len(all_sums(fused)) - 1
    assert type(plain.network.get_submodule("adaptive")) is nn.AdaptiveAvgPool2d
    with pcsnn.use_backend("reference"):
        expected = fused(x)
    assert torch.equal(fused(x), expected)
    assert (fused(x) - snn(x)).norm() < 0.05 * snn(x).norm()
    assert (fused(x) - plain(x)).norm() < 0.05 * snn(x).norm()
    pcsnn.save(fused, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(x), expected)
    with pytest.raises(ValueError, match=r"counts: expected height and width \(4, 4\).*got \(8, 8\)"):
        fused(torch.randn(1, 3, 32, 32))
    before = copy.deepcopy(fused.state_dict())
    with pytest.raises(
        ValueError,
        match="timesteps: expected at most 63 where average pooling adds up the counts of 4 neurons, got 211",
    ):
        pcsnn.set_timesteps(fused, 211)
    assert fused.timesteps == LEVELS and all(
        torch.equal(value, before[key]) for key, value in fused.state_dict().items()
    )
    pcsnn.set_timesteps(fused, 2 * LEVELS)
    assert torch.equal(fused(x), pcsnn.optimize(pcsnn.set_timesteps(snn, 2 * LEVELS), "int8", example_inputs=x)(x))


def test_average_pools_whose_sums_pass_a_byte():
    x = pictures()
    snn = pcsnn.convert(averaging(nn.ReLU), 60, progress=False, method="max", calibration=x)
    fused = pcsnn.optimize(snn, "int8", example_inputs=x)
    assert {module.kernel_size for module in all_sums(fused)} == {(2, 2)}
    assert (fused(x) - snn(x)).norm() < 0.02 * snn(x).norm()


def test_cut_off_windows_keep_their_divisors():
    def forward(s, x):
        x = s.a(s.stem(x))
        return s.last(
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            + F.avg_pool2d(x, 3, 2, 1, True)
            + F.avg_pool2d(x, 3, 2, 1, divisor_override=5)
        )

    net = randomise(network(forward, stem=conv(3, 16), last=conv(16, 16), a=QCFS(LEVELS)))
    snn = pcsnn.convert(net, LEVELS, progress=False, method="none")
    x = torch.randn(2, 3, 15, 15, generator=torch.Generator().manual_seed(1))
    fused = pcsnn.optimize(snn, "int8")
    assert not all_sums(fused)
    torch.testing.assert_close(fused(x), snn(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("net", [wide, averaging])
def test_first_and_last_layer_in_int8(net, tmp_path):
    images = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(4))
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.5, 0.4, 0.6), (0.2, 0.25, 0.3)))
    x = (images / 255 - mean) / deviation
    snn = pcsnn.convert(net(), LEVELS, progress=False, method="none")
    fused = pcsnn.optimize(snn, "int8", example_inputs=x, first_last=True)
    kinds = [type(module) for module in fused.network.modules()]
    assert kinds.count(PixelCounts) == kinds.count(SynapticLinear) == 1 and nn.Linear not in kinds
    pixels = next(module for module in fused.network.modules() if isinstance(module, PixelCounts))
    inside = pixels(x)[:, :, 1:-1, 1:-1]
    assert torch.equal(inside.long(), images)  # bytes come back
    assert fused.network.get_submodule("a").weight.dtype == torch.int8
    with pcsnn.use_backend("reference"):
        expected = fused(x)
    assert torch.equal(fused(x), expected)
    assert (fused(x) - snn(x)).norm() < 0.1 * snn(x).norm()
    first = counts(snn, x)["a"].double() - counts(fused, x)["a"].double()
    assert first.abs().mean() < 0.05 and first.abs().max() <= 2 * LEVELS / 8 + 1
    pcsnn.save(fused, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(x), expected)


def test_scales_are_fractions_of_the_distance_of_levels():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 9, 3, 3, generator=generator, dtype=torch.float64)
    distance = torch.rand(20, generator=generator, dtype=torch.float64) * 5 + 0.5
    distance[3] = torch.inf
    weight[4] = 0
    (whole,), scale = quantise([weight], 32, distance)
    units = distance / scale
    alive = distance.isfinite()
    assert ((units - units.round()).abs() < 1e-3)[alive].all() and whole.dtype == torch.int8
    error = (whole * scale.view(-1, 1, 1, 1) - weight).square().flatten(1).sum(1)
    plain = weight.abs().flatten(1).amax(1) / 127
    rounded = (weight / plain.view(-1, 1, 1, 1)).round().nan_to_num() * plain.view(-1, 1, 1, 1)
    assert error.sum() <= (rounded - weight).square().sum() * 1.05
    pair, common = quantise([weight, 2 * weight[:, :2]], 32)
    assert len(common) == 20 and pair[1].shape == (20, 2, 3, 3)
    assert limit(32) == limit(129) == 127 and 2 * 255 * limit(255) <= 2**15 - 1 < 2 * 255 * (limit(255) + 1)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: pcsnn.optimize(wide()), TypeError, "snn: expected a SpikingNetwork"),
        (
            lambda: pcsnn.optimize(wide_snn(), "int4"),
            ValueError,
            "weights: expected one of float32, bfloat16, int8, got 'int4'",
        ),
        (lambda: pcsnn.optimize(pcsnn.optimize(wide_snn())), ValueError, "snn: is optimised"),
        (
            lambda: pcsnn.optimize(wide_snn(), "int8", first_last=True),
            ValueError,
            "first_last: expected with .*example_inputs=None",
        ),
        (
            lambda: pcsnn.optimize(wide_snn(), first_last=True, example_inputs=pictures()),
            ValueError,
            "first_last: expected with weights='int8'",
        ),
        (
            lambda: pcsnn.optimize(wide_snn(), "int8", example_inputs=pictures() / 0),
            ValueError,
            "example_inputs: expected finite",
        ),
        (lambda: pcsnn.optimize(wide_snn().double()), ValueError, "snn: expected float32 weights, got torch.float64"),
        (lambda: pcsnn.baselines.serial(pcsnn.optimize(wide_snn())), ValueError, "snn: is optimised"),
        (
            lambda: pcsnn.analysis.layer_errors(wide(), pcsnn.optimize(wide_snn()), pictures()),
            ValueError,
            "snn: is optimised",
        ),
        (
            lambda: SpikingConv2d(torch.zeros(2, 3, 1, 1), 4, threshold=1.0, emits="spikes"),
            ValueError,
            "emits: expected counts or rates",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", ["resnet20", "vgg"])
def test_shipped_networks_stay_as_accurate(name):
    net, options = networks.load(networks.checkpoint_path(name))
    images, labels = data.fashion_mnist("t10k")
    images, labels = data.normalise(images[:600], data.FASHION_MNIST), labels[:600]
    snn = pcsnn.convert(net, options["levels"], method="none")
    with torch.no_grad():
        right = {
            weights: (pcsnn.optimize(snn, weights)(images).argmax(1) == labels).sum().item()
            for weights in ("float32", "int8")
        }
    assert abs(right["float32"] - right["int8"]) <= 4


def test_fused_layers_refuse_what_is_no_tensor():
    for weights in WEIGHTS:
        layer = next(
            module for module in pcsnn.optimize(wide_snn(), weights).modules() if isinstance(module, SpikingConv2d)
        )
        with pytest.raises(TypeError, match="expected a tensor, got list"):
            layer([[1.0]])
