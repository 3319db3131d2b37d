"""Activations that a network writes out: found, equal to what the network computes, and spiking as their module
does."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.tracing.trace import trace
from pcsnn.graph.written import ClippedReLU, Staircase

EDGES = torch.tensor([0.0, 1e-45, 1e-30, 1e-7, 0.25, 0.5, 0.75, 0.8, 1.0, 1.5, 2.0, 2.75, 3.0, 6.0, 6.5, 20.0, 1e4])


def values(channels=3):
    """[N, C] with edges, their neighbours, both signs of zero, and random numbers."""
    near = torch.cat(
        [EDGES, torch.nextafter(EDGES, torch.tensor(math.inf)), torch.nextafter(EDGES, torch.tensor(-math.inf))]
    )
    generator = torch.Generator().manual_seed(0)
    some = torch.cat(
        [near, -near, 2 * torch.randn(3000, generator=generator), torch.randint(-9, 9, (200,), generator=generator) / 8]
    )
    return torch.stack([some.roll(i) for i in range(channels)], 1)


class Form(nn.Module):
    """A form alone, with what it may read."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.up, self.one = nn.Parameter(torch.tensor([0.8])), nn.Parameter(torch.tensor(0.75))
        self.bounds = nn.Parameter(torch.tensor([[0.5], [0.75], [2.0]]))
        self.log = nn.Parameter(torch.tensor(0.3))
        self.slopes = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer("zero", torch.zeros(1))
        self.relu, self.relu6, self.threshold = nn.ReLU(), nn.ReLU6(), nn.Threshold(0.0, 0.0)

    def forward(self, x):
        return self.form(self, x)


def canonical(form, signed=False):
    network = trace(Form(form).eval())
    canonicalise(network, signed)
    places = [network.get_submodule(node.target) for node in network.graph.nodes if node.meta.get("activation")]
    return network, places


RELUS = {
    "where(x > 0, x, 0)": lambda s, x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where(x >= 0, x, 0.0)": lambda s, x: torch.where(x >= 0, x, 0.0),
    "where(x < 0, 0, x)": lambda s, x: torch.where(x < 0, s.zero, x),
    "where(0 < x, x, 0)": lambda s, x: torch.where(0 < x, x, torch.zeros(())),
    "x.where": lambda s, x: x.where(x > 0, torch.zeros_like(x)),
    "x * (x > 0)": lambda s, x: x * (x > 0),
    "(x > 0).float() * x": lambda s, x: (x > 0).float() * x,
    "x * x.gt(0).to(x.dtype)": lambda s, x: x * x.gt(0).to(x.dtype),
    "x * (x >= 0).type_as(x)": lambda s, x: x * (x >= 0).type_as(x),
    "maximum(x, zeros_like(x))": lambda s, x: torch.maximum(x, torch.zeros_like(x)),
    "torch.max(zero, x)": lambda s, x: torch.max(s.zero, x),
    "x.max(x.new_zeros(1))": lambda s, x: x.max(x.new_zeros(1)),
    "F.threshold": lambda s, x: F.threshold(x, 0, 0),
    "nn.Threshold": lambda s, x: s.threshold(x),
    "masked_fill": lambda s, x: x.masked_fill(x < 0, 0),
    "clamp(min=buffer)": lambda s, x: torch.clamp(x, min=s.zero[0]),
}
CLIPS = {  # form -> (form, bound)
    "clamp(relu(x), max=1)": (lambda s, x: torch.clamp(torch.relu(x), max=1), 1.0),
    "clamp(min=0).clamp(max=1)": (lambda s, x: x.clamp(min=0).clamp(max=1), 1.0),
    "relu(x).clamp_max(1.5)": (lambda s, x: F.relu(x).clamp_max(1.5), 1.5),
    "relu(clamp(x, max=1))": (lambda s, x: torch.relu(x.clamp(max=1)), 1.0),
    "minimum(relu(x), learned)": (lambda s, x: torch.minimum(torch.relu(x), s.up), 0.8),
    "torch.min(learned, relu(x))": (lambda s, x: torch.min(s.up, torch.relu(x)), 0.8),
    "clamp(x, 0, learned)": (lambda s, x: torch.clamp(x, torch.zeros(()), s.up[0]), 0.8),
    "clamp(x, 0, exp(learned))": (lambda s, x: torch.clamp(x, s.zero, torch.exp(s.log)), math.exp(0.3)),
    "hardtanh(relu(x), -1, 2)": (lambda s, x: F.hardtanh(torch.relu(x), -1, 2), 2.0),
    "relu6(relu(x))": (lambda s, x: s.relu6(s.relu(x)), 6.0),
    "clamp(relu6(x), max=2)": (lambda s, x: s.relu6(x).clamp(max=2.0), 2.0),
    "where(x > c, c, relu)": (
        lambda s, x: (lambda h: torch.where(h > 1.5, torch.full_like(h, 1.5), h))(torch.relu(x)),
        1.5,
    ),
    "masked_fill(relu > c, c)": (lambda s, x: (lambda h: h.masked_fill(h > 1.5, 1.5))(torch.relu(x)), 1.5),
    "relu(maximum)": (lambda s, x: torch.minimum(torch.maximum(x, s.zero), s.one), 0.75),
}
ROUNDED_CLIPS = {  # equal in exact arithmetic
    "TCL": (lambda s, x: s.up - torch.relu(s.up - torch.relu(x)), 0.8),
    "TCL with relu of the shifted": (lambda s, x: torch.relu(s.up - torch.relu(s.up - x)), 0.8),
    "relu(x) - relu(x - a)": (lambda s, x: torch.relu(x) - torch.relu(x - 1.5), 1.5),
    "relu(x) - relu(x - learned)": (lambda s, x: F.relu(x) - F.relu(x - s.one), 0.75),
    "PACT": (lambda s, x: 0.5 * (torch.abs(x) - torch.abs(x - s.up) + s.up), 0.8),
    "PACT divided by two": (lambda s, x: (x.abs() - (s.one - x).abs() + s.one) / 2, 0.75),
    "PACT in other order": (lambda s, x: (s.up + x.abs() - (x - s.up).abs()) * 0.5, 0.8),
}


@pytest.mark.parametrize("form", RELUS)
def test_forms_of_relu_are_relu(form):
    network, places = canonical(RELUS[form])
    assert [type(place) for place in places] == [nn.ReLU]
    x = values()
    assert torch.equal(network(x), Form(RELUS[form])(x)) and torch.equal(network(x), torch.relu(x))


@pytest.mark.parametrize("form", CLIPS)
def test_forms_of_clipping_are_one_clipped_relu(form):
    form, bound = CLIPS[form]
    network, places = canonical(form)
    assert [type(place) for place in places] == [nn.Hardtanh]
    assert places[0].min_val == 0 and places[0].max_val == pytest.approx(bound, rel=1e-6)
    assert torch.equal(network(values()), Form(form)(values()))


@pytest.mark.parametrize("form", ROUNDED_CLIPS)
def test_differences_and_absolute_values_are_one_clipped_relu(form):
    form, bound = ROUNDED_CLIPS[form]
    network, places = canonical(form)
    assert [type(place) for place in places] == [nn.Hardtanh]
    assert places[0].max_val == pytest.approx(bound, rel=1e-6)
    x = values()[values().abs().amax(1) < 100].double()
    torch.testing.assert_close(network.double()(x), Form(form).double()(x), rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "form",
    [
        lambda s, x: torch.minimum(torch.relu(x), s.bounds),
        lambda s, x: torch.clamp(x, s.zero, s.bounds),
        lambda s, x: s.bounds - torch.relu(s.bounds - torch.relu(x)),
    ],
)
def test_bounds_by_channel(form):
    network, (place,) = canonical(form)
    assert isinstance(place, ClippedReLU)
    x = values()[:, :, None].expand(-1, -1, 2)
    torch.testing.assert_close(network(x), Form(form)(x), rtol=1e-6, atol=2e-3)  # x to 1e4 in the difference
    torch.testing.assert_close(network(x), torch.minimum(x.relu(), place.bound.float()), rtol=0, atol=0)


NO_CLIPS = {
    "other value": lambda s, x: torch.where(x > 0, x, torch.ones_like(x)),
    "other limit": lambda s, x: torch.where(x > 1, x, torch.zeros_like(x)),
    "other input": lambda s, x: torch.where(x > 0, x * 2, torch.zeros_like(x)),
    "mask of another": lambda s, x: x * (x * x > 0),
    "mask of the negative": lambda s, x: x * (x < 0),
    "mask above one": lambda s, x: x * (x > 1),
    "threshold above zero": lambda s, x: F.threshold(x, 0.1, 0.0),
    "threshold to another value": lambda s, x: F.threshold(x, 0.0, 0.5),
    "bound below zero": lambda s, x: torch.minimum(torch.relu(x), -s.up),
    "low above zero": lambda s, x: torch.clamp(x, 0.1, 0.3),
    "unlike shifts": lambda s, x: torch.abs(x) - torch.abs(x - 1) + 2,
    "bound that depends on the input": lambda s, x: torch.minimum(torch.maximum(x, x - 1), x.mean()),
    "minimum of two": lambda s, x: torch.minimum(x, 1 - x),
}


@pytest.mark.parametrize("form", NO_CLIPS)
def test_what_is_no_clip_is_left_alone(form):
    network, places = canonical(NO_CLIPS[form])
    x = values()
    assert torch.equal(network(x), Form(NO_CLIPS[form])(x))
    assert (
        all(type(place) is nn.ReLU for place in places) and "relu" in form or not places or form == "bound below zero"
    )


class Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def _ste(y):
    return y + (torch.floor(y) - y).detach()


STAIRCASES = {
    "clamp inside": lambda s, x: Floor.apply(torch.clamp(x / s.up, 0, 1) * 8 + 0.5) / 8 * s.up,
    "clamp outside": lambda s, x: torch.clamp(Floor.apply(x / s.up * 8 + 0.5) / 8, 0, 1) * s.up,
    "relu and clamp": lambda s, x: torch.floor(torch.clamp(torch.relu(x / s.up), max=1.0) * 8 + 0.5) / 8 * s.up,
    "clamp at the threshold": lambda s, x: torch.floor(torch.clamp(x, 0, 0.8) * 10 + 0.5) * 0.1,
    "levels clamped": lambda s, x: s.up * torch.clamp(torch.floor(x * 8 / s.up + 0.5), 0, 8) / 8,
    "straight through by detach": lambda s, x: _ste(torch.clamp(x / s.up, 0, 1) * 8 + 0.5) / 8 * s.up,
    "half first": lambda s, x: torch.floor(0.5 + 8 * (x / s.up).clamp(0.0, 1.0)).mul(s.up).div(8.0),
    "minimum with a learned threshold": lambda s, x: (
        torch.floor(torch.minimum(torch.relu(x), s.up) / s.up * 8 + 0.5) / 8 * s.up
    ),
}


@pytest.mark.parametrize("form", STAIRCASES)
def test_staircases_written_out_compute_what_they_did_and_spike_as_qcfs(form):
    network, (place,) = canonical(STAIRCASES[form])
    assert isinstance(place, Staircase) and place.levels == 8 and place.threshold.item() == pytest.approx(0.8)
    assert torch.equal(network(values()), Form(STAIRCASES[form])(values()))
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(500, 3, generator=generator) * 1.2 - 0.2
    expected = pcsnn.nn.QCFS(8, 0.8)(x)
    for timesteps in (8, 16):
        snn = pcsnn.convert(Form(STAIRCASES[form]), timesteps)
        assert snn.report.method == "none"
        torch.testing.assert_close(snn(x), expected.detach(), rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    "form, words",
    [
        (lambda s, x: torch.round(torch.clamp(x / s.up, 0, 1) * 8) / 8 * s.up, "pcsnn.nn.QCFS(8, threshold=0.8)"),
        (lambda s, x: torch.ceil(torch.clamp(x / s.up, 0, 1) * 8) / 8 * s.up, "load_qcfs_checkpoint"),
        (lambda s, x: torch.floor(torch.clamp(x / s.up, 0, 1) * 8 + 0.5) / 8 * s.one, "load_qcfs_checkpoint"),
        # another gain
        (lambda s, x: torch.floor(torch.clamp(x / s.up, 0, 1) * 8 + 0.25) / 8 * s.up, "load_qcfs_checkpoint"),
        (lambda s, x: torch.floor(torch.clamp(x / s.up, 0, 1) * 8.5 + 0.5) / 8.5 * s.up, "load_qcfs_checkpoint"),
    ],
)
def test_other_staircases_are_refused_and_named(form, words):
    net = nn.Sequential(nn.Linear(3, 3), Form(form), nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ValueError, match="cannot spike") as error:
        pcsnn.convert(net, 8)
    assert words in str(error.value) and "retrain" not in str(error.value)


SIGNED = {
    "x * sigmoid(x)": (lambda s, x: x * torch.sigmoid(x), nn.SiLU()),
    "sigmoid(x) * x": (lambda s, x: x.sigmoid() * x, nn.SiLU()),
    "x / 2 * sigmoid(x) * 2": (lambda s, x: 2 * (x / 2 * F.sigmoid(x)), nn.SiLU()),
    "x * relu6(x + 3) / 6": (lambda s, x: x * F.relu6(x + 3) / 6, nn.Hardswish()),
    "x * (relu6(x + 3) / 6)": (lambda s, x: x * (s.relu6(x + 3.0) * (1 / 6)), nn.Hardswish()),
    "x * hardsigmoid(x)": (lambda s, x: x * F.hardsigmoid(x), nn.Hardswish()),
    "x * clamp(x + 3, 0, 6) / 6": (lambda s, x: x * torch.clamp(x + 3, 0, 6) / 6, nn.Hardswish()),
    "x * clamp(x / 6 + 0.5, 0, 1)": (lambda s, x: x * torch.clamp(x / 6 + 0.5, 0, 1), nn.Hardswish()),
    "x * tanh(softplus(x))": (lambda s, x: x * torch.tanh(F.softplus(x)), nn.Mish()),
    "x / 2 * (1 + erf)": (lambda s, x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), nn.GELU()),
    "x * (0.5 + erf / 2)": (lambda s, x: x * (0.5 + 0.5 * torch.erf(x * 0.7071067811865476)), nn.GELU()),
    "GELU by tanh": (
        lambda s, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))),
        nn.GELU("tanh"),
    ),
    "GELU by tanh, x * x": (
        lambda s, x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
        nn.GELU("tanh"),
    ),
    "GELU by tanh, x ** 3": (
        lambda s, x: x / 2 * (torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)) + 1),
        nn.GELU("tanh"),
    ),
    "x * sigmoid(1.702 x)": (lambda s, x: x * torch.sigmoid(1.702 * x), None),
    "x * sigmoid(learned x)": (lambda s, x: x * torch.sigmoid(s.up * x), None),
    "F.prelu": (lambda s, x: F.prelu(x, s.slopes), None),
    "torch.prelu, one slope": (lambda s, x: torch.prelu(x, s.up), nn.LeakyReLU(0.8)),
    "where(x > 0, x, 0.1 x)": (lambda s, x: torch.where(x > 0, x, 0.1 * x), nn.LeakyReLU(0.1)),
    "where(x < 0, x / 8, x)": (lambda s, x: torch.where(x < 0, x / 8, x), nn.LeakyReLU(0.125)),
    "maximum(x, 0.1 x)": (lambda s, x: torch.maximum(0.1 * x, x), nn.LeakyReLU(0.1)),
    "F.celu": (lambda s, x: F.celu(x), nn.ELU()),
    "F.celu(1.5)": (lambda s, x: F.celu(x, 1.5), nn.CELU(1.5)),
    "torch.selu": (lambda s, x: torch.selu(x), nn.SELU()),
    "F.rrelu": (lambda s, x: F.rrelu(x, training=s.training), nn.LeakyReLU((1 / 8 + 1 / 3) / 2)),
    "F.hardtanh": (lambda s, x: F.hardtanh(x), nn.Hardtanh()),
    "clamp(-0.5, 2)": (lambda s, x: x.clamp(-0.5, 2), nn.Hardtanh(-0.5, 2.0)),
    "minimum of maximum": (lambda s, x: torch.minimum(torch.maximum(x, -s.one), s.up), None),
}


@pytest.mark.parametrize("form", SIGNED)
def test_signed_forms_compute_what_they_did(form):
    form, module = SIGNED[form]
    network, places = canonical(form, signed=True)
    assert len(places) == 1
    x = values()[values().abs().amax(1) < 50].double()
    expected = Form(form).eval().double()(x)
    torch.testing.assert_close(network.double()(x), expected, rtol=1e-6, atol=1e-6)
    if module is not None:
        torch.testing.assert_close(expected, module.eval()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        "x * sigmoid(x)",
        "x * sigmoid(1.702 x)",
        "GELU by tanh",
        "F.celu(1.5)",
        "F.prelu",
        "clamp(-0.5, 2)",
        "torch.selu",
    ],
)
def test_signed_forms_spike(form):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 3), Form(SIGNED[form][0]), nn.Linear(3, 4)).eval()
    x = torch.randn(300, 5)
    with torch.no_grad():
        expected = net(x)
    snn = pcsnn.convert(net, 255, calibration=x, method="max", signed=True)
    assert (snn(x) - expected).norm() < 0.03 * (expected - expected.mean(0)).norm()
    assert len(list(snn.neurons())) == 1
    snn, x = snn.double(), x.double()
    torch.testing.assert_close(pcsnn.baselines.packed(snn)(x), snn(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["x * sigmoid(x)", "GELU by tanh, x * x", "F.celu(1.5)", "x * tanh(softplus(x))"])
def test_without_signed_they_are_refused_by_name(form):
    net = nn.Sequential(nn.Linear(3, 3), Form(SIGNED[form][0]), nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ValueError, match="signed=True"):
        pcsnn.convert(net, 4, calibration=values())
    snn = pcsnn.convert(net, 255, calibration=values(), method="max", strict=False)
    assert [row for row in snn.report.rows if row.kind == "analog"]


OTHER_PRODUCTS = {
    "another gate": lambda s, x: x * torch.sigmoid(x + 1),
    "gate of another": lambda s, x: x * torch.sigmoid(x * x),
    "three factors": lambda s, x: x * x * torch.sigmoid(x),
    "other cube": lambda s, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.05 * x**3))),
    "half of erf": lambda s, x: x * (0.5 + 0.4 * torch.erf(x)),
}


@pytest.mark.parametrize("form", OTHER_PRODUCTS)
def test_products_that_look_alike_are_none(form):
    network, places = canonical(OTHER_PRODUCTS[form], signed=True)
    assert not places and torch.equal(network(values()), Form(OTHER_PRODUCTS[form])(values()))


def test_the_pieces_stay_where_something_else_reads_them():
    network, places = canonical(lambda s, x: (lambda h: h.clamp(max=1.0) + 2 * h)(torch.relu(x)))
    assert sorted(type(place).__name__ for place in places) == ["Hardtanh", "ReLU"]
    x = values()
    assert torch.equal(network(x), x.clamp(0, 1) + 2 * x.relu())


@pytest.mark.parametrize(
    "pool, same",
    [
        (nn.LPPool2d(1, 2), nn.AvgPool2d(2, divisor_override=1)),
        (nn.LPPool2d(1, 3, 2, ceil_mode=True), None),
        (nn.LPPool1d(1, 2), None),
        (nn.LPPool3d(1, 2), None),
        (nn.LPPool2d(1, (2, 4), stride=(1, 2)), None),
    ],
)
def test_pools_of_norm_one_are_sums(pool, same):
    rank = int(type(pool).__name__[-2])
    torch.manual_seed(1)
    x = torch.randn(4, 2, *[9] * rank)
    conv = getattr(nn, f"Conv{rank}d")
    net = nn.Sequential(conv(2, 3, 1), nn.ReLU(), pool, conv(3, 2, 1)).eval()
    network = trace(net)
    canonicalise(network)
    torch.testing.assert_close(network(x), net(x), rtol=1e-5, atol=1e-6)
    snn = pcsnn.convert(net, 255, calibration=x, method="max")
    assert (snn(x) - net(x)).norm() < 0.02 * (net(x) - net(x).mean(0)).norm()
    if same is not None:
        assert torch.equal(pool(x.abs()), same(x.abs()))
    with pytest.raises(ValueError, match="norm_type=1"):
        pcsnn.convert(nn.Sequential(conv(2, 3, 1), nn.ReLU(), type(pool)(2, 2), conv(3, 2, 1)), 4, calibration=x)
