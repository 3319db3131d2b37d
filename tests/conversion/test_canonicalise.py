"""Rewriting a traced network changes nothing of what it computes."""

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import NETWORKS, build, conv, inputs, network, one_thread, randomise  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

from pcsnn.conversion.canonicalise import canonicalise
from pcsnn.conversion.tracing.trace import trace
from pcsnn.graph.fold import fold_batch_norms
from pcsnn.graph.taxonomy import DROPPED_MODULES
from pcsnn.graph.taxonomy import name as operation_name


def canonical(net):
    traced = trace(net)
    canonicalise(traced)
    return traced


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True))


def places(traced):
    return [node.target for node in traced.graph.nodes if node.meta.get("activation")]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "activation", [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.ReLU6], ids=["relu", "inplace", "relu6"]
)
def test_computes_the_same(name, activation):
    net, x = build(name, activation), inputs(name)
    traced = canonical(net)
    expected = net(*(value.clone() for value in x))
    assert same(traced(*(value.clone() for value in x)), expected)
    assert places(traced)
    assert not any(isinstance(module, DROPPED_MODULES) for module in traced.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norms_compute_the_same_up_to_rounding(name):
    net, x = build(name, nn.ReLU, torch.float64), inputs(name, torch.float64)
    traced = canonical(net)
    fold_batch_norms(traced)
    for out, expected in zip(tree_leaves(traced(*x)), tree_leaves(net(*x)), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)


def norms(traced):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in traced.modules())


@pytest.mark.parametrize(
    "name, left",
    [
        ("conv_bn", 0),
        ("bn_twice", 0),
        ("conv1d", 0),
        ("conv3d", 0),
        ("shared_conv_two_norms", 0),
        ("transposed", 2),
        ("bn_after_add", 1),
        ("linear_bn", 2),
        ("bn_no_affine", 1),
        ("pre_activation", 1),
        ("shared_block", 0),
    ],
)
def test_which_batch_norms_fold(name, left):
    traced = canonical(build(name))
    fold_batch_norms(traced)
    assert norms(traced) == left


def _then_read(overwrite):
    def forward(s, x):
        h = s.conv(x)
        overwrite(h)
        return s.second(h) + h

    return forward


def _chained(s, x):
    h = s.conv(x)
    h.add_(1).relu_()
    return s.second(h)


def _read_before(s, x):
    h = s.conv(x)
    before = s.second(h)
    h.relu_()
    return before + s.second(h)


def _cat_in_place(s, x):
    return F.relu(torch.cat([s.conv(x), s.conv(-x)], 1), inplace=True)


def _part_of_a_split(s, x):
    one, two = s.conv(x).chunk(2, 1)
    one.relu_()
    return torch.cat([one, two], 1)


def _parts_by_index(s, x):
    parts = torch.split(s.conv(x), 2, 1)
    parts[0].relu_()
    return torch.cat([parts[1], parts[1] + 1], 1)


def _view_read_no_more(s, x):
    h = s.conv(x)
    view = h.flatten(2)
    return view.relu_()


def _clone(s, x):
    h = s.conv(x)
    copy = h.clone()
    copy.relu_()
    return h + copy


def _numbers(s, x):
    height = x.size(2)
    other = height
    other += 1
    other *= 2
    return F.relu(s.conv(x)).reshape(x.size(0), -1, height) + other


def _pre_activation_in_place(s, x):
    h = s.conv(x)
    out = F.relu(h, inplace=True)
    return s.second(out) + h


IN_PLACE = {
    "relu_": _then_read(lambda h: h.relu_()),
    "F.relu": _then_read(lambda h: F.relu(h, inplace=True)),
    "F.relu_": _then_read(F.relu_),
    "torch.relu_": _then_read(torch.relu_),
    "F.relu6": _then_read(lambda h: F.relu6(h, True)),
    "F.hardtanh": _then_read(lambda h: F.hardtanh(h, 0, 2.5, inplace=True)),
    "F.hardtanh_": _then_read(lambda h: F.hardtanh_(h, 0, 2.5)),
    "clamp_": _then_read(lambda h: h.clamp_(0, 6)),
    "clamp_min_": _then_read(lambda h: h.clamp_min_(0)),
    "clip_": _then_read(lambda h: h.clip_(min=0)),
    "torch.clamp_": _then_read(lambda h: torch.clamp_(h, min=0)),
    "mul_ and add_": _then_read(lambda h: h.mul_(2).add_(1).div_(3).sub_(0.2).relu_()),
    "two calls": _then_read(lambda h: (h.add_(0.5), h.relu_())),
    "chained": _chained,
    "read before": _read_before,
    "cat": _cat_in_place,
    "split": _part_of_a_split,
    "parts": _parts_by_index,
    "view": _view_read_no_more,
    "clone": _clone,
    "numbers": _numbers,
    "pre-activation": _pre_activation_in_place,
}


@pytest.mark.parametrize("form", IN_PLACE)
def test_in_place_operations_reach_later_readers(form):
    net = randomise(network(IN_PLACE[form], conv=conv(), second=conv(4, 4)))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, copy = net(x.clone()), x.clone()
        traced = canonical(net)
        assert torch.equal(traced(copy), expected)
    assert torch.equal(copy, x)
    assert len(places(traced)) == (form != "parts")  # there nothing reads what was overwritten
    calls = [node for node in traced.graph.nodes if node.op in ("call_function", "call_method")]
    assert not any(operation_name(node.target).endswith("_") or node.kwargs.get("inplace") for node in calls)


def _module_in_place(s, x):
    h = s.conv(x)
    s.act(h)
    return s.second(h)


def test_in_place_module_whose_result_is_not_used():
    net = randomise(network(_module_in_place, conv=conv(), second=conv(4, 4), act=nn.ReLU(inplace=True)))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(canonical(net)(x), net(x))
    assert net.act.inplace


def _view_of_view(s, x):
    h = s.conv(x)
    h.flatten(2).flatten(1).relu_()
    return s.second(h)


def _two_views(s, x):
    h = s.conv(x)
    one, two = h.flatten(1), h.view(h.size(0), -1)
    one.clamp_(0, 6)
    return two


def _module_view(s, x):
    h = s.conv(x)
    torch.relu_(s.flatten(h))
    return h


def _same_part(s, x):
    parts = s.conv(x).chunk(2, 1)
    parts[0].relu_()
    return parts[0] + parts[1]


def _overwritten_base(s, x):
    h = s.conv(x)
    view = h[:, :2]
    h.relu_()
    return view


def _no_other_form(s, x):
    h = s.conv(x)
    h.zero_()
    return torch.relu(h)


def _out_argument(s, x):
    h = s.conv(x)
    torch.add(h, 1, out=h)
    return torch.relu(h)


@pytest.mark.parametrize(
    "forward, line",
    [
        (_view_of_view, 2),
        (_two_views, 3),
        (_module_view, 2),
        (_same_part, 2),
        (_overwritten_base, 3),
        (_no_other_form, 2),
        (_out_argument, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_overwriting_shared_memory_is_refused_with_its_place(forward, line):
    net = network(forward, conv=conv(), second=conv(4, 4), flatten=nn.Flatten())
    with pytest.raises(ValueError, match=rf"test_canonicalise\.py:{forward.__code__.co_firstlineno + line} "):
        canonical(net)


def test_every_use_of_a_module_becomes_a_place_of_its_own():
    traced = canonical(build("shared_activation"))
    assert places(traced) == ["act", "act_1", "act_2", "act_3"]
    modules = [traced.get_submodule(name) for name in places(traced)]
    assert len({id(module) for module in modules}) == 4
    assert len({module.threshold.data_ptr() for module in modules}) == 4


def test_names_do_not_collide_with_modules():
    net = randomise(
        network(lambda s, x: F.relu(s.relu(F.relu(s.conv(x)))), conv=conv(), relu=nn.ReLU(), relu_1=conv(4, 4))
    )
    traced = canonical(net)
    assert len(set(places(traced))) == 3
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(traced(x), net(x))


def test_max_pool_moves_behind_the_activation():
    traced = canonical(build("max_pool_first", nn.ReLU))
    order = [
        type(traced.get_submodule(node.target)).__name__ for node in traced.graph.nodes if node.op == "call_module"
    ]
    assert order == [
        "Conv2d",
        "ReLU",
        "MaxPool2d",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "MaxPool2d",
        "AdaptiveMaxPool2d",
        "Flatten",
        "Linear",
    ]


def test_control_flow_on_values_is_refused():
    def forward(s, x):
        return s.conv(x) if x.sum() > 0 else torch.relu(s.conv(x))

    with pytest.raises(ValueError, match="model: torch.fx cannot trace Tiny"):
        canonical(network(forward, conv=conv()))
