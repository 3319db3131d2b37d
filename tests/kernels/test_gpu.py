"""The Triton kernels on a GPU, against the reference on the CPU. Skipped where there is none."""

import copy

import pytest
import tiny_networks
import torch
from gpu_free import cases, product_cases
from gpu_free.cases import CURRENTS, LAYOUTS, SPIKES, TIMESTEPS, assert_same, lay_out, name
from gpu_free.product_cases import FORMS, GEOMETRIES
from torch import nn

import pcsnn
from pcsnn import functional, reference
from pcsnn.tensors.arithmetic import per_channel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")]
SHAPES = ((3, 5, 7, 3), (2, 16, 56, 56), (1, 17, 61, 1013))
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", CURRENTS, ids=name)


@shapes
@pytest.mark.parametrize("timesteps", TIMESTEPS)
@dtypes
def test_counts_rates_and_spikes(dtype, timesteps, shape):
    generator = torch.Generator().manual_seed(timesteps)
    theta = cases.thresholds(shape[1], generator)
    scale = torch.rand(shape[1], generator=generator)
    for levels in (
        functional.levels(1.25, timesteps),
        functional.levels(theta, timesteps),
        functional.levels(theta, timesteps, quantization_levels=max(timesteps // 2, 1)),
        (functional.levels(1.0, timesteps) ** 3).sort().values,
        (functional.levels(theta, timesteps) ** 1.2).sort().values,
    ):
        current = cases.near_levels(levels, shape, dtype, generator)
        on_gpu = (current.cuda(), levels.cuda())
        by_pixel = current.contiguous(memory_format=torch.channels_last)
        for laid_out in (current, by_pixel, by_pixel):  # the last one repeats a launch
            found = functional.fire_counts(laid_out.cuda(), on_gpu[1])
            assert_same(found.cpu(), reference.fire_counts(current, levels))
            found = functional.fire_rates(laid_out.cuda(), on_gpu[1], scale.cuda())
            assert_same(found.cpu(), reference.fire_rates(current, levels, scale))
        assert_same(
            functional.fire_rates(*on_gpu, scale.cuda(), repeat=0).cpu(), reference.fire_rates(current, levels, scale)
        )
        steps = cases.trains(levels, timesteps, (1, *shape[1:]), dtype, generator)
        assert_same(functional.fire_spikes(steps.cuda(), on_gpu[1]).cpu(), reference.fire_spikes(steps, levels))


@shapes
@dtypes
def test_residual_and_in_place(dtype, shape):
    generator = torch.Generator().manual_seed(2)
    levels = functional.levels(cases.thresholds(shape[1], generator), 13)
    counts = torch.randint(256, shape, generator=generator).to(torch.uint8)
    scale = torch.rand(shape[1], generator=generator)
    branch = counts.float() * per_channel(scale, len(shape))
    current = (cases.near_levels(levels, shape, dtype, generator).float() - branch).to(dtype)
    for residual, residual_scale in ((counts, scale), (branch.to(dtype), None)):
        expected = reference.fire_rates(current, levels, scale, residual, residual_scale)
        actual = functional.fire_rates(
            current.cuda(),
            levels.cuda(),
            scale.cuda(),
            residual.cuda(),
            None if residual_scale is None else residual_scale.cuda(),
            inplace=True,
        )
        assert_same(actual.cpu(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", SPIKES, ids=name)
def test_layouts_spike_dtypes_and_amplitudes(dtype, layout):
    generator = torch.Generator().manual_seed(3)
    levels = functional.levels(cases.thresholds(5, generator), 7)
    amplitude = torch.randn(5, generator=generator) if dtype.is_floating_point else None
    worth = None if amplitude is None else amplitude.cuda()
    current = lay_out(cases.near_levels(levels, SHAPES[0], torch.float32, generator).cuda(), layout)
    steps = torch.stack([current, 2 * current, -current, current, current, current, 0.5 * current])
    spikes = functional.fire_spikes(steps, levels.cuda(), dtype, worth)
    assert_same(spikes.cpu(), reference.fire_spikes(steps.cpu(), levels, amplitude, dtype))
    counts = functional.fire_counts(current, levels.cuda())
    assert counts.stride() == torch.empty_like(current, dtype=torch.uint8).stride()
    order = torch.randperm(7, generator=generator)
    expanded = functional.expand_spikes(counts, 7, order.cuda(), dtype, worth)
    assert_same(expanded.cpu(), reference.expand_spikes(counts.cpu(), 7, order, dtype, amplitude))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [dtype for dtype in SPIKES if dtype != torch.bool], ids=name)
def test_integer_spikes(dtype, layout):
    """Steps that send 0..D (22): T D levels on a line, and bisected."""
    generator = torch.Generator().manual_seed(4)
    theta = cases.thresholds(5, generator)
    amplitude = torch.randn(5, generator=generator) if dtype.is_floating_point else None
    worth = None if amplitude is None else amplitude.cuda()
    for timesteps, spike_levels in ((1, 15), (4, 3), (17, 15)):
        order = torch.randperm(timesteps, generator=generator)
        even = functional.levels(theta, timesteps * spike_levels)
        for levels in (even, (even**3).sort().values):
            mean = lay_out(cases.near_levels(levels, SHAPES[0], torch.float32, generator).cuda(), layout)
            steps = torch.stack([mean, -mean, *[mean] * timesteps])[:timesteps]
            spikes = functional.fire_spikes(steps, levels.cuda(), dtype, worth, spike_levels=spike_levels)
            expected = reference.fire_spikes(steps.cpu(), levels, amplitude, dtype, spike_levels=spike_levels)
            assert_same(spikes.cpu(), expected)
        counts = functional.fire_counts(mean, levels.cuda())
        expanded = functional.expand_spikes(counts, timesteps, order.cuda(), dtype, worth, spike_levels)
        expected = reference.expand_spikes(counts.cpu(), timesteps, order, dtype, amplitude, spike_levels)
        assert_same(expanded.cpu(), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", (torch.int8, torch.float16, torch.bfloat16, torch.float32), ids=name)
def test_synapses_with_their_neurons(dtype, geometry):
    """Operands whose sums are exact in any order; the second call repeats the launch."""
    generator = torch.Generator().manual_seed(4)
    for i, form in enumerate(FORMS.values()):
        timesteps = product_cases.TIMESTEPS[i % len(product_cases.TIMESTEPS)]
        made = product_cases.arguments(GEOMETRIES[geometry], form, dtype, timesteps, generator)
        expected = reference.conv2d_fire(*made)
        arguments = [value.cuda() if isinstance(value, torch.Tensor) else value for value in made]
        line, reach = product_cases.searched(made)
        for _ in range(2):
            found = torch.ops.pcsnn.conv2d_fire(*arguments, timesteps, None if line is None else line.cuda(), reach)
            assert_same(found.cpu(), expected.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("dtype", (torch.int8, torch.float16, torch.bfloat16), ids=name)
def test_three_channels_of_large_images(dtype):
    """They are read by fours; the second call of a layer finds what the first one packed."""
    from pcsnn.kernels import synapses

    generator = torch.Generator().manual_seed(7)
    weight = torch.randint(-8, 8, (16, 3, 7, 7), generator=generator).to(dtype)
    levels = torch.arange(-16, 16).to(torch.int32 if dtype == torch.int8 else torch.float32) * 40
    assert 4 * 140 * 140 >= synapses.ALIGNED_FROM
    for timesteps in (32, 255):
        counts = torch.randint(timesteps + 1, (4, 3, 140, 140), generator=generator).to(torch.uint8)
        for stride, padding in ((2, 3), (1, 0)):

            def layer(*tensors):
                return functional.conv2d_fire(*tensors, stride=stride, padding=padding, timesteps=timesteps)

            with pcsnn.use_backend("reference"):
                expected = layer(counts, weight, levels)
            on_gpu = counts.cuda(), weight.cuda(), levels.cuda()
            for _ in range(2):
                assert_same(layer(*on_gpu).cpu(), expected.contiguous(memory_format=torch.channels_last))


def test_pools_of_counts():
    counts = torch.randint(256, (2, 17, 11, 12), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    geometry = [3, 2], [2, 1], [1, 1], [1, 2], [6, 12]
    for kind in ("max_pool2d", "sum_pool2d"):
        found = getattr(torch.ops.pcsnn, kind)(counts.cuda(), *geometry)
        expected = getattr(reference, kind)(counts, *geometry)
        assert_same(found.cpu(), expected.contiguous(memory_format=torch.channels_last))


def test_operators_pass_opcheck():
    current, levels = torch.randn(2, 3, 8, 8, device="cuda"), functional.levels(1.0, 4).cuda()
    steps, scale = torch.randn(4, 2, 3, 8, device="cuda"), torch.tensor(0.25, device="cuda")
    counts = torch.randint(5, (2, 3, 8), device="cuda").to(torch.uint8)
    pcsnn = torch.ops.pcsnn
    torch.library.opcheck(pcsnn.fire_counts.default, (current, levels, None, None, 1))
    torch.library.opcheck(pcsnn.fire_rates.default, (current, levels, scale, None, None, 1))
    torch.library.opcheck(pcsnn.fire_rates_.default, (current.clone(), levels, scale, None, None, 1))
    torch.library.opcheck(pcsnn.fire_spikes.default, (steps, levels, None, torch.uint8, 1))
    torch.library.opcheck(pcsnn.expand_spikes.default, (counts, 4, None, torch.float16, scale))
    torch.library.opcheck(pcsnn.fire_spikes.default, (steps[:2], levels, None, torch.uint8, 1, None, 0, 2))
    torch.library.opcheck(pcsnn.expand_spikes.default, (counts, 4, None, torch.float16, scale, 7))


def fired(snn, x):
    """{layer: counts}, on the CPU, of a network wherever it is."""
    device = next(snn.neurons())[1].levels.device
    with torch.no_grad(), pcsnn.record(snn, device="cpu") as recording:
        snn(*(part.to(device) for part in x))
    return recording.counts


def assert_fires_on_gpu(snn, expected, x):
    """That all of a network is on a GPU and fires as expected, but where currents round across a level."""
    assert all(value.is_cuda for value in (*snn.parameters(), *snn.buffers()))
    found = fired(snn, x)
    assert found.keys() == expected.keys()
    wrong = sum(int((counts != expected[name]).sum()) for name, counts in found.items())
    assert wrong <= max(2, 0.01 * sum(counts.numel() for counts in expected.values()))


@pytest.mark.parametrize("method", ["none", "quick", "light"])
@pytest.mark.parametrize("name", tiny_networks.NETWORKS)
def test_tiny_networks_made_there_and_moved_there(name, method, monkeypatch):
    if method == "light" and list(tiny_networks.NETWORKS).index(name) % 4:
        pytest.skip("every fourth network")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    net = tiny_networks.build(name, *([] if method == "none" else [nn.ReLU]))
    x, data = tiny_networks.inputs(name), tiny_networks.inputs(name, batch=24)
    options = dict(method=method, progress=False, strict=False)
    on_host = pcsnn.convert(net, 8, calibration=[data], **options)
    expected = fired(on_host, x)
    on_gpu = pcsnn.convert(copy.deepcopy(net).cuda(), 8, calibration=[tuple(part.cuda() for part in data)], **options)
    assert_fires_on_gpu(on_gpu, expected if method == "none" else fired(copy.deepcopy(on_gpu).cpu(), x), x)
    moved = copy.deepcopy(on_host).cuda()
    assert_fires_on_gpu(moved, expected, x)
    for weights in ("float32", "bfloat16", "int8"):
        optimised = pcsnn.optimize(on_host, weights, example_inputs=x)
        expected = fired(optimised, x)
        assert_fires_on_gpu(copy.deepcopy(optimised).cuda(), expected, x)
        made_there = pcsnn.optimize(moved, weights, example_inputs=tuple(part.cuda() for part in x))
        assert_fires_on_gpu(made_there, expected, x)
