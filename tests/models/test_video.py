"""R3D: torchvision's keys and counts, and its conversion on random weights."""

import pytest
import torch
from tiny_networks import one_thread, randomise  # noqa: F401

import pcsnn
from pcsnn import baselines, models

VIDEO = torch.rand(2, 3, 4, 20, 24, generator=torch.Generator().manual_seed(0))


def test_parameters_and_keys_are_the_published_ones():
    with torch.device("meta"):
        net = models.r3d_18()
    state = net.state_dict()
    assert sum(parameter.numel() for parameter in net.parameters()) == 33_371_472
    for key, shape in {
        "stem.0.weight": (64, 3, 3, 7, 7),
        "stem.1.running_mean": (64,),
        "layer1.1.conv2.0.weight": (64, 64, 3, 3, 3),
        "layer2.0.conv1.1.bias": (128,),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1, 1),
        "layer4.0.downsample.1.num_batches_tracked": (),
        "fc.weight": (400, 512),
    }.items():
        assert tuple(state[key].shape) == shape, key


@pytest.mark.parametrize("spike_levels", [1, 5])
def test_conversion_is_lossless(spike_levels):
    net = randomise(models.r3d_small(activation=lambda: pcsnn.nn.QCFS(4 * spike_levels))).double()
    snn = pcsnn.convert(net, 4, spike_levels=spike_levels, fold=False)
    video = VIDEO.double()
    with torch.no_grad():
        assert torch.equal(snn(video), net(video))
    assert {row.kind for row in snn.report.rows} == {"spiking", "synapse", "exact"}
    torch.testing.assert_close(baselines.packed(snn)(video), snn(video), rtol=1e-9, atol=1e-9)


def test_calibrated_relu_network_saves(tmp_path):
    snn = pcsnn.convert(models.r3d_small().eval(), 8, calibration=VIDEO, method="max")
    pcsnn.save(snn, tmp_path / "net.safetensors")
    assert torch.equal(pcsnn.load(tmp_path / "net.safetensors")(VIDEO), snn(VIDEO))
