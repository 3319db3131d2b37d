"""NeuroBench's metrics, by arithmetic in plain torch and, where it is installed, against the package."""

import pytest
import torch
import torch.nn.functional as F
from counted_networks import IMAGES, T, converted
from tiny_networks import network, one_thread  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import baselines
from pcsnn.analysis import count_operations, neurobench_metrics


def by_neurobench(module, neuron):
    package = pytest.importorskip("neurobench", reason="neurobench is not installed")
    assert package.__version__.startswith("2.")
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel

    model = TorchModel(module)
    model.add_activation_module(neuron)
    data = torch.utils.data.TensorDataset(IMAGES, torch.zeros(len(IMAGES), dtype=torch.int64))
    loader = torch.utils.data.DataLoader(data, batch_size=len(IMAGES))
    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations]]
    return Benchmark(model, loader, [], [], metrics).run(quiet=True)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("spike_levels", [1, 3])
@pytest.mark.parametrize("execution", ["serial", "packed", "collapsed"])
def test_equal_to_neurobench(execution, spike_levels, pruned):
    snn = converted(pruned, spike_levels)
    module, neuron = {
        "serial": lambda: (baselines.serial(snn), baselines.serial_network.SerialIF),
        "packed": lambda: (baselines.packed(snn), baselines.packed_network.PackedNeuron),
        "collapsed": lambda: (snn, pcsnn.nn.CollapsedNeuron),
    }[execution]()
    expected = by_neurobench(module, neuron)
    found = neurobench_metrics(snn, IMAGES, executions=[execution], progress=False)[execution].as_dict()
    if execution != "collapsed":  # the footprint is the converted network's
        expected.pop("Footprint")
        found.pop("Footprint")
    assert found["SynapticOperations"]["Dense"] > 0
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name


def test_spikes_are_told_from_numbers():
    snn = converted(pruned=False)
    found = neurobench_metrics(snn, IMAGES[:, :, 2:], progress=False)  # no pixel is 0
    counted = count_operations(snn, IMAGES[:, :, 2:], progress=False)
    for execution in ("serial", "packed"):
        total = counted.total(execution, repeat_input=True)
        assert found[execution].effective_acs == pytest.approx(total.accumulates, rel=1e-12)
        assert found[execution].effective_macs == pytest.approx(total.input_macs, rel=1e-12)
        assert found[execution].dense == T * found["collapsed"].dense
        assert found[execution].connection_sparsity == 0
    assert found["collapsed"].effective_acs == 0 and 0 < found["collapsed"].effective_macs < found["collapsed"].dense


def test_by_hand():
    """One linear layer behind one neuron, whose spikes are known."""
    net = network(
        lambda s, x: F.linear(s.act(s.first(x)), s.weight),
        first=nn.Linear(2, 3, bias=False),
        act=pcsnn.nn.QCFS(4, threshold=2.0),
    )
    net.weight = nn.Parameter(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    snn = pcsnn.convert(net.eval(), 4, check=False)
    x = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # spikes of 4 steps: 2 0 2 and 1 1 2
    found = neurobench_metrics(snn, x, executions="packed", progress=False)["packed"]
    assert found.activation_sparsity == 1 - 8 / 24
    assert found.effective_acs == (2 * 1 + 2 * 2 + 1 * 1 + 2 * 2) / 2
    # one pixel is 0, and each other one meets two weights that are not
    assert found.effective_macs == 4 * (2 + 4) / 2 and found.dense == 4 * (6 + 6)
    assert found.connection_sparsity == 5 / 12


def test_what_is_refused():
    snn = converted()
    with pytest.raises(ValueError, match="executions: expected some of serial, packed, collapsed, got .'float'"):
        neurobench_metrics(snn, IMAGES, executions=["float"])
    with pytest.raises(ValueError, match="executions: expected some of"):
        neurobench_metrics(snn, IMAGES, executions=[])
    with pytest.raises(TypeError, match="snn: expected a SpikingNetwork"):
        neurobench_metrics(nn.ReLU(), IMAGES)


def test_synaptic_operations_of_sinabs():
    """Synaptic operations of the parallel neuron's spikes, each spike counted as 1: sinabs' SNNAnalyzer."""
    sinabs = pytest.importorskip("sinabs", reason="sinabs is not installed")
    snn = converted(pruned=False)
    module = baselines.packed(snn)
    with pytest.warns(DeprecationWarning):
        analyzer = sinabs.SNNAnalyzer(module)
    module(IMAGES)
    theirs = analyzer.get_layer_statistics()["parameter"]
    ours = {layer.name: layer.counts["packed"] for layer in count_operations(snn, IMAGES, progress=False).layers}
    for name in ("second", "hidden", "last"):  # their mean is over T N rows, ours over N images
        assert T * theirs[f"network.{name}"]["synops"].item() == pytest.approx(ours[name].accumulates, rel=1e-5), name


@pytest.mark.parametrize("execution", ["serial", "packed"])
def test_synaptic_operations_of_spikingjelly(execution):
    counters = pytest.importorskip(
        "spikingjelly.activation_based.op_counter", reason="spikingjelly is not installed", exc_type=ImportError
    )
    snn = converted(pruned=False)
    counter = counters.SynOpCounter()
    with torch.no_grad(), counters.DispatchCounterMode([counter]):
        getattr(baselines, execution)(snn)(IMAGES)
    ours = count_operations(snn, IMAGES, progress=False).total(execution)
    assert counter.get_total() == pytest.approx(len(IMAGES) * ours.accumulates, rel=1e-9)
