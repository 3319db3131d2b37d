"""NIR graphs made by hand, for the tests of reading them."""

import itertools

import nir
import numpy as np

import pcsnn


def ends(first, last):
    """The nodes "in" and "out" for values of these shapes, as two dicts."""
    return {"in": nir.Input(np.array(first))}, {"out": nir.Output(np.array(last))}


def graph_of(nodes, edges=None):
    """A graph that nir has not checked; without edges the nodes one after the other."""
    return nir.NIRGraph(nodes, list(itertools.pairwise(nodes)) if edges is None else edges, type_check=False)


def between(first, last, /, **nodes):
    """A chain from an input to an output."""
    start, end = ends(first, last)
    return graph_of(start | nodes | end)


def fire(size, threshold=1.0, r=1.0, **named):
    return nir.IF(r=np.full(size, r), v_threshold=np.full(size, threshold), **named)


def conv2d(weight, stride=1, padding=0, dilation=1, groups=1, shape=None):
    return nir.Conv2d(shape, weight, stride, padding, dilation, groups, np.zeros(len(weight)))


def branching(extra=()):
    """A layer, branches of weights, of a scale and around both that add up, another layer; and `extra` edges."""
    start, end = ends([6], [3])
    a, b, c = (np.random.RandomState(seed).randn(*size) for seed, size in enumerate([(6, 6), (6, 6), (3, 6)]))
    nodes = (
        start
        | {
            "a": nir.Affine(a, np.ones(6)),
            "s": fire(6, 0.8),
            "b": nir.Linear(b),
            "z": nir.Scale(np.arange(6) / 4),
            "t": fire(6, 0.5),
            "c": nir.Linear(c),
        }
        | end
    )
    return graph_of(
        nodes,
        [
            ("in", "a"),
            ("a", "s"),
            ("s", "b"),
            ("s", "z"),
            ("z", "t"),
            ("b", "t"),
            ("in", "t"),
            ("t", "c"),
            ("c", "out"),
            *extra,
        ],
    )


def counts_of(snn, *x):
    """(spike counts of all layers, output) of a converted network."""
    with pcsnn.record(snn) as rec:
        out = snn(*x)
    return [rec.counts[name] for name, _ in snn.neurons()], out
