"""What a conversion may call exact and what not, where channels keep thresholds of their own, and what errors
advise."""

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn.nn import QCFS

HERE = __file__


class Net(nn.Module):
    """Convolutions a, b of 8 channels of unlike scale, a head; `form` says what stands between."""

    def __init__(self, form, kind=nn.Conv2d):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = kind(3, 8, 3, padding=1), kind(8, 8, 3, padding=1), nn.Linear(8, 5)
        for layer in (self.a, self.b):
            layer.weight.data *= torch.logspace(-1, 0.5, 8).view(-1, *[1] * (layer.weight.dim() - 1))
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.normal_(0, 0.3), self.norm.running_var.uniform_(0.5, 2)
        self.q, self.same, self.other = QCFS(4, 1.0), QCFS(4, 1.0), QCFS(4, 2.0)
        self.form = form
        self.double().eval()

    def forward(self, x):
        return self.form(self, x)


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(5)).double()
LINES = torch.randn(16, 3, 20, generator=torch.Generator().manual_seed(5)).double()


def difference(snn, net, x):
    with torch.no_grad():
        expected = net(x)
    return ((snn(x) - expected).norm() / (expected - expected.mean(0)).norm()).item()


def gap(snn, x):
    return (pcsnn.baselines.packed(snn)(x) - snn(x)).abs().max().item()


def _pooled(s, h):
    return s.head(h.mean((2, 3)))


def _two(s, x):
    first = torch.relu(s.a(x))
    return first, torch.relu(s.b(first))


UNLIKE = {
    "amax of a stack": lambda s, x: _pooled(s, torch.stack(_two(s, x)).amax(0)),
    "amax of three": lambda s, x: _pooled(
        s, torch.stack([*_two(s, x), torch.relu(s.b(-x.mean(1, True).expand(-1, 8, -1, -1)))]).amax(0)
    ),
    "torch.max of a stack": lambda s, x: _pooled(s, torch.stack(_two(s, x), 4).max(4)[0]),
    "values of max": lambda s, x: _pooled(s, torch.max(torch.stack(_two(s, x)), dim=0).values),
    "maximum": lambda s, x: _pooled(s, torch.maximum(*_two(s, x))),
    "max of two": lambda s, x: _pooled(s, torch.max(*_two(s, x))),
    "fmax": lambda s, x: _pooled(s, torch.fmax(*_two(s, x))),
    "max pool along height": lambda s, x: _pooled(s, F.max_pool2d(torch.cat(_two(s, x), 2), 3, 1)),
    "max pool of a stack": lambda s, x: s.head(
        F.adaptive_max_pool1d(torch.stack([h.amax((2, 3)) for h in _two(s, x)], 2), 1).flatten(1)
    ),
    "amax over joined channels": lambda s, x: s.head(
        torch.cat(_two(s, x), 1).amax(1, keepdim=True).expand(-1, 8, -1, -1).mean((2, 3))
    ),
    "one layer called twice": lambda s, x: _pooled(s, torch.maximum(torch.relu(s.a(x)), torch.relu(s.a(x.flip(2))))),
    "spikes and inputs": lambda s, x: _pooled(
        s, torch.stack([torch.relu(s.a(x)), x.mean(1, True).expand(-1, 8, -1, -1)]).amax(0)
    ),
    "QCFS of other thresholds": lambda s, x: _pooled(s, torch.maximum(s.q(s.a(x)), s.other(s.a(x)))),
}


@pytest.mark.parametrize("form", UNLIKE)
def test_a_maximum_over_trains_of_unlike_worth_is_not_exact(form):
    net = Net(UNLIKE[form])
    with pytest.raises(ValueError, match="cannot spike(.|\n)*worth different values"):
        pcsnn.convert(net, 8, calibration=IMAGES, method="max")
    snn = pcsnn.convert(net, 252, calibration=IMAGES, method="max", strict=False)
    assert any("worth different values" in row.detail for row in snn.report.rows if row.kind == "analog")
    assert difference(snn, net, IMAGES) < 0.1


ALIKE = {
    "maxout of one layer": lambda s, x: (
        lambda h: s.head(torch.maximum(h[:, :4], h[:, 4:]).repeat(1, 2, 1, 1).mean((2, 3)))
    )(torch.relu(s.a(x))),
    "max over channels": lambda s, x: s.head(
        torch.relu(s.a(x)).max(1, keepdim=True)[0].expand(-1, 8, -1, -1).mean((2, 3))
    ),
    "max over places": lambda s, x: s.head(torch.relu(s.a(x)).flatten(2).max(2).values),
    "max of all": lambda s, x: s.head(torch.relu(s.a(x)).mean((2, 3)) + torch.max(torch.relu(s.a(x)))),
    "joined channels, pooled by channel": lambda s, x: s.head(
        F.max_pool2d(torch.cat(_two(s, x), 1), 2)[:, 4:12].mean((2, 3))
    ),
    "padded with zeros": lambda s, x: (
        lambda h: _pooled(s, F.max_pool2d(torch.cat([h, torch.zeros_like(h)], 2), 3, 1))
    )(torch.relu(s.a(x))),
    "activation behind the maximum": lambda s, x: s.head(torch.relu(s.a(x).flatten(2).max(2)[0])),
    "pool whose indices nobody reads": lambda s, x: _pooled(
        s, F.max_pool2d(torch.relu(s.a(x)), 2, return_indices=True)[0]
    ),
}


@pytest.mark.parametrize("form", ALIKE)
def test_maxima_of_trains_of_one_worth_are_exact(form):
    net = Net(ALIKE[form])
    snn = pcsnn.convert(net, 32, calibration=IMAGES, method="max")
    assert gap(snn, IMAGES) < 1e-12 and difference(snn, net, IMAGES) < 0.2
    assert not any(row.kind == "analog" for row in snn.report.rows)


def test_qcfs_of_one_threshold_may_be_compared_until_calibration_parts_them():
    net = Net(lambda s, x: _pooled(s, torch.maximum(s.q(s.a(x)), s.same(s.b(s.q(s.a(x)))))))
    snn = pcsnn.convert(net, 8)
    assert torch.equal(snn(IMAGES), net(IMAGES)) and gap(snn, IMAGES) < 1e-12
    with pytest.raises(ValueError, match="worth different values after method 'quick'"):
        pcsnn.convert(net, 3, calibration=IMAGES, method="quick")
    snn = pcsnn.convert(net, 3, calibration=IMAGES, method="quick", strict=False)
    assert [row.kind for row in snn.report.rows if row.name == "maximum"] == ["analog"]


CASTS = {
    "half": lambda h: h.half().double(),
    "bfloat16": lambda h: h.bfloat16().to(h.dtype),
    "to float16": lambda h: h.to(torch.float16).double(),
    "to cpu and float16": lambda h: h.to("cpu", torch.float16).double(),
    "by name": lambda h: h.to(dtype=torch.int16).double(),
    "int": lambda h: h.int().double(),
    "bool": lambda h: h.bool().double(),
    "type": lambda h: h.type(torch.float32).double(),
    "type in words": lambda h: h.type("torch.HalfTensor").double(),
    "float in double": lambda h: h.float().double(),
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_that_round_are_not_exact(cast):
    net = Net(lambda s, x: _pooled(s, CASTS[cast](torch.relu(s.a(x)))))
    with pytest.raises(ValueError, match="rounds to .* in a network of float64"):
        pcsnn.convert(net, 8, calibration=IMAGES, method="max")
    snn = pcsnn.convert(net, 255, calibration=IMAGES, method="max", strict=False)
    assert any("rounds to" in row.detail for row in snn.report.rows if row.kind == "analog")


@pytest.mark.parametrize(
    "cast",
    [
        lambda h: h.double(),
        lambda h: h.to("cpu"),
        lambda h: h.type_as(h),
        lambda h: h.to(torch.float64),
        lambda h: h.to(h.dtype),
        lambda h: h.cpu(),
    ],
)
def test_casts_that_change_nothing_are_exact(cast):
    net = Net(lambda s, x: _pooled(s, torch.relu(cast(s.a(x)))))
    snn = pcsnn.convert(net, 32, calibration=IMAGES, method="max")
    assert gap(snn, IMAGES) < 1e-12 and next(snn.neurons())[1].threshold.shape == (8,)


KEEPING = {
    "nothing": lambda s, h: h,
    "contiguous": lambda s, h: h.contiguous(),
    "clone": lambda s, h: torch.clone(h),
    "detach": lambda s, h: h.detach(),
    "to": lambda s, h: h.to(torch.float64),
    "slice": lambda s, h: h[:, :, 1:-1],
    "slice behind ...": lambda s, h: h[..., :-2].contiguous(),
    "one place": lambda s, h: h[:, :, 0],
    "new dimension": lambda s, h: h[:, :, None],
    "squeeze": lambda s, h: h.unsqueeze(-1).squeeze(4),
    "pad": lambda s, h: F.pad(h, (1, 0, 2, 1)),
    "flip": lambda s, h: h.flip(-1),
    "chunk": lambda s, h: (
        torch.cat([*h.chunk(2, 1)][::-1], 1)
        if isinstance(h, torch.Tensor)
        else torch.cat([h.chunk(2, 1)[1], h.chunk(2, 1)[0]], 1)
    ),
    "narrow": lambda s, h: torch.narrow(h, 3, 0, 4),
    "flatten": lambda s, h: h.flatten(2),
    "means": lambda s, h: h.mean((-2, -1)),
    "sum, dimension kept": lambda s, h: h.sum(3, keepdim=True),
    "unflatten": lambda s, h: h.unflatten(3, (2, -1)),
    "transpose of places": lambda s, h: h.transpose(2, 3),
    "repeat of places": lambda s, h: h.repeat(1, 1, 2, 1),
    "F.batch_norm": lambda s, h: F.batch_norm(h, s.norm.running_mean, s.norm.running_var, s.norm.weight, s.norm.bias),
    "F.batch_norm of a sum": lambda s, h: F.batch_norm(h + h.flip(2), s.norm.running_mean, s.norm.running_var),
    "adaptive pool": lambda s, h: F.adaptive_avg_pool2d(h, 1).squeeze(-1),
    "negative": lambda s, h: -h,
}


@pytest.mark.parametrize("form", KEEPING)
def test_channels_keep_thresholds_of_their_own(form):
    net = Net(
        lambda s, x: s.head(
            (lambda h: h.flatten(2).mean(2) if form != "means" else h)(torch.relu(KEEPING[form](s, s.a(x))))
        )
    )
    snn = pcsnn.convert(net, 16, calibration=IMAGES, method="max")
    ((_, neuron),) = snn.neurons()
    assert neuron.threshold.shape == (8,) and gap(snn, IMAGES) < 1e-12
    assert not any("one threshold for the layer" in row.detail for row in snn.report.rows)


@pytest.mark.parametrize(
    "step", [nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ChannelShuffle(2), nn.Flatten(2), nn.AvgPool2d(2)]
)
def test_modules_that_keep_channels(step):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), step, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
    net(IMAGES)
    ((_, neuron),) = pcsnn.convert(net, 16, calibration=IMAGES, method="max").neurons()
    assert neuron.threshold.shape == (8,)


def test_text_convolutions_squeeze_their_last_dimension():
    net = Net(lambda s, x: s.head(torch.relu(s.a(x).unsqueeze(3).squeeze(3)).amax(2)), nn.Conv1d)
    snn = pcsnn.convert(net, 16, calibration=LINES, method="max")
    assert next(snn.neurons())[1].threshold.shape == (8,) and gap(snn, LINES) < 1e-12


@pytest.mark.parametrize(
    "form, where",
    [
        (lambda s, h: h.permute(0, 2, 3, 1).permute(0, 3, 1, 2), "permute"),
        (lambda s, h: h.reshape(16, 8, 4, 16), "reshape"),
        (lambda s, h: h.flatten(1).unflatten(1, (8, 8, 8)), "flatten"),
        (lambda s, h: h.unbind(0)[0][None], "unbind"),
        (lambda s, h: torch.stack([h, h]).flatten(0, 1), "stack"),
    ],
)
def test_the_report_says_where_channels_are_lost(form, where):
    net = Net(lambda s, x: _pooled(s, torch.relu(form(s, s.a(x)))))
    snn = pcsnn.convert(net, 16, calibration=IMAGES, method="max")
    row = next(row for row in snn.report.rows if row.kind == "spiking")
    assert "one threshold for the layer since" in row.detail and where in row.detail
    pcsnn.set_timesteps(snn, 8)
    assert "one threshold for the layer since" in row.detail and "threshold" in row.detail.partition(":")[2]


def test_a_functional_batch_norm_folds_like_a_module():
    functional = Net(
        lambda s, x: _pooled(
            s, torch.relu(F.batch_norm(s.a(x), s.norm.running_mean, s.norm.running_var, s.norm.weight, s.norm.bias))
        )
    )
    module = Net(lambda s, x: _pooled(s, torch.relu(s.norm(s.a(x)))))
    one, two = (pcsnn.convert(net, 8, calibration=IMAGES, method="quick") for net in (functional, module))
    assert torch.equal(one(IMAGES), two(IMAGES))
    assert any("folded in" in row.detail for row in one.report.rows)


def test_a_norm_behind_a_max_pool_goes_before_it_unless_it_turns_channels_round():
    net = Net(lambda s, x: _pooled(s, torch.relu(s.norm(F.max_pool2d(s.a(x), 2)))))
    snn = pcsnn.convert(net, 255, calibration=IMAGES, method="max")
    assert gap(snn, IMAGES) < 1e-12 and difference(snn, net, IMAGES) < 0.02
    with pytest.raises(ValueError, match="max_pool2d of a sum"):
        turned = Net(lambda s, x: _pooled(s, torch.relu(s.norm(F.max_pool2d(s.b(torch.relu(s.a(x))), 2)))))
        turned.norm.weight.data[3] = -1
        pcsnn.convert(turned, 8, calibration=IMAGES)


HEADS = {
    "softmax": lambda v: v.softmax(1),
    "log_softmax": lambda v: F.log_softmax(v, dim=-1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "argmax": lambda v: v.argmax(1),
    "normalize": lambda v: F.normalize(v, dim=1),
    "topk": lambda v: v.topk(2).values,
    "of a temperature": lambda v: torch.softmax(v / 3, 1),
    "and scaled": lambda v: 100 * v.sigmoid(),
    "max": lambda v: v.max(1)[1],
}


@pytest.mark.parametrize("method", ["max", "quick"])
@pytest.mark.parametrize("head", HEADS)
def test_an_analog_head_behind_the_last_neuron_is_allowed_and_named(head, method):
    net = Net(lambda s, x: HEADS[head](_pooled(s, torch.relu(s.a(x)))))
    snn = pcsnn.convert(net, 64, calibration=IMAGES, method=method)
    (row,) = (row for row in snn.report.rows if row.kind == "analog")
    assert "behind the last neuron" in row.detail and row.location.startswith(HERE)
    out, expected = snn(IMAGES), net(IMAGES)
    assert out.dtype == expected.dtype and out.shape == expected.shape
    if out.is_floating_point():
        assert difference(snn, net, IMAGES) < 0.1


def test_calibration_looks_at_what_stands_before_the_head():
    plain = Net(lambda s, x: _pooled(s, torch.relu(s.a(x))))
    headed = Net(
        lambda s, x: (lambda v: {"class": v.argmax(1), "scores": [100 * v.sigmoid()]})(_pooled(s, torch.relu(s.a(x))))
    )
    one, two = (pcsnn.convert(net, 16, calibration=IMAGES, method="light") for net in (plain, headed))
    logits, out = one(IMAGES), two(IMAGES)
    assert torch.equal(out["class"], logits.argmax(1)) and torch.equal(out["scores"][0], 100 * logits.sigmoid())


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.LogSoftmax(1)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid()),
    ],
)
def test_modules_are_heads_too(net):
    assert "behind the last neuron" in str(pcsnn.convert(net, 8, calibration=torch.randn(50, 3), method="quick").report)


def inner(form):
    """A network with a form between two activations."""
    return Net(lambda s, x: _pooled(s, torch.relu(s.b(form(torch.relu(s.a(x)))))))


ADVICE = {  # form -> words of the message
    "dropout": (lambda h: F.dropout(h, 0.5), "training=self.training"),
    "dropout2d": (lambda h: F.dropout2d(h, 0.1, training=True), "p = 0.1"),
    "alpha_dropout": (lambda h: F.alpha_dropout(h, 0.2, training=True), "training=self.training"),
    "softmax": (lambda h: h.softmax(1), "use attention without softmax"),
    "layer_norm": (lambda h: F.layer_norm(h, (8,)), "batch norm"),
    "local_response_norm": (nn.LocalResponseNorm(5), "batch norm"),
    "log_softmax": (lambda h: F.log_softmax(h, 1), "behind the last layer"),
    "gate": (lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)), "gate"),
    "silu": (F.silu, "signed=True"),
    "floor": (torch.floor, "QCFS"),
    "tanh": (torch.tanh, "not linear"),
    "softplus": (F.softplus, "signed=True"),
    "comparison": (lambda h: (h > 1).double(), "torch.where"),
    "unpool": (
        lambda h: (lambda p: F.max_unpool2d(p[0], p[1], 2))(F.max_pool2d(h, 2, return_indices=True)),
        "nn.Upsample",
    ),
    "LPPool2d": (nn.LPPool2d(2, 3, 1), "norm_type=1"),
    "unknown": (lambda h: torch.logcumsumexp(h, 2), "not known to be linear"),
}


@pytest.mark.parametrize("form", ADVICE)
def test_errors_name_the_line_the_cause_and_one_thing_to_do(form):
    form, words = ADVICE[form]
    with pytest.raises(ValueError, match="cannot spike") as error:
        pcsnn.convert(inner(form), 8, calibration=IMAGES)
    assert words in str(error.value) and f"{HERE}:" in str(error.value) and "strict=False" in str(error.value)


@pytest.mark.parametrize(
    "form", [lambda h: F.dropout(h, 0.0), lambda h: F.dropout2d(h, 0), lambda h: F.dropout(h, 0.5, training=False)]
)
def test_dropout_that_drops_nothing_is_dropped(form):
    snn = pcsnn.convert(inner(form), 8, calibration=IMAGES, method="max")
    assert torch.equal(snn(IMAGES), pcsnn.convert(inner(lambda h: h), 8, calibration=IMAGES, method="max")(IMAGES))


MOVES = {
    "swapdims": lambda h: torch.swapdims(h, 2, 3),
    "swapdims method": lambda h: h.swapdims(2, 3),
    "moveaxis": lambda h: torch.moveaxis(h, 3, 2),
    "hstack": lambda h: torch.hstack([h[:, :4], h[:, 4:]]),
    "vstack": lambda h: torch.vstack([h[:8], h[8:]]),
    "dstack": lambda h: torch.dstack([h, h]),
    "rot90": lambda h: torch.rot90(h, 1, (2, 3)),
    "fliplr": lambda h: h.fliplr(),
    "flipud": torch.flipud,
    "take_along_dim": lambda h: torch.take_along_dim(h, torch.zeros(1, 1, 1, 1, dtype=torch.long), 3).expand(
        -1, -1, -1, 8
    ),
    "unfold": lambda h: h.unfold(3, 2, 2).flatten(3),
    "diagonal": lambda h: h.diagonal(0, 2, 3)[:, :, None],
    "diff": lambda h: torch.diff(h, dim=3),
    "ravel": lambda h: h.ravel().view(-1, 8, 8, 8),
    "atleast": lambda h: torch.atleast_3d(h),
    "tensor_split": lambda h: torch.cat([h.tensor_split(2, 1)[1], h.tensor_split(2, 1)[0]], 1),
}


@pytest.mark.parametrize("move", MOVES)
def test_more_operations_move_or_add_up(move):
    net = inner(MOVES[move])
    snn = pcsnn.convert(net, 64, calibration=IMAGES, method="max")
    assert gap(snn, IMAGES) < 1e-11 and difference(snn, net, IMAGES) < 0.2
    assert pcsnn.analysis.count_operations(snn, IMAGES[:4]) is not None


def test_more_time_steps_than_there_are_say_what_the_most_gives():
    with pytest.raises(ValueError, match=r"timesteps: expected a value in 1..255, got 1000: .*T = 255 gives"):
        pcsnn.convert(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 1000)
