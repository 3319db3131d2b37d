"""One role for each operation, whatever form it is written in."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from pcsnn.graph.nodes import leads_to, shapes
from pcsnn.graph.taxonomy import FUNCTIONS, METHODS, Role, role


def call(target, *args, **kwargs):
    """(node, modules) of a graph that calls a module, a function, or a method by its name on its input and `args`."""
    graph, modules = fx.Graph(), {}
    x = graph.placeholder("x")
    if isinstance(target, nn.Module):
        modules["layer"] = target
        return graph.call_module("layer", (x, *args), kwargs), modules
    make = graph.call_method if isinstance(target, str) else graph.call_function
    return make(target, (x, *args), kwargs), modules


@pytest.mark.parametrize(
    ("expected", "forms"),
    [
        (
            Role.SYNAPSE,
            [nn.Conv2d(1, 1, 1), nn.ConvTranspose1d(1, 1, 1), nn.Linear(1, 1), F.conv2d, torch.conv1d, F.linear],
        ),
        (Role.NORM, [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), F.batch_norm]),
        (Role.MAX_POOL, [nn.MaxPool2d(2), nn.AdaptiveMaxPool1d(2), F.max_pool2d, torch.max_pool1d, torch.amax, "amax"]),
        (Role.AVERAGE_POOL, [nn.AvgPool3d(2), nn.AdaptiveAvgPool2d(1), F.avg_pool2d, torch.adaptive_avg_pool1d]),
        (Role.INTERPOLATION, [nn.Upsample(2), nn.UpsamplingNearest2d(2), F.interpolate]),
        (Role.SUM, [operator.add, torch.add, "add"]),
        (Role.JOIN, [torch.cat, torch.concat, torch.concatenate]),
        (Role.FLATTEN, [nn.Flatten(), torch.flatten, "flatten"]),
        (Role.PAD, [nn.ZeroPad2d(1), nn.ReflectionPad1d(1), nn.CircularPad3d(1), F.pad]),
        (Role.CAST, ["to", "half", "type_as"]),
        (Role.SHAPE, ["size", torch.zeros_like, "new_zeros"]),
        (Role.OTHER, [nn.LSTM(1, 1), nn.Softmax(1), torch.exp, "exp", torch.max]),
    ],
    ids=lambda value: value.name if isinstance(value, Role) else "",
)
def test_layers_functions_and_methods_of_one_operation_have_one_role(expected, forms):
    for form in forms:
        assert role(*call(form)) is expected, form


def test_a_layer_has_the_role_of_what_it_inherits_from():
    assert role(*call(type("Own", (nn.Conv2d,), {})(1, 1, 1))) is Role.SYNAPSE


def test_a_max_pool_that_gives_places_is_none():
    for pool in (nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2, return_indices=True)):
        assert role(*call(pool)) is Role.OTHER
    assert role(*call(F.max_pool2d, 2, return_indices=True)) is Role.OTHER
    assert role(*call(F.max_pool2d, 2, return_indices=False)) is Role.MAX_POOL


def test_attributes_are_shapes_or_values():
    assert role(*call(getattr, "shape")) is role(*call(getattr, "dtype")) is Role.SHAPE
    assert role(*call(getattr, "mT")) is Role.ATTRIBUTE


def test_what_calls_nothing_has_no_role():
    graph = fx.Graph()
    x = graph.placeholder("flatten")
    assert [role(node, {}) for node in (x, graph.get_attr("add"), graph.output(x))] == [Role.OTHER] * 3


def test_a_method_has_the_role_of_the_function_of_its_name():
    shared = [name for name in METHODS if getattr(torch, name, None) in FUNCTIONS]
    assert len(shared) > 40
    for name in shared:
        assert METHODS[name] is FUNCTIONS[getattr(torch, name)], name


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.relu(self.conv(x)), x.exp()


def test_what_a_node_leads_to():
    graph = fx.symbolic_trace(Branches()).graph
    x, conv, relu, exp, _ = graph.nodes
    assert leads_to(x, lambda node: node is relu) and leads_to(conv, lambda node: node is relu)
    assert not leads_to(exp, lambda node: node is relu) and not leads_to(relu, lambda node: node is relu)


def test_shapes_of_all_values():
    network = fx.symbolic_trace(Branches())
    found = shapes(network, torch.zeros(2, 3, 5, 5))
    assert {node.name: shape for node, shape in found.items()} == {
        "x": (2, 3, 5, 5),
        "conv": (2, 4, 3, 3),
        "relu": (2, 4, 3, 3),
        "exp": (2, 3, 5, 5),
    }
