"""What is converted is the model that was given: wrappers, computed weights, hooks, forwards of one's own."""

import copy
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import conv, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import pcsnn
from pcsnn.nn import QCFS

LEVELS = 8
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def images(count=4, size=8, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def body(*between):
    """conv, what is given, QCFS, head."""
    return nn.Sequential(conv(), *between, QCFS(LEVELS, 1.0), nn.Flatten(), nn.Linear(4 * 64, 5))


def same(net, x=None, **options):
    """Whether a network of QCFS, converted at T = L without data, gives what it gave before, bit for bit."""
    x = images() if x is None else x
    net.eval()
    with torch.no_grad():
        expected = net(x.clone())
    snn = pcsnn.convert(net, LEVELS, example_inputs=x, **options)
    with torch.no_grad():
        assert torch.equal(net(x.clone()), expected), "the model was changed"
    assert torch.equal(snn(x), expected)
    return snn


class Standardised(nn.Module):
    def forward(self, weight):
        rows = weight.flatten(1)
        return ((rows - rows.mean(1, True)) / rows.std(1, keepdim=True)).view_as(weight)


COMPUTED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "prune": lambda layer: (prune.l1_unstructured(layer, "weight", 0.4), prune.random_unstructured(layer, "bias", 1)),
    "pruned twice": lambda layer: (
        prune.random_unstructured(layer, "weight", 0.2),
        prune.ln_structured(layer, "weight", 0.3, 2, 0),
    ),
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.orthogonal": parametrizations.orthogonal,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Standardised()),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_those_of_the_model_right_after_loading(name):
    nets = [randomise(body(nn.BatchNorm2d(4)), seed) for seed in (0, 1)]
    for net in nets:
        COMPUTED[name](net[0])
        COMPUTED[name](net[4])
        net.train()(images(seed=5))
        net.eval()
    nets[1].load_state_dict(nets[0].state_dict())
    x = images()
    snn = pcsnn.convert(nets[1], LEVELS, example_inputs=x)
    expected = nets[0](x)
    assert torch.equal(snn(x), expected)
    folded = pcsnn.convert(nets[1], LEVELS, fold=True)
    assert (folded(x) - expected).norm() < 0.05 * expected.norm()
    optimised = pcsnn.optimize(snn)
    assert (optimised(x) - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(nets[1](x), expected)
    assert all("weight" in name or "bias" in name for name, _ in snn.named_parameters())


def test_calibration_of_computed_weights():
    net = nn.Sequential(
        conv(), nn.ReLU(), conv(4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    parametrizations.weight_norm(net[0])
    weight_norm(net[2])
    before = copy.deepcopy(net.state_dict())
    snn = pcsnn.convert(net.eval(), 32, calibration=images(16), method="quick")
    x = images()
    assert (snn(x) - net(x)).norm() < 0.2 * net(x).norm()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "again",
    [
        lambda s, h: F.conv_transpose2d(h, s.conv.weight, padding=1),
        lambda s, h: F.conv2d(F.pad(h, (1, 1, 1, 1))[:, :3], s.conv.weight),
        lambda s, h: h * s.conv.bias.view(-1, 1, 1),
    ],
    ids=["transposed", "again", "bias"],
)
def test_weights_that_are_read_elsewhere_are_not_those_of_the_folded_layer(again):
    net = randomise(
        network(lambda s, x: again(s, s.act(s.norm(s.conv(x)))), conv=conv(), norm=nn.BatchNorm2d(4), act=QCFS(LEVELS))
    )
    x = images()
    snn = pcsnn.convert(net, LEVELS, fold=True, example_inputs=x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in snn.modules())
    assert (snn(x) - net(x)).norm() < 1e-2 * net(x).norm()


def test_parameters_of_two_layers_part_when_a_norm_is_folded():
    net = randomise(
        network(
            lambda s, x: s.b(s.act(s.norm(s.a(x)))),
            a=conv(3, 3),
            b=conv(3, 3),
            norm=nn.BatchNorm2d(3),
            act=QCFS(LEVELS),
        )
    )
    net.b.weight = net.a.weight
    same(net)
    assert (pcsnn.convert(net, LEVELS, fold=True)(images()) - net(images())).norm() < 1e-2 * net(images()).norm()
    assert net.b.weight is net.a.weight


def _dilations(s, x):
    total = 0
    for size in (1, 2, 3):
        s.conv.dilation = s.conv.padding = (size, size)
        total = total + s.act(s.conv(x))
    return total


def _strides(s, x):
    s.conv.stride = (2, 2)
    x = s.act(s.conv(x))
    s.conv.stride = (1, 1)
    return s.act(s.conv(x))


def _pools(s, x):
    x = s.act(s.conv(x))
    s.pool.kernel_size = s.pool.stride = 2
    one = s.pool(x)
    s.pool.kernel_size = s.pool.stride = 4
    return one.mean((2, 3)) + s.pool(x).mean((2, 3))


def _after_the_call(s, x):
    s.conv.padding = (1, 1)
    x = s.act(s.conv(x))
    s.conv.padding = (0, 0)
    return x


@pytest.mark.parametrize("forward", [_dilations, _strides, _pools, _after_the_call])
def test_a_layer_whose_settings_change_in_forward(forward):
    net = randomise(network(forward, conv=conv(3, 3), act=QCFS(LEVELS), pool=nn.MaxPool2d(2)))
    x = images(size=16)
    with torch.no_grad():
        expected = net(x)
    assert torch.equal(pcsnn.convert(net, LEVELS)(x), expected)  # no inputs, no check


def test_a_setting_that_depends_on_the_input_is_refused():
    def forward(s, x):
        s.up.size = x.shape[2:]
        return s.up(s.act(s.conv(x)))

    with pytest.raises(ValueError, match=r"test_tracing.py:\d+ sets size of up to a value that depends on the input"):
        pcsnn.convert(network(forward, conv=conv(), act=QCFS(LEVELS), up=nn.Upsample((4, 4))), LEVELS)


class Gain(QCFS):
    def forward(self, z):
        return super().forward(z) * 2


class Shifted(QCFS):
    def forward(self, z):
        return super().forward(z - 0.25)


class DoubledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class Named(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-3)


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


class Lowest(nn.ReLU):
    def forward(self, x):
        return torch.clamp(x, max=0)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(conv(), Gain(LEVELS), conv(4, 3)),
        nn.Sequential(conv(), Shifted(LEVELS), conv(4, 3)),
        nn.Sequential(Halved(3, 4, 3), DoubledNorm(4), QCFS(LEVELS), conv(4, 3)),
        nn.Sequential(conv(), Named(4), QCFS(LEVELS), conv(4, 3)),
    ],
    ids=["gain", "shifted", "convolution and norm", "constructor alone"],
)
def test_subclasses_compute_what_they_compute(net, tmp_path):
    snn = same(randomise(net))
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(images()), snn(images()))


def test_a_subclass_that_is_no_relu_is_not_taken_for_one():
    with pytest.raises(ValueError, match="clamp"):
        pcsnn.convert(nn.Sequential(conv(), QCFS(LEVELS), conv(4, 4), Lowest()), LEVELS)


def test_forward_of_an_instance():
    net = randomise(body())
    plain, net[0].forward = net[0].forward, None
    net[0].forward = lambda x: plain(x) * 2
    same(net)
    net = randomise(body())
    net.forward = types.MethodType(lambda self, x: nn.Sequential.forward(self, x * 0.5) + 1, net)
    same(net)
    net = randomise(body())
    act = net[1].forward
    net[1].forward = lambda x: act(x) * 2
    with pytest.raises(ValueError, match="test_tracing.py"):
        pcsnn.convert(net, LEVELS)
    net = randomise(body())
    net.forward = lambda x: x
    with pytest.raises(ValueError, match="forward of Sequential was replaced"):
        pcsnn.convert(net, LEVELS)


def _doubling(module, args, out):
    out.mul_(2)


KEPT = []
HOOKS = {
    "activation": lambda net: net[2].register_forward_hook(lambda module, args, out: out * 3),
    "norm": lambda net: net[1].register_forward_hook(lambda module, args, out: out * 3),
    "convolution": lambda net: net[0].register_forward_hook(lambda module, args, out: out + 0.5),
    "in place": lambda net: net[0].register_forward_hook(_doubling),
    "before": lambda net: net[4].register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
    "network": lambda net: net.register_forward_hook(lambda module, args, out: out * 3),
    "before the network": lambda net: net.register_forward_pre_hook(lambda module, args: args[0] * 0.5),
    "named": lambda net: net.register_forward_hook(lambda module, args, kwargs, out: out - 1, with_kwargs=True),
    "first": lambda net: net[0].register_forward_hook(lambda module, args, out: out * 2, prepend=True),
    "recording": lambda net: net[2].register_forward_hook(lambda module, args, out: KEPT.append(out)),
    "backward": lambda net: (
        net[0].register_full_backward_hook(lambda module, given, out: None),
        net[0].weight.register_hook(lambda gradient: gradient),
    ),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_are_part_of_the_network(name):
    net = randomise(body(nn.BatchNorm2d(4)))
    HOOKS[name](net)
    x = images()
    expected = net(x).detach()
    KEPT.clear()
    snn = pcsnn.convert(net, LEVELS, example_inputs=x)
    assert not KEPT
    assert torch.equal(snn(x), expected)
    assert (pcsnn.optimize(snn)(x) - expected).norm() < 0.02 * expected.norm()
    assert (pcsnn.convert(net, LEVELS, fold=True)(x) - expected).norm() < 0.02 * expected.norm()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in snn.modules())


def test_hooks_that_no_graph_can_hold_are_refused_by_name():
    net = body()
    net[0].register_forward_hook(lambda module, args, out: out * 2 if out.sum() > 0 else out)
    with pytest.raises(
        ValueError, match=r"forward hook .*<lambda> \(.*test_tracing.py:\d+\) of Conv2d, which cannot be traced"
    ):
        pcsnn.convert(net, LEVELS)
    net = nn.DataParallel(body())
    net.register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(ValueError, match="on the wrapper"):
        pcsnn.convert(net, LEVELS)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    try:
        with pytest.raises(ValueError, match="hook for all modules"):
            pcsnn.convert(body(), LEVELS)
    finally:
        handle.remove()
    snn = pcsnn.convert(body(), LEVELS)
    snn.network.get_submodule("0").register_forward_hook(lambda module, args, out: out * 2)
    with pytest.raises(ValueError, match=r"snn: 0 \(Conv2d\) has a forward hook"):
        pcsnn.optimize(snn)


def _compiled_in_place(net):
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        _compiled_in_place,
        lambda net: nn.DataParallel(nn.Sequential(nn.DataParallel(net[:2]), net[2:])),
        torch.optim.swa_utils.AveragedModel,
        lambda net: nn.Sequential(torch.compile(net[:2], backend="eager"), net[2:]),
    ],
    ids=["parallel", "compiled", "compiled in place", "parallel twice", "averaged", "compiled inside"],
)
def test_wrappers_are_seen_through(wrap):
    snn = same(wrap(randomise(body())))
    assert len(list(snn.neurons())) == 1


def test_what_is_no_longer_a_network_is_refused_by_name():
    net, x = randomise(body()), images()
    plain = nn.Sequential(conv(), nn.ReLU())
    for model, words in (
        (torch.jit.script(plain), "TorchScript"),
        (torch.jit.trace(plain, x), "TorchScript"),
        (nn.Sequential(torch.jit.script(plain), nn.ReLU()), "model: 0 is TorchScript"),
        (torch.export.export(plain, (x,)).module(), "torch.export"),
        (nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)), "run the model on one batch first"),
    ):
        with pytest.raises(ValueError, match=words):
            pcsnn.convert(model, LEVELS, calibration=x)
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match="attribute lock, a lock, cannot be copied"):
        pcsnn.convert(net, LEVELS)


def test_tensors_that_a_network_keeps_from_its_last_step():
    def forward(s, x):
        s.features = [s.act(s.conv(x))]
        s.kept = types.SimpleNamespace(mean=s.features[0].mean())
        return s.head(s.features[0].mean((2, 3)))

    net = randomise(network(forward, conv=conv(), act=QCFS(LEVELS), head=nn.Linear(4, 3)))
    net(images()).sum().backward()
    same(net)


def test_layers_made_in_forward():
    made = randomise(network(lambda s, x: nn.Flatten(2)(nn.MaxPool2d(2)(nn.ReLU()(s.conv(x)))).mean(2), conv=conv()))
    x = images()
    snn = pcsnn.convert(made, 255, calibration=x, method="max")
    assert (snn(x) - made(x)).norm() < 0.02 * made(x).norm()
    listed = randomise(network(lambda s, x: s.parts["b"](s.act(s.parts["a"][0](x))), act=QCFS(LEVELS)))
    listed.parts = {"a": [conv()], "b": nn.Sequential(conv(4, 3), nn.ReLU(inplace=True))}
    listed.parts["b"][1] = QCFS(LEVELS)
    same(listed)
    for forward, words in (
        (lambda s, x: nn.Linear(8, 8)(s.act(s.conv(x))), "calls a Linear that is not part of the network"),
        (lambda s, x: nn.Dropout(0.5)(s.act(s.conv(x))), "makes a Dropout inside forward"),
    ):
        with pytest.raises(ValueError, match=rf"test_tracing.py:\d+ {words}"):
            pcsnn.convert(network(forward, conv=conv(), act=QCFS(LEVELS)), LEVELS)


def test_names_that_code_cannot_carry(tmp_path):
    def forward(s, x):
        x = s.code(s.graph(x)) * s.recompile
        return s.parts["if"](s.parts["a.b".replace(".", "-")](s.meta(getattr(s, "class")(x))))

    net = network(
        forward,
        graph=conv(),
        code=QCFS(LEVELS),
        meta=nn.Sequential(conv(4, 4), QCFS(LEVELS)),
        recompile=nn.Parameter(torch.ones(4, 1, 1)),
        parts=nn.ModuleDict({"a-b": conv(4, 4), "if": QCFS(LEVELS)}),
    )
    net.add_module("class", conv(4, 4))
    names = set(dict(same(randomise(net)).network.named_modules()))
    assert {"graph_", "code_", "meta_", "class_", "parts.if_"} <= names


def _augmented(operation):
    def forward(s, x):
        h = s.conv(x)
        other = h
        h = operation(h)
        return s.second(s.act(h)) + other.mean((2, 3), keepdim=True)

    return forward


def _double(h):
    h *= 2
    return h


def _less(h):
    h -= 0.25
    return h


def _assigned(s, x):
    h = s.conv(x)
    h[:, 0] = 0
    return s.act(h)


def _parameter(s, x):
    s.second.weight.mul_(2)
    return s.second(s.act(s.conv(x)))


def _data(s, x):
    h = s.conv(x)
    h.data = h * 2
    return s.act(h)


@pytest.mark.parametrize(
    "operation",
    [
        _double,
        _less,
        torch.neg_,
        lambda h: F.relu(h, inplace="True"),
        nn.Hardtanh(-1, 1, inplace=1),
        torch.nn.functional.relu_,
        lambda h: torch.square_(h),
    ],
)
def test_in_place_operations_reach_other_names_of_a_value(operation):
    net = randomise(network(_augmented(operation), conv=conv(), second=conv(4, 4), act=QCFS(LEVELS)))
    x = images()
    snn = pcsnn.convert(net, 255, calibration=x, method="max", strict=False)
    assert (snn(x) - net(x)).norm() < 0.1 * net(x).norm()


@pytest.mark.parametrize(
    "forward, words",
    [
        (_assigned, "assigns to a part of a tensor"),
        (_parameter, "changes a parameter or buffer in forward"),
        (_data, "sets the attribute data of a traced tensor"),
    ],
)
def test_in_place_operations_that_no_graph_holds(forward, words):
    net = network(forward, conv=conv(), second=conv(4, 4), act=QCFS(LEVELS))
    with pytest.raises(ValueError, match=rf"test_tracing.py:\d+ {words}"):
        pcsnn.convert(net, LEVELS)


def test_in_place_operations_that_nothing_reads():
    def forward(s, x):
        h = s.conv(x)
        out = s.act(h)
        view = h.flatten(1)
        h.zero_()
        h[:, 0] = 1
        h.uniform_()
        torch.softmax(h, 1)
        return s.second(out) * (view.shape[1] > 0)

    same(randomise(network(forward, conv=conv(), second=conv(4, 4), act=QCFS(LEVELS))))


def test_other_threads_are_not_traced():
    """torch.fx patches the calls of all modules while it traces; those of other threads go on as they were."""
    net, x, found, tracing, seen = body(), images(), [], threading.Event(), threading.Event()

    def forward(s, x):
        tracing.set()
        assert seen.wait(30)
        return s.act(s.conv(x))

    def serve():
        assert tracing.wait(30)
        found.append(net(x))
        seen.set()

    thread = threading.Thread(target=serve)
    thread.start()
    pcsnn.convert(network(forward, conv=conv(), act=QCFS(LEVELS)), LEVELS)
    thread.join()
    assert torch.equal(found[0], net(x))
