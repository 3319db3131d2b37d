"""A program as users write them: mypy checks it in `make lint`, and tests/house/test_types.py runs it."""

import pathlib

import torch
from torch import nn
from typing_extensions import assert_type

import pcsnn
from pcsnn import analysis, baselines, exchange, functional, models

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def operations() -> torch.Tensor:
    levels = assert_type(functional.levels(1.0, 8), torch.Tensor)
    counts = assert_type(functional.fire_counts(IMAGES, levels), torch.Tensor)
    spikes = assert_type(functional.expand_spikes(counts, 8), torch.Tensor)
    neuron = pcsnn.nn.ParallelSpikingNeuron(1.0, 8, output="counts")
    return spikes.sum(0) - neuron(IMAGES.expand(8, *IMAGES.shape))


def conversion(folder: pathlib.Path) -> torch.Tensor:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    snn = assert_type(pcsnn.convert(model, 8, calibration=[IMAGES], progress=False), pcsnn.SpikingNetwork)
    assert_type(snn.timesteps, int)
    pcsnn.save(snn, folder / "net.safetensors")
    loaded = assert_type(pcsnn.load(folder / "net.safetensors"), pcsnn.SpikingNetwork)
    with pcsnn.record(snn, device="cpu") as recording:
        output = snn(IMAGES)
    for layer, counts in recording.counts.items():
        assert_type(layer, str)
        assert_type(counts, torch.Tensor)
    with pcsnn.use_backend("reference"):
        return output - pcsnn.set_timesteps(loaded, 8)(IMAGES)


def measurement() -> analysis.Evaluation:
    model = models.vgg_small(activation=lambda: pcsnn.nn.QCFS(4)).eval()
    snn = pcsnn.optimize(pcsnn.convert(model, timesteps=4), "int8", example_inputs=torch.rand(1, 1, 28, 28))
    data = [(torch.rand(2, 1, 28, 28), torch.tensor([3, 4]))]
    return analysis.evaluate(assert_type(snn, pcsnn.SpikingNetwork), data, progress=False)


def exchanges(snn: pcsnn.SpikingNetwork) -> tuple[nn.Module, nn.Module]:
    return baselines.serial(snn), assert_type(exchange.to_qcfs(snn), torch.fx.GraphModule)
