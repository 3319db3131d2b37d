"""RetinaNet: torchvision's keys and counts, and its conversion on random weights."""

import pytest
import torch
from tiny_networks import one_thread, randomise  # noqa: F401
from torch import nn

import pcsnn
from pcsnn import baselines, models

IMAGES = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(0))


def test_parameters_and_keys_are_the_published_ones():
    with torch.device("meta"):
        net = models.retinanet_resnet50_fpn()
    state = net.state_dict()
    norms = sum(
        part.numel() for module in net.modules() if isinstance(module, nn.BatchNorm2d) for part in module.parameters()
    )
    # torchvision's batch norms are frozen, so that it counts them among the buffers
    assert sum(parameter.numel() for parameter in net.parameters()) - norms == 34_014_999
    for key, shape in {
        "backbone.body.layer4.2.bn3.running_var": (2048,),
        "backbone.fpn.inner_blocks.0.0.weight": (256, 512, 1, 1),
        "backbone.fpn.layer_blocks.2.0.bias": (256,),
        "backbone.fpn.extra_blocks.p6.weight": (256, 256, 3, 3),
        "backbone.fpn.extra_blocks.p7.bias": (256,),
        "head.classification_head.conv.3.0.weight": (256, 256, 3, 3),
        "head.classification_head.cls_logits.weight": (819, 256, 3, 3),
        "head.regression_head.conv.0.0.bias": (256,),
        "head.regression_head.bbox_reg.bias": (36,),
    }.items():
        assert tuple(state[key].shape) == shape, key


def test_older_files_load():
    net, other = (models.retinanet_small() for _ in range(2))
    state = dict(net.state_dict())
    for old, new in (
        *((f"backbone.fpn.{name}.{i}", f"backbone.fpn.{name}.{i}.0") for name in ("inner_blocks", "layer_blocks")
          for i in range(3)),
        *((f"head.{head}.conv.{2 * i}", f"head.{head}.conv.{i}.0")
          for head in ("classification_head", "regression_head") for i in range(4)),
    ):  # fmt: skip
        for kind in ("weight", "bias"):
            state[f"{old}.{kind}"] = state.pop(f"{new}.{kind}")
    state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("spike_levels", [1, 5])
def test_outputs_by_level_stay_and_are_lossless(spike_levels):
    net = randomise(models.retinanet_small(activation=lambda: pcsnn.nn.QCFS(4 * spike_levels))).double()
    snn = pcsnn.convert(net, 4, spike_levels=spike_levels, fold=False)
    images = IMAGES.double()
    with torch.no_grad():
        expected, found = net(images), snn(images)
    assert list(found) == ["cls_logits", "bbox_regression"]
    assert [tuple(part.shape[1:]) for part in found["cls_logits"]] == [
        (27, 8, 9), (27, 4, 5), (27, 2, 3), (27, 1, 2), (27, 1, 1)
    ]  # fmt: skip
    for name, parts in expected.items():
        for part, own in zip(found[name], parts, strict=True):
            assert torch.equal(part, own)
    assert {row.kind for row in snn.report.rows} == {"spiking", "synapse", "exact"}
    for name, parts in baselines.packed(snn)(images).items():
        for part, own in zip(parts, found[name], strict=True):
            torch.testing.assert_close(part, own, rtol=1e-9, atol=1e-9)


def test_calibrated_relu_network_saves(tmp_path):
    net = models.retinanet_small().eval()
    snn = pcsnn.convert(net, 8, calibration=IMAGES, method="max")
    pcsnn.save(snn, tmp_path / "net.safetensors")
    again = pcsnn.load(tmp_path / "net.safetensors")(IMAGES)
    for name, parts in snn(IMAGES).items():
        assert all(torch.equal(part, own) for part, own in zip(again[name], parts, strict=True))
