"""What runs for long takes no more and more memory."""

import gc
import linecache
import pathlib
import weakref

import pytest
import torch
from tiny_networks import LEVELS, build, inputs, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import analysis, baselines
from pcsnn.baselines.serial_network import SerialIF
from pcsnn.operators import dispatch
from pcsnn.tensors.memo import _known

MEBIBYTES = 2**20


def resident():
    """Bytes of memory that the process holds."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


def grows(work, warm, times):
    """(objects, bytes) that the process has more after `times` calls than after `warm`."""
    found = []
    for count in (warm, times):
        for _ in range(count):
            work()
        linecache.clearcache()  # torch.fx keeps the source of every graph there, for tracebacks
        gc.collect()
        found.append((len(gc.get_objects()), resident()))
    return tuple(after - before for before, after in zip(*found))


FORMS = {
    "collapsed": lambda snn: snn,
    "float32": pcsnn.optimize,
    "int8": lambda snn: pcsnn.optimize(snn, "int8"),
    "bfloat16": lambda snn: pcsnn.optimize(snn, "bfloat16"),
    "packed": baselines.packed,
    "serial": baselines.serial,
}


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.quick(1)
def test_two_thousand_forwards(form):
    network, x = FORMS[form](pcsnn.convert(build("convolutions"), LEVELS)), inputs("convolutions")
    times = 200 if form == "serial" else 2000
    with torch.no_grad():
        objects, memory = grows(lambda: network(*x), 20, times)
    assert objects < 100 and memory < 8 * MEBIBYTES  # a leak of one result would be several times that: 2,000 of 8 kB


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize("method, times", [("max", 50), ("paper", 10)])
@pytest.mark.quick(1)
def test_fifty_conversions(method, times):
    model, x = build("convolutions", nn.ReLU), inputs("convolutions")[0]

    def once():
        snn = pcsnn.convert(model, 6, calibration=[x], method=method, progress=False)
        pcsnn.optimize(snn, "int8")(x)

    known = len(_known)
    objects, memory = grows(once, 3, times)
    assert objects < 100 and memory < 16 * MEBIBYTES and len(_known) <= known


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize("tool", ["record", "use_backend", "layer_errors", "count_operations", "evaluate"])
@pytest.mark.quick(1)
def test_analyses(tool):
    net, (x,) = build("residual"), inputs("residual")
    snn = pcsnn.convert(net, LEVELS)

    def recorded():
        with pcsnn.record(snn) as recording:
            snn(x)
        return recording.summary()

    def forced():
        with pcsnn.use_backend("reference"):
            snn(x)

    calls = {
        "record": recorded,
        "use_backend": forced,
        "layer_errors": lambda: analysis.layer_errors(net, snn, x, progress=False),
        "count_operations": lambda: analysis.count_operations(snn, x, progress=False),
        "evaluate": lambda: analysis.evaluate(snn, x, spikes=True, progress=False),
    }
    objects, memory = grows(calls[tool], 5, 30)
    assert objects < 200 and memory < 16 * MEBIBYTES and not dispatch._forcing


def test_networks_are_freed():
    """None is kept by what is remembered of it: potentials, recordings, tables of levels."""
    snn, (x,) = pcsnn.convert(build("residual"), LEVELS), inputs("residual")
    serial = baselines.serial(snn)
    serial(x)
    next(module for module in serial.modules() if isinstance(module, SerialIF))(torch.ones(1, 4))
    with pcsnn.record(snn) as recording:
        snn(x)
    alive = weakref.ref(snn), weakref.ref(serial)
    del snn, serial, recording
    gc.collect()
    assert [network() for network in alive] == [None, None]
